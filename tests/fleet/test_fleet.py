"""Fleets: the numbers of an ordinary run, many at once, in the same folders."""

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax.checkpoints import integrity
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.data.pipeline import Data
from vit_jax.fleet import __main__ as fleet_command
from vit_jax.fleet import loop, training
from vit_jax.fleet.member import FAILURE, Member
from vit_jax.fleet.program import Inputs, make_program, program_key
from vit_jax.interop.trained import load_trained
from vit_jax.storage.run_files import read_metrics
from vit_jax.training.loop import Interrupted, exit_on_interrupt, train

# Nothing random on the way to the model: then a fleet has the numbers of `train`.
TINY = (
    "model.depth=1",
    "model.width=16",
    "model.mlp_dim=32",
    "model.num_heads=2",
    "model.stochastic_depth_rate=0.0",
    "data.batch_size=32",
    "data.crop=resize",
    "data.flip=off",
    "optim.warmup=2steps",
    "train.duration=8steps",
    "eval.every=4steps",
    "checkpoint.every=3steps",
    "log.every=1steps",
    "log.tensorboard=false",
)


def tiny(*overrides: str):
    overrides = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", overrides)


def grid():
    """Two seeds, each at two learning rates and weight decays."""
    return [
        tiny(f"seed={seed}", f"optim.learning_rate={rate}", f"optim.weight_decay={wd}")
        for seed in (0, 1)
        for rate, wd in ((2e-3, 0.1), (1e-2, 0.0))
    ]


def folders(root: Path) -> list[Path]:
    return [root / f"run{i}" for i in range(4)]


def params(folder: Path):
    return jax.tree.map(np.asarray, load_trained(folder).params)


def rows(folder: Path) -> list[dict]:
    """The metrics, less the speed."""
    kept = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("/s")} for row in kept]


def assert_close(ours: dict, theirs: dict, rel: float) -> None:
    assert ours["split"] == theirs["split"]
    numbers = [{k: v for k, v in r.items() if k != "split"} for r in (ours, theirs)]
    assert numbers[0] == pytest.approx(numbers[1], rel=rel)


def assert_same_runs(first: Path, second: Path, numbers=range(4)) -> None:
    for number in numbers:
        one, other = first / f"run{number}", second / f"run{number}"
        jax.tree.map(np.testing.assert_array_equal, params(one), params(other))
        assert rows(one) == rows(other)


