"""JSON of runs, users and other projects, read as what it is declared to be."""

import json
from pathlib import Path
from typing import Any

from vit_jax.storage.foreign import Refused, read_regular
from vit_jax.storage.paths import in_bucket, medium
from vit_jax.values import problem

MOST_BYTES = 256 << 20  # of a file; its values take several times as much memory


def read_json(path: Path, kind: Any) -> Any:
    """Reads a JSON file, on a disk or in a bucket.

    Args:
        kind: of its content, see `values.py`.

    Raises:
        ValueError: it is no JSON, of another kind, too large, or no regular file; one
            sentence that names it.
        OSError: it is not there, or cannot be read.
    """
    try:
        if in_bucket(path):  # which has no FIFOs, and no files with holes
            text = medium(path).read_bytes(path)
        else:
            text = read_regular(path, MOST_BYTES)
    except Refused as error:
        raise ValueError(str(error)) from None
    return parse(text, kind, path)


def parse(text: str | bytes, kind: Any, source: str | Path) -> Any:
    """The value of a JSON text.

    Args:
        source: where it is from, for errors.

    Raises:
        ValueError: it is no JSON, or of another kind.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        reason = "it is nested too deeply"
        raise ValueError(f"{source} is not readable as JSON: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{source} is not readable as JSON: {error}") from None
    if sentence := problem("", value, kind):
        raise ValueError(f"{source}: {sentence}")
    return value
