"""Rows of `results.jsonl`: written at once, read again by a second start.

This needs Python alone, so that the command can start on a bare machine.
"""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Phase and name of a row.
RowKey = tuple[str, str]


class Journal(NamedTuple):
    """The file of rows, and the key that all rows of this start have in common.

    A row is one line, appended by one system call: several processes may write, and a
    kill at any moment leaves every line that was written whole.

    Attributes:
        path: the path of `results.jsonl`.
        key: the card and the code that are measured. Rows with other keys stay in the
            file, and are ignored.
    """

    path: str
    key: dict[str, str]

    def write(
        self,
        phase: str,
        name: str,
        values: dict[str, Any],
        seconds: float,
        error: str = "",
    ) -> None:
        """Appends a row; `error` says in a sentence why it failed."""
        row = {"phase": phase, "name": name, "ok": not error, "values": values}
        row |= {"seconds": round(seconds, 2), "error": error, **self.key}
        row["time"] = time.strftime("%Y-%m-%d %H:%M:%S")
        line = json.dumps(row) + "\n"
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = "\n" + line  # The last line is incomplete, after a crash.
            os.write(file, line.encode())
        finally:
            os.close(file)

    def size(self) -> int:
        """The size of the file in bytes, as a position for `rows`."""
        path = Path(self.path)
        return path.stat().st_size if path.exists() else 0

    def rows(self, since: int = 0) -> dict[RowKey, dict[str, Any]]:
        """The newest row of each (phase, name) that was measured under this key.

        Incomplete lines are left out.

        Args:
            since: a position in the file; older rows are left out.
        """
        if not self.size():
            return {}
        newest = {}
        text = Path(self.path).read_bytes()[since:].decode(errors="replace")
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if all(row[name] == value for name, value in self.key.items()):
                    newest[row["phase"], row["name"]] = row
        return newest

    def measured(self, row: RowKey) -> bool:
        """Whether a row exists and did not fail."""
        return self.rows().get(row, {"ok": False})["ok"]


class Spec(NamedTuple):
    """The task of a job's process, passed as JSON in its last argument.

    Attributes:
        journal: the file for its rows.
        phase: the phase of its rows.
        names: names of the rows to measure.
        work: folder for environments, compilation caches and run folders.
        dry: whether to use tiny sizes on the CPU.
        options: settings of the phase.
    """

    journal: Journal
    phase: str
    names: list[str]
    work: str
    dry: bool
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The specification from the argument of a command."""
        journal, *others = json.loads(text)
        return cls(Journal(*journal), *others)

    def text(self) -> str:
        """The specification as the argument of a command."""
        return json.dumps(self)

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """A measurement: yields a dictionary for its values, and writes the row.

        An exception makes it a failed row and is suppressed, so that the next
        measurement has its turn; values measured before it are kept.
        """
        values: dict[str, Any] = {}
        started, error = time.monotonic(), ""
        try:
            yield values
        except Exception as exception:
            traceback.print_exc()
            error = in_one_line(exception)
        seconds = time.monotonic() - started
        self.journal.write(self.phase, name, values, seconds, error)


def run_phase(measure: Callable[[Spec, str, dict[str, Any]], None]) -> None:
    """The command of a phase: calls `measure` with the name and values of each row."""
    spec = Spec.parse(sys.argv[1])
    for name in spec.names:
        with spec.row(name) as values:
            measure(spec, name, values)


def in_one_line(exception: BaseException) -> str:
    """The first 500 characters of an exception on one line."""
    words = f"{type(exception).__name__}: {exception}".split()
    return " ".join(words)[:500]
