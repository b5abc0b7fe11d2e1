"""Damages of the files of a run, and what its readers make of them.

Noticed, with the older step taken, or refused: never another result in silence.
"""

import functools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from faults.processes import final_state

from attack.configs import train_command
from attack.harm import DAMAGES, Damage, flip
from attack.outcomes import Attack, Outcome, call, judge, run
from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.integrity import MANIFEST, METADATA
from vit_jax.interop.trained import load_trained
from vit_jax.storage import lock
from vit_jax.storage.lock import LOCK
from vit_jax.storage.run_files import CONFIG, METRICS

TOLD = r"DAMAGED|damaged|cannot be read|is taken|left out|have changed|are not in it"
OVERRIDES = ("eval.every=2steps", "checkpoint.every=2steps", "log.every=1steps")


class Known(NamedTuple):
    """What a run holds: parameters by step, as bytes, and the end."""

    folder: Path
    params: dict[int, bytes]
    names: tuple[str, ...]
    end: dict[str, bytes]
    rows: list[Any]


@functools.cache
def whole() -> Known:
    """A run of four steps, with a checkpoint at 2 and at 4, that was left alone."""
    base = Path(tempfile.mkdtemp(prefix="attack-"))
    ending = train_command(base, *OVERRIDES)
    assert ending.code == 0, ending
    folder = base / "run"
    params = {step: as_bytes(load_trained(folder, step=step)) for step in (2, 4)}
    names = load_trained(folder).label_names
    return Known(folder, params, names, final_state(folder), rows(folder))


def as_bytes(trained: Any) -> bytes:
    leaves = jax.tree.leaves(trained.params)
    return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)


def rows(folder: Path) -> list[Any]:
    """The rows of metrics, without times."""
    lines = (folder / METRICS).read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in lines]
    timed = ("steps/s", "images/s")
    return [{k: v for k, v in row.items() if k not in timed} for row in found]


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(whole().folder, folder / "run"))


