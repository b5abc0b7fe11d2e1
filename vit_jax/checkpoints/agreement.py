"""Messages between the processes of a run, so that all take the same decision."""

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.storage.paths import medium


def gather_texts(text: str) -> list[str]:
    """The text of each process; all of them have to call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(max(1, *lengths), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes().decode()
        for row, length in zip(rows, lengths, strict=True)
    ]


def from_primary(action: Callable[[], str]) -> str:
    """Runs an action on files in process 0 only; returns its result in all processes.

    Raises:
        OSError: the action raised it in process 0.
    """
    if jax.process_count() == 1:
        return action()
    answer = {}
    if jax.process_index() == 0:
        try:
            answer = {"result": action()}
        except OSError as error:
            fields = [error.errno, error.strerror, error.filename]
            answer = {"error": [str(error)] if error.errno is None else fields}
    answer = json.loads(gather_texts(json.dumps(answer, default=str))[0])
    if "error" in answer:
        raise OSError(*answer["error"])
    return answer["result"]


def blind_processes(folder: Path, seconds: float) -> list[int]:
    """The processes that see another folder at this path than process 0.

    Args:
        folder: on a file system that all share, as far as process 0 knows.
        seconds: time that a file of process 0 may take to appear for the others.
    """
    if jax.process_count() == 1:
        return []

    def leave_mark() -> str:
        name = f"shared-{secrets.token_hex(8)}"
        medium(folder).write_atomically(folder / name, "")
        return name

    mark = folder / from_primary(leave_mark)
    end = time.monotonic() + seconds
    while not (seen := medium(mark).exists(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    answers = gather_texts("seen" if seen else "")
    from_primary(lambda: mark.unlink() or "")
    return [process for process, answer in enumerate(answers) if not answer]
