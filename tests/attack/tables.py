"""Hostile CSV files beside images: what is no table, or says something else."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from attack.outcomes import Attack, Outcome, call, judge
from attack.pictures import encoded, pixels
from vit_jax.data.pipeline import Data

REFUSED, TOLD, SAME = Outcome.REFUSED, Outcome.TOLD, Outcome.SAME
CLASSES = ("cat", "dog")
IMAGES = tuple(f"{number}.jpg" for number in range(8))
LABELS = {image: CLASSES[place % 2] for place, image in enumerate(IMAGES)}
LINES = ["file_name,label", *(f"{image},{name}" for image, name in LABELS.items())]
PLAIN = "\n".join(LINES) + "\n"
MANY = 10**6


def changed(line: int, text: str) -> str:
    """The table with another line, 0 for the header."""
    return "\n".join([*LINES[:line], text, *LINES[line + 1 :]]) + "\n"


def refused_tables() -> dict[str, bytes]:
    """Files that have no labels for the images, or of which it is not clear which."""
    texts = {
        "blank lines": "\n\n  \n",
        "only commas": ",,,\n,,,\n",
        "no header": "\n".join(LINES[1:]),
        "a header alone": LINES[0],
        "a NUL in the header": changed(0, "file\0name,label"),
        "semicolons": PLAIN.replace(",", ";"),
        "tabs": PLAIN.replace(",", "\t"),
        "a quote that is not closed": changed(3, '2.jpg,"cat'),
        "a quote before all that is not closed": '"' + PLAIN,
        "text after a quote": changed(3, '2.jpg,"cat"dog'),
        "a cell more": changed(3, "2.jpg,cat,dog"),
        "a cell less": changed(3, "2.jpg"),
        "a column twice": changed(0, "label,label"),
        "two columns of labels": changed(0, "label,class"),
        "two columns of files": changed(0, "image,file_name"),
        "no label": changed(3, "2.jpg,"),
        "several labels as one": changed(3, "2.jpg,cat|dog"),
        "a cell of a megabyte": changed(3, f"2.jpg,{'x' * MANY}"),
        "a title of a megabyte": changed(0, f"file_name,{'x' * MANY}"),
        "a million columns, short rows": changed(0, "file_name" + ",a" * MANY),
        "an image twice": changed(3, "0.jpg,cat"),
        "numbers as columns": changed(0, "file_name,cat"),
        "other images": PLAIN.replace(".jpg", ".png"),
        "paths from /": PLAIN.replace("\n", "\n/etc/"),
        "a web page": "<!doctype html><html>\n<body>not found</body></html>\n",
        "a file of git-lfs": "version https://git-lfs.github.com/spec/v1\nsize 9\n",
        "an odd split": "file_name,label,split\n0.jpg,cat,train\n1.jpg,dog,\x1b[31m\n",
        "columns of NaN": "file_name,cat,dog\n0.jpg,nan,1\n",
    }
    return {name: text.encode() for name, text in texts.items()} | {
        "nothing": b"",
        "NULs": bytes(999),
        "a byte order mark": b"\xef\xbb\xbf",
        "Latin-1": PLAIN.replace("cat", "ca\u00e9").encode("latin-1"),
        "UTF-16": PLAIN.encode("utf-16"),
        "half of a character": PLAIN.encode() + b"\xc3",
        "an image": encoded(pixels(0), "JPEG"),
        "a spreadsheet": b"PK\x03\x04" + bytes(range(256)) * 9,
    }


def told_tables() -> dict[str, str]:
    """Tables of which a part is not used."""
    return {
        "a NUL in a name": changed(3, "2.jpg\0,cat"),
        "a path up": changed(3, "../../2.jpg,cat"),
        "an escape code as a name": changed(3, "\x1b[31m,cat"),
        "a row less": changed(3, ""),
        "one more column": "\n".join(f"{line},{i}" for i, line in enumerate(LINES)),
        "many rows of nothing": PLAIN + "nothing,cat\n" * 100_000,
    }


def same_tables() -> dict[str, str]:
    """Odd ones that are whole."""
    return {
        "as it is": PLAIN,
        "CRLF": PLAIN.replace("\n", "\r\n"),
        "CR": PLAIN.replace("\n", "\r"),
        "a byte order mark first": "\ufeff" + PLAIN,
        "blanks": PLAIN.replace(",", " , "),
        "quotes": "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) for line in LINES
        ),
        "no endings": PLAIN.replace(".jpg", ""),
        "columns in another order": "\n".join(
            ",".join(reversed(line.split(","))) for line in LINES
        ),
        "columns of 0 and 1": "file_name,cat,dog\n"
        + "\n".join(
            f"{image},{int(name == 'cat')},{int(name == 'dog')}"
            for image, name in LABELS.items()
        ),
    }


def no_files() -> dict[str, Callable[[Path], object]]:
    """What is no regular file, or has no end."""
    return {
        "a FIFO": os.mkfifo,
        "a folder": os.mkdir,
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to nowhere": lambda path: path.symlink_to("/nowhere/x.csv"),
        "a hole of 1 TB": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    }


def read(folder: Path, name: Path) -> tuple[Outcome, str]:
    """Reads a data set as a training does; the labels are compared, image by image."""
    found: dict[str, str] = {}
    words = ""

    def act() -> None:
        nonlocal words
        data = Data(name=str(name), image_size=(16, 16), batch_size=8, split="all")
        words = data.in_words(("all",))
        source = data.source("all")
        for place, label in enumerate(source.labels().tolist()):
            image = os.path.basename(source.record_name(place))
            found[image] = source.label_names[label]
        with contextlib.closing(data.eval_batches("all", 8)) as batches:
            assert sum(int(batch["mask"].sum()) for batch in batches) == len(found)

    ending = call(act)
    ending = ending._replace(said=f"{words}\n{ending.said}")
    # What is read is right, whatever is left out.
    if ending.code == 0 and not found.items() <= LABELS.items():
        return Outcome.SILENT, f"{found}; {ending.said}"
    told = r"left out|are not used"
    same = found == LABELS and not re.search(told, ending.said)
    return judge(ending, names=(str(folder),), same=same, told=told)


def images(folder: Path) -> Path:
    """The images, in a folder without classes."""
    place = folder / "photos"
    place.mkdir()
    for number, image in enumerate(IMAGES):
        (place / image).write_bytes(encoded(pixels(number), "JPEG"))
    return place


def tables() -> Iterator[Attack]:
    """Each table beside the images, found by their folder and named itself."""

    makers: list[tuple[str, Callable[[Path], object], tuple[Outcome, ...]]] = []
    for texts, good in (
        (refused_tables(), (REFUSED,)),
        (told_tables(), (TOLD,)),
        (same_tables(), (SAME,)),
    ):
        for name, text in texts.items():
            data = text if isinstance(text, bytes) else text.encode()
            makers.append((name, lambda path, x=data: path.write_bytes(x), good))
    makers += [(name, make, (REFUSED,)) for name, make in no_files().items()]
    for name, make, good in makers:
        for word in ("found", "named"):

            def act(
                folder: Path, make: Callable = make, word: str = word
            ) -> tuple[Outcome, str]:
                place = images(folder)
                make(place / "labels.csv")
                named = place / "labels.csv" if word == "named" else place
                return read(place, named)

            yield Attack("CSV files of labels", f"{name}, {word}", act, good)