def side_by_side(root: Path, configs=None):
    """All four in one dispatch of at most 3 steps."""
    return training.train_fleet(
        configs or grid(), folders(root), members_at_once=4, steps_per_dispatch=3
    )


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """The root and the results of the grid, one run at a time."""
    root = tmp_path_factory.mktemp("singles")
    return root, training.train_fleet(
        grid(), folders(root), members_at_once=1, steps_per_dispatch=1
    )


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The root and the results of the grid, side by side."""
    root = tmp_path_factory.mktemp("together")
    return root, side_by_side(root)


# --- the numbers ---


def test_a_run_of_a_fleet_is_that_of_the_trainer(singles, tmp_path):
    root, results = singles
    expected = train(grid()[1], tmp_path)
    assert results[1]["test"] == pytest.approx(expected["test"], rel=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5),
        params(root / "run1"),
        params(tmp_path),
    )
    ours, theirs = rows(root / "run1"), rows(tmp_path)
    evaluated = [r["step"] for r in ours if r["split"] == "test"]
    assert evaluated == [4, 8] == [r["step"] for r in theirs if r["split"] == "test"]
    assert_close(ours[-1], theirs[-1], rel=1e-5)
    assert [r["step"] for r in ours if r["split"] == "train"] == [*range(1, 9)]
    # The trainer writes the mean of what was fetched since its last row.
    mean = np.mean([r["learning_rate"] for r in ours if r["split"] == "train"][-2:])
    assert theirs[-2]["learning_rate"] == pytest.approx(mean, rel=1e-5)
    assert ours[-2].keys() == theirs[-2].keys()
    files = {p.name for p in tmp_path.iterdir()}
    assert {p.name for p in (root / "run1").iterdir()} == files
    for step in ("6", "8"):
        assert (root / "run1" / "checkpoints" / step).is_dir()


def test_side_by_side_and_one_by_one_agree(singles, together):
    assert len({str(result) for result in singles[1]}) == 4
    for folder in folders(Path()):
        for ours, theirs in zip(
            rows(singles[0] / folder), rows(together[0] / folder), strict=True
        ):
            assert_close(ours, theirs, rel=2e-3)


def test_the_trainer_goes_on_with_a_run_of_a_fleet(together, tmp_path):
    shutil.copytree(together[0] / "run1", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    results = train(grid()[1], tmp_path / "run")
    assert results["test"] == pytest.approx(together[1][1]["test"], rel=1e-3)


@pytest.mark.usefixtures("singles")
def test_sizes_and_lengths_of_the_data_need_no_other_program(tmp_path):
    config = grid()[0]
    program = make_program(program_key(config), 10, 1, 1)
    before = program.run._cache_size()
    assert before == 1
    short = tiny("data.split=train[:20%]", "train.duration=2steps", "eval.every=2steps")
    training.train_fleet([short], [tmp_path], steps_per_dispatch=1)
    assert program.run._cache_size() == before
    assert rows(tmp_path)[-1]["step"] == 2


def test_warm_start(singles, tmp_path):
    start = singles[0] / "run2"
    config = tiny(f"init={start}", "optim.learning_rate=0.0", "train.duration=2steps")
    training.train_fleet([config], [tmp_path])
    jax.tree.map(np.testing.assert_array_equal, params(tmp_path), params(start))


@pytest.mark.full
def test_averages_and_evaluators_are_those_of_the_trainer(tmp_path):
    config = tiny(
        "train.ema_decay=0.5",
        "train.duration=4steps",
        "fewshot.every=2steps",
        "fewshot.shots=3,",
        "fewshot.batch_size=100",
        "checkpoint.best_weights=ema",
    )
    expected = train(config, tmp_path / "train")
    (results,) = training.train_fleet([config], [tmp_path / "fleet"])
    names = {"test", "test_ema", "fewshot", "fewshot_ema"}
    assert results.keys() == expected.keys() == names
    for name, values in expected.items():
        assert results[name] == pytest.approx(values, rel=1e-5)
    steps = [r["step"] for r in rows(tmp_path / "fleet") if r["split"] == "fewshot"]
    assert steps == [2, 4]
    saved = integrity.read_metrics(tmp_path / "fleet" / "checkpoints" / "4")
    assert saved["loss"] == results["test_ema"]["loss"] != results["test"]["loss"]
    (again,) = training.train_fleet([config], [tmp_path / "fleet"])
    assert again == results


# --- interruptions ---


def test_an_interrupted_fleet_goes_on_to_the_same_bits(together, tmp_path, monkeypatch):
    asked = []

    def stop(clock):
        asked.append(clock)
        return "deadline" if len(asked) == 3 else ""

    with monkeypatch.context() as patch:
        patch.setattr(loop.Clock, "stop", stop)
        # `stop` is called before the group, then after steps 3 and 4.
        with pytest.raises(Interrupted, match="deadline at step 4 of 8"):
            side_by_side(tmp_path)
    for folder in folders(tmp_path):
        assert (folder / "checkpoints" / "4").is_dir()
    # The state of the folders after a kill during the saves.
    shutil.rmtree(tmp_path / "run2" / "checkpoints" / "4")
    results = side_by_side(tmp_path)
    assert_same_runs(tmp_path, together[0])
    assert results == together[1]


def test_a_signal_saves(tmp_path, monkeypatch):
    accept = Member.accept

    def killed(member, step, row, speed):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        accept(member, step, row, speed)

    monkeypatch.setattr(Member, "accept", killed)
    # The second step was under way.
    with pytest.raises(Interrupted, match="SIGTERM at step 2 of 8"):
        training.train_fleet(grid(), folders(tmp_path), steps_per_dispatch=1)
    assert (tmp_path / "run0" / "checkpoints" / "2").is_dir()
    assert not (tmp_path / "run1").exists()


def test_a_deadline_stops_in_time_and_asks_to_be_started_again(tmp_path):
    with pytest.raises(SystemExit) as stop, exit_on_interrupt("-m", "vit_jax.fleet"):
        training.train_fleet(grid(), folders(tmp_path), deadline=time.monotonic() - 1)
    assert stop.value.code == 75
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_finished_runs_are_read_back(together, monkeypatch):
    monkeypatch.setattr(training, "make_program", None)
    assert side_by_side(together[0]) == together[1]
    with pytest.raises(ConfigError, match="was begun with another config"):
        side_by_side(together[0], [tiny("optim.momentum=0.8")] * 4)


def test_a_run_that_diverges_stops_alone(together, tmp_path, capsys):
    configs = grid()
    configs[2].optim.learning_rate = 1e30
    results = side_by_side(tmp_path, configs)
    assert results[2] == {}
    assert results[:2] + results[3:] == together[1][:2] + together[1][3:]
    assert_same_runs(tmp_path, together[0], (0, 1, 3))
    failure = (tmp_path / "run2" / FAILURE).read_text()
    assert "stopped by loss is nan at step" in failure
    assert rows(tmp_path / "run2")[-1]["split"] == "fault"
    out = capsys.readouterr().out
    assert "run2: stopped by loss is nan" in out
    assert "fleet 1/1: digits: 1,438 images in train, " in out
    # It is not tried again, until something is changed.
    before = rows(tmp_path / "run2")
    assert side_by_side(tmp_path, configs)[2] == {}
    assert rows(tmp_path / "run2") == before
    configs[2].guard.policy = "stop"
    configs[2].optim.learning_rate = grid()[2].optim.learning_rate
    shutil.rmtree(tmp_path / "run2" / "checkpoints")
    assert side_by_side(tmp_path, configs) == together[1]
    assert not (tmp_path / "run2" / FAILURE).exists()


# --- what may go together ---


def test_what_a_fleet_cannot_do_is_named(tmp_path):
    for override, message in (
        ("data.randaug_layers=2", "a fleet needs data.randaug_layers=0, and it is 2"),
        ("guard.policy=rollback", "guard.policy='stop', and it is 'rollback'"),
        ("mesh.fsdp=2", "one device"),
    ):
        config = tiny(override)
        assert message in training.why_not(config)
        with pytest.raises(ConfigError, match=f"{tmp_path}: .*; train it with"):
            training.train_fleet([config], [tmp_path])
    assert training.why_not(tiny()) == ""
    with pytest.raises(ValueError, match="one folder for each config, each another"):
        training.train_fleet([tiny(), tiny()], [tmp_path, tmp_path])


def test_configs_that_differ_in_arguments_have_one_key():
    key = training.fleet_key(tiny())
    for same in ("seed=3", "optim.schedule=linear", "data.split=train[:9%]", "init=x"):
        assert training.fleet_key(tiny(same)) == key
    scrambled = [f"data.scramble=pixels data.scramble_patch={n}" for n in (4, 8)]
    others = ["model.depth=2", "optim.clip_norm=2.0", "data.flip=on"]
    others += ["data.object_size=8", *scrambled]
    keys = {training.fleet_key(tiny(*other.split())) for other in others}
    assert len(keys | {key}) == len(others) + 1


def test_groups_are_even_and_do_not_depend_on_what_is_done():
    configs = [tiny(f"seed={seed}") for seed in range(5)] + [tiny("model.depth=2")]
    members = [Member(config, Path("none")) for config in configs]
    plan = training.groups(members, at_once=4)
    assert [(len(group), slots) for group, slots in plan] == [(3, 3), (2, 3), (1, 1)]


def test_the_table_has_means_over_seeds():
    results = [{"test": {"accuracy": a, "loss": 1.0}} for a in (0.5, 0.7, 0.25)] + [{}]
    lines = fleet_command.table([1e-3, 1e-2], 2, results).splitlines()
    assert lines[0] == "| learning rate | test |"
    assert lines[2] == "| 0.001 | 60.00 ± 14.14 % |"
    assert lines[3] == "| 0.01 | 25.00 % (1 of 2 runs stopped) |"


def test_every_key_of_the_data_is_accounted_for():
    """So that a new augmentation is not left out without a word."""
    options = {field.name for field in dataclasses.fields(Data) if field.init}
    reading = "name split classes label data_dir stage holdout cache workers"
    evaluation = "num_threads eval_crop eval_resize eval_interpolation max_errors"
    here = "batch_size image_size crop crop_area crop_resize flip randaug_magnitude"
    here += " randaug_variant object_size scramble scramble_patch"
    known = {*reading.split(), *evaluation.split(), *here.split()}
    refused = {key.removeprefix("data.") for key in training.ORDINARY}
    assert options - known <= refused


def test_other_objectives_go_the_same_way():
    config = tiny("objective.name=masked_patch", "model.name=ViT-mu/4")
    program = make_program(program_key(config), 10, 2, 3)
    batch = {
        "image": np.zeros((3, 2, 32, 16, 16, 3), np.uint8),
        "label": np.zeros((3, 2, 32), np.int32),
    }
    keys = jax.eval_shape(jax.vmap(program.make_keys), np.zeros(2, np.int32))
    states = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), program.state
    )
    inputs = Inputs(batch, np.zeros((3, 2), np.float32))
    states, rows = jax.eval_shape(
        program.run, states, inputs, keys, np.zeros(2, np.float32), 3
    )
    assert rows["loss"].shape == (3, 2)
    assert "mask_token" in states.params and "head" not in states.params
