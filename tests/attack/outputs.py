"""Outputs into a run, onto what is read, onto what is no file, onto full disks."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from faults.bench import cannot_mount
from faults.catalogue import fill

from attack.damages import copied, tree
from attack.outcomes import Attack, Ending, Outcome, judge, run
from attack.pictures import plain_folder

REFUSED, SAME = Outcome.REFUSED, Outcome.SAME


class Command(NamedTuple):
    """A command that writes.

    Attributes:
        words: of the command line, with RUN, DATA and OUT for a run, a folder of images
            and the output.
        is_folder: whether the output is one.
        suffix: of an output that is a file.
        into_runs: whether a run may have the output in a new folder of its own.
        goes_on: with what a full disk has left, when it is started again.
    """

    name: str
    words: str
    is_folder: bool = True
    suffix: str = ""
    into_runs: bool = False
    goes_on: bool = False

    def start(self, run_folder: Path, data: Path, place: Path) -> Ending:
        module, *words = self.words.split()
        places = {"RUN": run_folder, "DATA": data, "OUT": place}
        return run(module, *(filled(word, places) for word in words))


COMMANDS = (
    Command("convert", "vit_jax.convert --checkpoint RUN OUT --layout huggingface"),
    Command(
        *("convert", "vit_jax.convert --checkpoint RUN OUT --layout google"),
        *(False, ".npz"),
    ),
    Command(
        *("predict", "vit_jax.predict --checkpoint RUN DATA/cat --json OUT"),
        *(False, ".json"),
    ),
    Command(
        *("attention", "vit_jax.predict --checkpoint RUN DATA/cat --attention OUT"),
        into_runs=True,
    ),
    Command(
        *("evaluate", "vit_jax.evaluate --checkpoint RUN --output OUT"), into_runs=True
    ),
    Command("checkpoints", "vit_jax.checkpoints RUN --json OUT", False, ".json"),
    Command("plan", "vit_jax.plan --checkpoint RUN --json OUT", False, ".json"),
    Command("export", "vit_jax.export --checkpoint RUN --output OUT", False, ".jax"),
    Command(
        "analysis",
        "vit_jax.analysis --checkpoint RUN --images DATA/cat --output OUT",
        into_runs=True,
    ),
    Command(
        "check",
        "vit_jax.data.check --config folder:data=DATA,model=ViT-mu/8,size=32 "
        "--seconds 0 --picture OUT",
        *(False, ".png"),
    ),
    Command("prepare", "vit_jax.data.prepare DATA --output OUT", goes_on=True),
    Command("photos", "vit_jax.data.sample_photos OUT", goes_on=True),
)


def filled(word: str, places: dict[str, Path]) -> str:
    """A word of a command line with paths for the names of places."""
    for name, place in places.items():
        word = word.replace(name, str(place))
    return word


def places(command: Command, base: Path) -> Iterator[tuple[str, Path]]:
    """Where no output may go: made on the way."""
    run, data = base / "run", base / "data"
    new = f"new{command.suffix}"
    yield "the run", run
    yield "the config of the run", run / "config.json"
    yield "the checkpoints of the run", run / "checkpoints" / new
    yield "the newest step", run / "checkpoints" / "4"
    yield "a folder of the run's own", run / "tensorboard" / new
    (base / "alias").symlink_to(run)
    yield "the run by a link", base / "alias" / "checkpoints" / new
    read = data / "cat" / "0.jpg" if "DATA" in command.words else run / "metrics.jsonl"
    yield "a file that is read", read
    yield "under a file", run / "metrics.jsonl" / new
    for name, target in (("loop", "loop"), ("gone", "nowhere"), ("zero", "/dev/zero")):
        (base / f"{name}{command.suffix}").symlink_to(target)
        yield f"a link: {name}", base / f"{name}{command.suffix}"
    (base / f"config{command.suffix}").symlink_to(run / "config.json")
    yield "a link to the config", base / f"config{command.suffix}"
    os.mkfifo(base / f"pipe{command.suffix}")
    yield "a FIFO", base / f"pipe{command.suffix}"
    yield "/dev/null", Path("/dev/null")
    yield "/dev/full", Path("/dev/full")
    yield "a place in /proc", Path("/proc/new") / new
    yield "a long name", base / f"{'n' * 300}{command.suffix}"
    if command.is_folder:
        (base / "file").touch()
        yield "a file", base / "file"
    else:
        (base / f"folder{command.suffix}").mkdir()
        yield "a folder", base / f"folder{command.suffix}"


PLACES = 18


def bad_places() -> Iterator[Attack]:
    """Each command with each place; what was there must be as it was."""
    for command in COMMANDS:
        for number in range(PLACES):

            def act(
                folder: Path, command: Command = command, number: int = number
            ) -> tuple[Outcome, str]:
                copied(folder)
                data = plain_folder(folder)
                name, place = list(places(command, folder))[number]
                before = tree(folder)
                ending = command.start(folder / "run", data, place)
                changed = tree(folder) != before
                outcome, text = judge(
                    ending, names=(str(place), place.name[:40]), same=False
                )
                if outcome is Outcome.REFUSED and changed:
                    return Outcome.LATE, f"{name}: something was written; {text}"
                return outcome, f"{name}: {text}"

            yield Attack("outputs, places", f"{command.name}, place {number}", act)


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own."""
    place = folder / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    subprocess.run(options, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def disks() -> Iterator[Attack]:
    """Each command onto a full, a nearly full and a read-only disk."""
    if cannot_mount():
        return
    for command in COMMANDS:
        for state in ("full", "nearly full", "read-only"):

            def act(
                folder: Path, command: Command = command, state: str = state
            ) -> tuple[Outcome, str]:
                copied(folder)
                data = plain_folder(folder)
                with disk(folder, "20k" if state == "nearly full" else "64k") as place:
                    if state == "full":
                        fill(place)
                    if state == "read-only":
                        remount = ["mount", "-o", "remount,ro", str(place)]
                        subprocess.run(remount, check=True)
                    before = tree(place)
                    out = place / f"new{command.suffix}"
                    ending = command.start(folder / "run", data, out)
                    left = tree(place) != before and not command.goes_on
                    small = ending.code == 0 and state == "nearly full"
                    outcome, text = judge(ending, names=(str(out),), same=small)
                    if outcome is Outcome.REFUSED and left:
                        return Outcome.LATE, f"something was left; {text}"
                    return outcome, text

            yield Attack(
                "outputs, disks", f"{command.name}: {state}", act, (REFUSED, SAME)
            )
