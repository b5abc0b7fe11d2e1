"""A schedule of jobs with a deadline, the more valuable first; with Python alone."""

import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.processes import Job, end, how_it_ended
from benchmarks.gpu.results import Journal

# Seconds that a training has to save its state at the deadline.
GRACE = 5.0
# Starts the process of a job for some of its rows.
Launch = Callable[[Job, list[str]], subprocess.Popen]


class Running(NamedTuple):
    """A running job with its rows; `since` is the journal's size at its start."""

    job: Job
    names: list[str]
    process: subprocess.Popen
    started: float
    since: int


class Schedule:
    """Starts jobs, ends them at their limits, and writes rows for those that failed.

    Args:
        jobs: the more valuable first.
        journal: the file of rows.
        launch: starts the process of a job for some of its rows.
        parallel: most processes at a time.
        gib: memory of the card that they may use together.
        until: deadline by the monotonic clock, at which everything is ended.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        journal: Journal,
        launch: Launch,
        *,
        parallel: int,
        gib: float,
        until: float,
    ) -> None:
        self.pending, self.journal, self.launch = list(jobs), journal, launch
        self.parallel, self.gib, self.until = parallel, gib, until
        self.running: list[Running] = []

    def run(self, changed: Callable[[], None]) -> None:
        """Runs the jobs until all had their turn or the time is over.

        Args:
            changed: called whenever jobs began or ended.
        """
        while time.monotonic() < self.until:
            ended, began = self.collect(), self.begin()
            if ended or began:
                changed()
            elif not self.running:
                break  # Nothing is left for which the time is long enough.
            else:
                time.sleep(0.1)
        self.stop("the time was over")

    def begin(self) -> bool:
        """Starts the jobs that can start now; whether any job had its turn."""
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
                    break  # Later jobs may not overtake it.
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
        """The rows of a job that are still to be measured."""
        if job.proof and not Path(job.proof).exists():
            return list(job.names)
        return [n for n in job.names if not self.journal.measured((job.phase, n))]

    def collect(self) -> bool:
        """Removes ended jobs, and ends those that take too long; whether any ended."""
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
        """Removes a job, with a failed row for each that it did not write."""
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
        """Ends all running jobs."""
        end([running.process for running in self.running], GRACE)
        for running in list(self.running):
            self.account(running, why)
