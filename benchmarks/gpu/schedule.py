"""Jobs side by side, in the order of their value, until a time; with Python alone."""

import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.processes import Job, end, how_it_ended
from benchmarks.gpu.results import Journal

# Seconds that a training has to save its state at the end of the time.
GRACE = 5.0


class Running(NamedTuple):
    """A job at work on some of its rows; `since` is a position in the journal."""

    job: Job
    names: list[str]
    process: subprocess.Popen
    started: float
    since: int


class Schedule:
    """Starts jobs, ends them at their limits, and writes the rows that they do not.

    Args:
        jobs: the more valuable first.
        journal: where rows are read and written.
        launch: starts the process of a job for some of its rows.
        parallel: processes at a time.
        gib: memory of the card that they may take together.
        until: by the monotonic clock; everything is ended then.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        journal: Journal,
        launch: Callable[[Job, list[str]], subprocess.Popen],
        *,
        parallel: int,
        gib: float,
        until: float,
    ) -> None:
        self.pending, self.journal, self.launch = list(jobs), journal, launch
        self.parallel, self.gib, self.until = parallel, gib, until
        self.running: list[Running] = []

    def run(self, changed: Callable[[], None]) -> None:
        """Until all jobs had their turn or the time is over.

        Args:
            changed: is called whenever jobs began or ended.
        """
        while time.monotonic() < self.until:
            ended, began = self.collect(), self.begin()
            if ended or began:
                changed()
            elif not self.running:
                break  # Nothing is left, or what is left takes more time than there is.
            else:
                time.sleep(0.1)
        self.stop("the time was over")

    def begin(self) -> bool:
        """Starts what can start now; whether any job had its turn."""
        began = False
        for job in list(self.pending):
            others = [*self.pending, *(other.job for other in self.running)]
            awaited = {row for other in others for row in other.rows}
            if awaited & {*job.needs, *job.after}:
                continue
            names = self.names_left(job)
            lacking = [row for row in job.needs if not self.journal.measured(row)]
            if names and not lacking:
                if self.until - time.monotonic() < job.least:
                    continue
                if self.must_wait(job):
                    break  # What comes later may not overtake it for ever.
                since, now = self.journal.size(), time.monotonic()
                process = self.launch(job, names)
                self.running.append(Running(job, names, process, now, since))
            elif lacking:
                words = ", ".join(" ".join(row) for row in lacking)
                for name in names:
                    self.fail(job, name, 0.0, f"not started, since {words} failed")
            self.pending.remove(job)
            began = True
        return began

    def must_wait(self, job: Job) -> bool:
        """Whether a job can only start when others have ended."""
        taken = sum(other.job.gib for other in self.running)
        return bool(self.running) and (
            job.alone
            or any(other.job.alone for other in self.running)
            or len(self.running) >= self.parallel
            or taken + job.gib > self.gib
        )

    def names_left(self, job: Job) -> list[str]:
        """Rows of a job that are still to be measured."""
        if job.proof and not Path(job.proof).exists():
            return list(job.names)
        return [n for n in job.names if not self.journal.measured((job.phase, n))]

    def collect(self) -> bool:
        """Takes note of jobs that ended, and ends those that take too long."""
        before = len(self.running)
        for running in list(self.running):
            code = running.process.poll()
            seconds = time.monotonic() - running.started
            if code is None and seconds < running.job.seconds:
                continue
            end([running.process])
            late = f"killed at its limit of {running.job.seconds:.0f} s"
            self.account(running, late if code is None else how_it_ended(code))
        return len(self.running) < before

    def account(self, running: Running, why: str) -> None:
        """Leaves a job, with a failed row for each that it did not write."""
        self.running.remove(running)
        seconds = time.monotonic() - running.started
        written = self.journal.rows(running.since)
        for name in running.names:
            if (running.job.phase, name) not in written:
                self.fail(running.job, name, seconds, why)

    def fail(self, job: Job, name: str, seconds: float, why: str) -> None:
        """Writes a failed row."""
        self.journal.write(job.phase, name, {}, seconds, why)

    def stop(self, why: str) -> None:
        """Ends all that is running."""
        end([running.process for running in self.running], GRACE)
        for running in list(self.running):
            self.account(running, why)
