"""A checkpoint that `--data` names, and features that are computed once."""

import dataclasses

import numpy as np
import pytest

from experiments import head_start
from experiments.lab import frozen
from experiments.lab.grid import collect, plan_runs
from vit_jax.evaluation.knn import knn_accuracy
from vit_jax.interop.trained import load_trained


def planned(root, data):
    return plan_runs(head_start.EXPERIMENT, "mini", root, data)


def test_without_the_checkpoint_its_arms_are_left_out(tmp_path):
    runs = planned(tmp_path, {})
    labels = {run.label for run in runs}
    assert head_start.label(head_start.SCRATCH, 0) in labels
    assert not any(label.startswith(head_start.TUNED) for label in labels)
    # Nothing has been trained either.
    conclusion = head_start.conclude(collect(runs, "mini", tmp_path, {}))
    assert conclusion.status.startswith("not run: needs the pre-trained ViT-S/14: make")
    assert not conclusion.claims


def test_another_place_of_the_checkpoint_is_the_same_run(tmp_path):
    first, second = (
        {
            run.label: run
            for run in planned(tmp_path, {head_start.CHECKPOINT: folder})
            if run.label.startswith(head_start.TUNED)
        }
        for folder in ("/here", "/there")
    )
    assert len(first) == 3
    for label, run in first.items():
        assert run.config.init == "/here" and second[label].config.init == "/there"
        assert run.folder == second[label].folder
    # Another checkpoint, or none, is another run.
    scratch = [run.folder for run in planned(tmp_path, {})]
    assert not {run.folder for run in first.values()} & set(scratch)


def test_choices_of_images_have_none_in_common():
    splits = [
        head_start.changes("mini", start, choice)["data.split"]
        for choice in range(3)
        for start in (head_start.TUNED, head_start.SMALL)
    ]
    assert splits[::2] == splits[1::2]
    assert splits[::2] == ["train[0:1000]", "train[1000:2000]", "train[2000:3000]"]


def test_features_are_computed_once_for_each_checkpoint(
    digits_run, tmp_path, monkeypatch
):
    run = load_trained(digits_run)
    first = frozen.kept_features(run, "test", tmp_path)
    assert first.features.dtype == np.float32
    assert len(first.features) == run.data.num_examples("test")

    def refuse(*_, **__):
        raise AssertionError("computed once more")

    monkeypatch.setattr(frozen.Extractor, "__call__", refuse)
    again = frozen.kept_features(run, "test", tmp_path)
    for kept, computed in zip(again, first, strict=True):
        np.testing.assert_array_equal(kept, computed)
    cropped = dataclasses.replace(run.data, eval_crop="resize_center_crop")
    others = [load_trained(digits_run, ema=True), run._replace(data=cropped)]
    for other in others:
        with pytest.raises(AssertionError, match="computed once more"):
            frozen.kept_features(other, "test", tmp_path)


def test_readings_are_those_of_the_library(digits_run, tmp_path):
    run = load_trained(digits_run)
    found = frozen.readings(run, (1, 5), 2, tmp_path)
    assert set(found) == {"1shot/0", "1shot/1", "5shot/0", "5shot/1", "knn", "probe"}
    train, test = (frozen.kept_features(run, s, tmp_path) for s in ("train", "test"))
    knn = knn_accuracy(*train[:2], *test[:2], num_classes=10)
    assert found["knn"] == pytest.approx(float(knn))
    assert found["probe"] > found["5shot/0"] > 0.1


def test_the_number_of_seeds_is_that_of_the_choices_of_images(tmp_path):
    def choices(seeds: int) -> set[str]:
        runs = plan_runs(head_start.EXPERIMENT, "mini", tmp_path, {}, seeds)
        return {run.label for run in runs if run.label.startswith(head_start.SCRATCH)}

    assert [len(choices(seeds)) for seeds in (0, 2, 5)] == [3, 2, 5]
    with pytest.raises(ValueError, match="got 6 seeds, wanted at most 5"):
        choices(6)


def test_choices_of_images_are_compared_within_each():
    """Choices differ by more than what the checkpoint adds in each."""
    of_choice = np.array([0.2, 0.5, 0.8])
    gain = np.array([0.09, 0.1, 0.11])
    ours, theirs = (of_choice + gain).tolist(), of_choice.tolist()
    few = {head_start.TUNED: [ours] * 4, head_start.SCRATCH: [theirs] * 4}
    # A choice that one start lacks is left out of all.
    tuned = {
        head_start.TUNED: dict(enumerate(ours)),
        head_start.SCRATCH: {**dict(enumerate(theirs)), 3: 1.0},
        head_start.SMALL: dict(enumerate(ours)),
    }
    found = head_start.claims(few, tuned, [0.2, 0.5, 0.8], 100)
    assert [claim.verdict for claim in found] == ["supported"] * 6 + ["undecided"]
    assert "within choices of images" in found[4].numbers
    assert "Welch" in found[-1].numbers
