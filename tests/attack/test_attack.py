"""A part of each kind of attack, and the judge of what comes of it."""

import random
import time

import pytest

from attack.__main__ import attempt
from attack.catalogue import KINDS
from attack.outcomes import FAILURES, Ending, Outcome, call, judge, run
from vit_jax.data import label_table

# As many as take a second or two; `make attack` tries all.
SAMPLES = {
    "texts": 150,
    "objects": 100,
    "by hand": 12,
    "edges": 2,
    "damages": 3,
    "folders": 0,
    "bits": 100,
    "images": 12,
    "tables": 12,
    "weights damaged": 15,
    "weights tensors": 10,
    "weights headers": 15,
    "weights configs": 15,
    "places": 15,
    "flags": 15,
}
# What each of them found once, and is tried always.
FOUND = {
    "by hand": (
        *("model.width=1000000000", "model.attention_implementation=cudnn"),
        *(
            "data.num_threads=999999999",
            "fewshot.every=2steps fewshot.seeds=1000000000",
        ),
        *("exits", "a key", "config: config = type(config)()"),
    ),
    "damages": (
        *("checkpoints/4/manifest.json: a FIFO in its place", "metrics.jsonl: missing"),
    ),
    "folders": ("checkpoints/'\u0667' empty",),
    "tables": ("a quote that is not closed, found", "a FIFO, named"),
    "weights headers": ("w.npz: a pickle", "w.safetensors: a config nested deeply"),
    "weights damaged": ("w.pth: a flipped bit",),
    "weights tensors": ("w.npz: one NaN",),
    "places": ("check, place 2", "prepare, place 0", "photos, place 2"),
    "flags": (
        "vit_jax.checkpoints --keep-every=-1",
        "vit_jax.predict --top=999999999999",
        "vit_jax.data.check --sample=999999999999",
    ),
}
REFUSED = Ending(1, "error: depth is -1: wanted more")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_of_each_kind(name):
    attacks = list(KINDS[name]())
    chosen = random.Random(1).sample(attacks, SAMPLES[name])
    always = [attack for attack in attacks if attack.name in FOUND.get(name, ())]
    assert {attack.name for attack in always} == set(FOUND.get(name, ()))
    for attack in (*always, *chosen):
        outcome, text = attempt(attack)
        assert outcome in attack.good, f"{attack.name}: {outcome.value}: {text}"


@pytest.mark.parametrize(
    ("ending", "facts", "outcome"),
    [
        (REFUSED, {"names": ("depth",)}, Outcome.REFUSED),
        (REFUSED, {"names": ("width",)}, Outcome.UNCLEAR),
        (Ending(1, "error: depth\nand more"), {"names": ("depth",)}, Outcome.UNCLEAR),
        (Ending(1, ""), {}, Outcome.UNCLEAR),
        (Ending(1, "error: they differ:\n  depth: 1\nTake 2"), {}, Outcome.REFUSED),
        (Ending(1, "error: they differ\n  depth: 1\nTake 2"), {}, Outcome.UNCLEAR),
        (Ending(1, "error: they differ:\ndepth: 1\nTake 2"), {}, Outcome.UNCLEAR),
        (Ending(0, "fine"), {}, Outcome.SAME),
        (Ending(0, "fine"), {"same": False}, Outcome.SILENT),
        (Ending(0, "3 left out"), {"same": False, "told": "left out"}, Outcome.TOLD),
        (Ending(1, "Traceback (most recent call last)"), {}, Outcome.TRACEBACK),
        (Ending(1, "error: a", trace="KeyError"), {}, Outcome.TRACEBACK),
        (Ending(None, "step 1"), {}, Outcome.HANG),
        (Ending(0, "fine", grown=5000), {}, Outcome.MEMORY),
    ],
)
def test_the_judge(ending, facts, outcome):
    assert judge(ending, **facts)[0] is outcome
    is_failure = outcome not in (Outcome.REFUSED, Outcome.TOLD, Outcome.SAME)
    assert (outcome in FAILURES) == is_failure


def test_attacks_that_succeed_are_seen(monkeypatch):
    attacks = {attack.name: attack for attack in KINDS["tables"]()}
    assert attempt(attacks["as it is, named"])[0] is Outcome.SAME
    assert attempt(attacks["a path up, named"])[0] is Outcome.TOLD
    assert attempt(attacks["tabs, named"])[0] is Outcome.REFUSED
    # A reader that takes all for a cat, one that breaks, and one that has no end.
    for broken, outcome in (
        (lambda *_: [("cat",)] * 8, Outcome.SILENT),
        (lambda *_: {}["key"], Outcome.TRACEBACK),
        (lambda *_: time.sleep(9), Outcome.HANG),
    ):
        monkeypatch.setattr(label_table, "_texts", broken)
        monkeypatch.setattr(call, "__defaults__", (0.3,))
        assert attempt(attacks["as it is, named"])[0] is outcome


def test_an_error_after_something_was_begun_is_late(tmp_path):
    assert judge(REFUSED, begun=(tmp_path,))[0] is Outcome.LATE
    assert judge(REFUSED, begun=(tmp_path / "run",))[0] is Outcome.REFUSED


def test_commands_and_calls_are_stopped_in_time():
    assert call(lambda: time.sleep(9), limit=0.1).code is None
    assert call(lambda: {}["key"]).trace.endswith("KeyError: 'key'\n")
    assert call(lambda: int("x")).error.startswith("invalid literal")
    ending = run("vit_jax.train", "--config", "nothing", "--workdir", "nowhere")
    assert ending.code == 1 and "no such file, nor a config" in ending.error
