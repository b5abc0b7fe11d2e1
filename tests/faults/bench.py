"""One try of a fault: harm, start again, compare with a run that was left alone."""

import functools
import os
import random
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from faults.catalogue import DAMAGED, WHOLE, Bench, Fault
from faults.processes import Training, finish, same_end

# Numbers in a message that differ from try to try.
VARYING = r"(step |checkpoints/|after |of )\d+"


class Result(NamedTuple):
    """What one try gave.

    Attributes:
        ended: how the command ended under the fault, without what differs by chance.
        again: steps that were trained before the fault and had to be trained again.
        same: whether the end has the same bits as that of the run left alone.
    """

    ended: str
    again: int
    same: bool


class Bed:
    """The runs that every try needs: undisturbed ones, and a half-way one to copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._references: dict[int, Path] = {}
        self._tries = 0

    def reference(self, count: int) -> Path:
        """A run of so many processes that was left alone."""
        if count not in self._references:
            self._references[count] = self.folder / f"reference_{count}"
            finish(self._references[count], count)
        return self._references[count]

    @functools.cached_property
    def halfway(self) -> tuple[Path, int]:
        """A run that was stopped by SIGTERM, and the step that it saved."""
        workdir = self.folder / "halfway"
        with Training(workdir) as training:
            training.wait_for_step(50)
            training.processes[0].terminate()
            if training.end() != [75]:
                raise AssertionError(training.text())
            return workdir, int(re.findall(r"at step (\d+) of", training.text())[-1])

    def try_fault(self, fault: Fault, rng: random.Random) -> Result:
        """Harms a run, starts it again, and compares.

        Raises:
            AssertionError: with the log, if something hangs, says nothing, is left
                behind, or cannot go on.
        """
        self._tries += 1
        workdir = self.folder / f"try_{self._tries}" / "run"
        workdir.parent.mkdir()
        try:
            harm = fault.run(Bench(workdir, *self.halfway, rng))
            started, log = finish(workdir, harm.count)
            if ("CHECKPOINT DAMAGED" in log) != (harm.ended == DAMAGED):
                raise AssertionError(log)
            again = max(0, harm.reached - started)
            if harm.ended == WHOLE and again:
                raise AssertionError(f"{again} steps were lost:\n{log}")
            if left := [
                *workdir.glob("checkpoints/*.orbax-checkpoint-tmp"),
                *workdir.glob("checkpoints/*.removing"),
            ]:
                raise AssertionError(f"left behind: {left}")
            same = same_end(workdir, self.reference(harm.count))
            return Result(re.sub(VARYING, r"\1N", harm.ended), again, same)
        finally:
            for folder in (workdir / "checkpoints", workdir):
                if os.path.ismount(folder):
                    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@functools.cache
def cannot_mount() -> str:
    """Why no disk can be mounted here; empty if one can."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "none", folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return f"not tried: {result.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return ""
