"""The analysis command: pictures and numbers of a checkpoint."""

import argparse
import json

import numpy as np
import pytest

from vit_jax.analysis.__main__ import main
from vit_jax.checkpoints.store import CheckpointError
from vit_jax.interop.trained import load_trained


def arguments(run, output, **changes) -> argparse.Namespace:
    options = dict(
        checkpoint=str(run),
        images=None,
        split="test",
        count=16,
        image_size=None,
        initial=True,
        layers=False,
        radius=False,
        output=str(output),
    )
    return argparse.Namespace(**(options | changes))


def test_pictures_and_numbers_of_a_run(digits_run, tmp_path, capsys):
    main(arguments(digits_run, tmp_path))
    facts = json.loads((tmp_path / "profile.json").read_text())
    trained, initial = facts["profiles"].values()
    assert facts["images"] == 16
    assert trained["attention_ratio/mean"] != initial["attention_ratio/mean"]
    assert 0 <= trained["accuracy"] <= 1
    names = ("filters", "position_similarity", "attention_distance", "rollout")
    for name in names:
        for kind in ("png", "svg", "csv"):
            assert (tmp_path / f"{name}.{kind}").stat().st_size > 0
    table = capsys.readouterr().out
    assert "| measure | checkpoint | at initialisation |" in table
    assert "block_" not in table


@pytest.mark.parametrize("changes", [{"split": None}, {"images": ["folder"]}])
def test_images_or_a_split(digits_run, tmp_path, changes):
    with pytest.raises(ValueError, match="--images .* or --split"):
        main(arguments(digits_run, tmp_path, **changes))


def test_a_step_of_a_run(digits_run):
    assert load_trained(digits_run, step=4).step == 4
    with pytest.raises(CheckpointError, match="no step 3; it has .*4"):
        load_trained(digits_run, step=3)


def test_accuracy_by_radius_and_layer(digits_run, tmp_path, capsys):
    main(arguments(digits_run, tmp_path, initial=False, radius=True))
    facts = json.loads((tmp_path / "profile.json").read_text())
    found = facts["radius"]
    assert found["measure"] == "accuracy"
    assert found["whole"] == pytest.approx(facts["profiles"]["checkpoint"]["accuracy"])
    # A line for each of two layers, and one for both.
    assert np.shape(found["values"]) == (3, len(found["radii"]))
    table = capsys.readouterr().out
    assert "| accuracy, limit in | radius 0 | radius 1 |" in table
    assert f"| all layers | {found['values'][2][0]:.3f} |" in table
    rows = (tmp_path / "radius.csv").read_text().splitlines()
    assert rows[0] == "layer,radius,accuracy" and len(rows) == 1 + 3 * len(
        found["radii"]
    )
    assert (tmp_path / "radius.png").stat().st_size > 0
