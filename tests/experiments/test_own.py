"""Arms and measures of one's own beside those of an experiment."""

import argparse
import json

import pytest

from experiments.lab import command
from experiments.lab.frame import Arm
from experiments.lab.own import load_own, own_experiment
from tests.experiments.test_grid import LAB, experiment

OWN = """
import jax

from experiments.lab.frame import Arm


def arms(scale):
    lab = f"configs/lab.py:family=vit,scale={scale}"
    return {"rotary": Arm(lab, {"model.positions": "rope2d"})}


def parameters(trained):
    return sum(leaf.size for leaf in jax.tree.leaves(trained.params))


MEASURES = {"parameters": parameters}
"""


def test_arms_and_measures_of_ones_own_have_a_table(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(
        ["--scale=smoke", f"--root={tmp_path}", f"--own={tmp_path / 'own.py'}"]
    )
    judged = []

    def conclude(results):
        judged.extend(results.configs)
        return command.Conclusion()

    one = experiment({"learned": Arm(LAB)})._replace(conclude=conclude)
    command.run_experiment("one", one, arguments)
    assert judged == ["learned"]
    result = json.loads((tmp_path / "smoke" / "one" / "result.json").read_text())
    (table,) = result["tables"]
    assert table["columns"] == [
        *("arm", "whose", "accuracy (%)", "few-shot accuracy (%)", "parameters")
    ]
    assert [row[:2] for row in table["rows"]] == [
        ["learned", "the experiment's"],
        ["rotary", "one's own"],
    ]
    sizes = [row[-1]["mean"] for row in table["rows"]]
    # The table of 64 positions of width 16.
    assert sizes[0] - sizes[1] == 64 * 16
    assert set(result["overrides"]) == {"learned"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "wanted `arms\\(scale\\)` or `MEASURES`"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_adds_nothing(tmp_path, text, sentence):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=f"own.py: {sentence}"):
        load_own(str(tmp_path / "own.py"))


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match="--own=absent.py: there is no such file"):
        load_own("absent.py")


def test_an_arm_has_a_name_of_its_own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = load_own(str(tmp_path / "own.py"))
    one = experiment({"rotary": Arm(LAB)})
    with pytest.raises(ValueError, match="has arms named rotary: rename"):
        own_experiment(one, own, "smoke")
