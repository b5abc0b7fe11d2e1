"""Strategies that change valid files: most of what they give is nearly right."""

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

MOST_EDITS = 4
LONGEST = 64  # bytes of a piece that is dropped, repeated or put in
# Lengths, counts and offsets at which readers have gone wrong.
EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31)
EXTREMES += (2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
WIDTHS = (1, 2, 4, 8)  # bytes of a number


@st.composite
def edited(
    draw: st.DrawFn,
    samples: Sequence[bytes],
    places: Callable[[bytes], Sequence[int]] = lambda _: (),
    whole: Callable[[bytes], bytes] = bytes,
) -> bytes:
    """A sample with a few edits.

    Args:
        places: where lengths and types stand in a sample; half of the edits are there.
        whole: puts right the checksums that would hide an edit from the reader; it is
            done to half of the cases.
    """
    data = draw(st.sampled_from(samples))
    content, hot = bytearray(data), places(data)
    for _ in range(draw(st.integers(1, MOST_EDITS))):
        if content:
            edit(draw, content, hot)
    return whole(bytes(content)) if draw(st.booleans()) else bytes(content)


def edit(draw: st.DrawFn, content: bytearray, hot: Sequence[int]) -> None:
    """Changes the content in one place."""
    last = len(content) - 1
    place = draw(st.integers(0, last))
    if hot and draw(st.booleans()):
        place = min(draw(st.sampled_from(hot)), last)
    end = min(place + draw(st.integers(1, LONGEST)), last + 1)
    kind = draw(
        st.sampled_from(("bit", "number", "cut", "drop", "repeat", "move", "put"))
    )
    if kind == "bit":
        content[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "number":
        width = draw(st.sampled_from(WIDTHS))
        value = draw(st.sampled_from(EXTREMES)) % 256**width
        order = draw(st.sampled_from(("little", "big")))
        content[place : place + width] = value.to_bytes(width, order)
    elif kind == "cut":
        del content[place:]
    elif kind == "drop":
        del content[place:end]
    elif kind == "repeat":
        content[place:place] = content[place:end] * draw(st.sampled_from((1, 2, 1000)))
    elif kind == "move":
        piece = content[place:end]
        del content[place:end]
        other = draw(st.integers(0, len(content)))
        content[other:other] = piece
    else:
        content[place:end] = draw(st.binary(max_size=LONGEST))


NUMBERS = (0, -1, 1, 2, 0.5, 10**30, -(2**63), 1e308, float("nan"), float("inf"))
TEXTS = ("", "text", "1", "a\nb", "\x1b[31m", "\ud800", "../x", "/", "é", "x" * 300)
VALUES = (None, True, False, *NUMBERS, *TEXTS)
CONTAINERS: tuple[Any, ...] = (
    [],
    [1],
    [None],
    [[]],
    {},
    {"a": 1},
    {"": {}},
    {"0": "a"},
)


def values() -> st.SearchStrategy[Any]:
    """Values of JSON that are seldom meant."""
    return st.sampled_from((*VALUES, *CONTAINERS)) | st.integers() | st.text(max_size=8)


@st.composite
def changed_json(draw: st.DrawFn, samples: Sequence[Any]) -> bytes:
    """The text of a sample with some values, keys and lengths changed."""
    value = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, MOST_EDITS))):
        value = change(draw, value)
    # As others write them: with text beyond ASCII as it is, or escaped.
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


def any_json(samples: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Samples that are changed in what they say, or in how it is written."""
    texts = [json.dumps(sample, indent=1).encode() for sample in samples]
    deep = st.sampled_from((b"[", b'{"a":', b"[1,")).map(lambda piece: piece * 20_000)
    long = st.sampled_from((b"9" * 5000, b"-", b"", b"null", b"\xef\xbb\xbf{}", b"{}"))
    return changed_json(samples) | edited(texts) | deep | long


def change(draw: st.DrawFn, value: Any) -> Any:
    """The value with one change somewhere in it; containers are changed in place."""
    if not isinstance(value, dict | list) or not value or not draw(st.integers(0, 9)):
        return copy.deepcopy(draw(values()))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    kind = draw(st.sampled_from(("in", "in", "in", "drop", "repeat")))
    if kind == "in":
        value[key] = change(draw, value[key])
    elif kind == "drop":
        del value[key]
    elif isinstance(value, list):
        value.extend([value[key]] * draw(st.sampled_from((1, 300))))
    else:
        name = draw(st.sampled_from(TEXTS) | st.sampled_from(keys))
        value[name] = copy.deepcopy(value[key])
    return value