def tree(folder: Path) -> dict[Path, object]:
    """Paths in a folder, with the bytes of files, and what else they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_plain = path.is_file() and not path.is_symlink()
        found[path] = path.read_bytes() if is_plain else path.lstat().st_mode
    return found


def load(folder: Path) -> tuple[Outcome, str]:
    """Loads a run, and compares with what each step had."""
    found = {}

    def act() -> None:
        trained = load_trained(folder)
        found["params"], found["names"] = as_bytes(trained), trained.label_names

    ending = call(act)
    known = whole()
    params, names = found.get("params"), found.get("names")
    same = names == known.names and params == known.params[4]
    older = names == known.names and params == known.params[2]
    told = TOLD if older or same else ""
    return judge(ending, names=(str(folder),), same=same, told=told)


def resume(folder: Path) -> tuple[Outcome, str]:
    """Goes on with a run, and compares its end, metrics included."""
    kept, lock.SILENCE = lock.SILENCE, 0.2
    try:
        ending = train_command(folder.parent, *OVERRIDES)
    finally:
        lock.SILENCE = kept
    same = False
    if ending.code == 0:
        same = final_state(folder) == whole().end
        told = "" if not same else TOLD
        try:
            same = same and rows(folder) == whole().rows
        except ValueError:
            same = False
        return judge(ending, same=same, told=told)
    return judge(ending, names=(str(folder),), same=same)


def evaluate(folder: Path) -> tuple[Outcome, str]:
    """Evaluates a run; the numbers are compared."""
    out = folder.parent / "out"
    ending = run("vit_jax.evaluate", "--checkpoint", folder, "--output", out)
    same = False
    if ending.code == 0:
        metrics = json.loads((out / "metrics.json").read_text())
        same = metrics["accuracy"] == whole().rows[-1]["accuracy"]
    told = TOLD if "step 2 of" in ending.said else ""
    return judge(ending, names=(str(folder),), same=same, told=told)


def verify(folder: Path) -> tuple[Outcome, str]:
    """Lists and verifies the checkpoints; damage is an error there."""
    ending = run("vit_jax.checkpoints", folder, "--verify")
    return judge(ending, names=("step 4", str(folder)))


def files() -> list[str]:
    """Every file of the run, and what another process may leave."""
    folder = whole().folder
    found = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(str(path.relative_to(folder)) for path in found)
    return [*(name for name in names if not name.startswith("checkpoints/2/")), LOCK]


def damages() -> Iterator[Attack]:
    """Each file damaged in each way, then loaded; the most telling ones resumed too."""
    telling = (CONFIG, METRICS, LOCK, MANIFEST, METADATA, "_METADATA")
    for place, name in enumerate(files()):
        for number, damage in enumerate(DAMAGES):
            readers = {"loaded": load}
            chosen = Path(name).name in telling and (number + place) % 3 == 0
            if chosen or name == METRICS:
                readers["resumed"] = resume
            if (number + place) % 9 == 0:
                readers |= {"evaluated": evaluate}
            if name.startswith("checkpoints/4") and (number + place) % 3 == 1:
                readers |= {"verified": verify}
            if name == METRICS and damage.do is flip:
                del readers["resumed"]  # Rows have no checksums: another number is one.
            for word, reader in readers.items():
                yield damaged(name, damage, word, reader, number)


def damaged(
    name: str, damage: Damage, word: str, reader: Callable, seed: int
) -> Attack:
    def act(folder: Path) -> tuple[Outcome, str]:
        path = copied(folder) / name
        if not path.exists():
            path.write_text('{"host": "elsewhere", "pid": 1, "started": "2026"}')
        damage.do(path, random.Random(seed))
        return reader(folder / "run")

    good = (Outcome.REFUSED, Outcome.TOLD, Outcome.SAME)
    return Attack(f"damages, {word}", f"{name}: {damage.name}", act, good)


def odd_folders() -> Iterator[Attack]:
    """What is beside the steps and looks like one, and steps that are no folders."""

    def of(name: str, make: Callable[[Path], object]) -> Iterator[Attack]:
        for word, reader in (("loaded", load), ("resumed", resume)):

            def act(folder: Path, reader: Callable = reader) -> tuple[Outcome, str]:
                make(copied(folder))
                return reader(folder / "run")

            good = (Outcome.REFUSED, Outcome.TOLD, Outcome.SAME)
            yield Attack(f"damages, {word}", name, act, good)

    for step in ("-1", "0007", " 7", "\u0667", "9" * 40, "7.0", "seven", "7\n8"):
        yield from of(
            f"checkpoints/{step!r} empty",
            lambda run, step=step: (run / "checkpoints" / step).mkdir(),
        )
        yield from of(
            f"checkpoints/{step!r} a file",
            lambda run, step=step: (run / "checkpoints" / step).touch(),
        )
    yield from of(
        "checkpoints/9 is a FIFO", lambda run: os.mkfifo(run / "checkpoints/9")
    )
    yield from of(
        "checkpoints/9 is a copy of 4",
        lambda run: shutil.copytree(run / "checkpoints/4", run / "checkpoints/9"),
    )
    yield from of(
        "checkpoints/9 links to itself",
        lambda run: (run / "checkpoints/9").symlink_to("9"),
    )
    yield from of(
        "checkpoints is a file",
        lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()),
    )
    yield from of(
        "checkpoints links to itself",
        lambda run: (
            shutil.rmtree(run / "checkpoints"),
            (run / "checkpoints").symlink_to("checkpoints"),
        ),
    )
    yield from of("damaged is a file", lambda run: (run / "damaged").touch())


def bits() -> Iterator[Attack]:
    """Every bit of the manifest of a step of a real run."""
    shared = functools.cache(lambda: copied(Path(tempfile.mkdtemp())))
    data = (whole().folder / "checkpoints/4" / MANIFEST).read_bytes()
    for bit in range(8 * len(data)):

        def act(_: Path, bit: int = bit) -> tuple[Outcome, str]:
            step = shared() / "checkpoints/4"
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            (step / MANIFEST).write_bytes(flipped)
            problem = ""

            def look() -> None:
                nonlocal problem
                problem = integrity.verify(step)

            outcome, text = judge(call(look), same=False)
            found = outcome is Outcome.SILENT and problem
            return (Outcome.TOLD, problem) if found else (outcome, text)

        yield Attack("bits of a manifest", f"bit {bit}", act, (Outcome.TOLD,))
