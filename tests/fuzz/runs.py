"""The files of a run, whatever a disk or a person made of them."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from hypothesis import strategies as st

from configs import digits
from fuzz.mutations import any_json, edited
from fuzz.reader import Finding, Reader, check_sentence, equal, telling
from vit_jax.checkpoints import integrity, listing
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import ConfigError, check_config
from vit_jax.storage import lock
from vit_jax.storage.run_files import facts_of, load_config, read_metrics
from vit_jax.training.sections import config_sections

CONFIG = json.loads(digits.get_config().to_json())
ROWS = [
    {"step": 3, "split": "train", "loss": 0.5, "seconds": 1.25},
    {"step": 4, "split": "fault", "reason": "NaN"},
    {"step": 5, "split": "test", "accuracy": 1.0, "count": 3},
]
HOLDER = {"host": "a", "pid": 12, "started": "2026-01-01 00:00:00"}
CUT = b'{"step": 6, "spl'


def check_run_config(content: bytes, folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(content)
    with telling(path, errors=ConfigError):
        config = load_config(path)
        # As written, but for tuples.
        found, wanted = (json.loads(text) for text in (config.to_json(), content))
        equal(canonical(found), canonical(wanted), "config")
        with telling("", errors=ConfigError):
            check_config(config, config_sections())


def canonical(value: Any) -> str:
    """The one text of a value, in which NaN is equal to NaN."""
    return json.dumps(value, sort_keys=True)


def check_rows(content: bytes, folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(content)
    lines = []
    for line in content.split(b"\n"):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    rows = read_metrics(path)
    for row in rows:
        if not isinstance(row["step"], int) or not isinstance(row["split"], str):
            raise Finding(f"a row {row!r}")
        equal(repr(row) in map(repr, lines), True, "a row of the file")
    whole = sum(line.encode() in content for line in map(json.dumps, ROWS))
    if content.endswith(CUT) and len(rows) < whole and b"\n" in content:
        separate = {line for line in content.split(b"\n")}
        wanted = sum(json.dumps(row).encode() in separate for row in ROWS)
        equal(len(rows) >= wanted, True, "whole rows are kept")


def check_lock(content: bytes, folder: Path) -> None:
    """The file of a holder that has gone: taken over, or told; then removed."""
    del folder
    for text in (content.decode(errors="replace"), ""):
        holder = lock.parse_holder(text)
        check_sentence(lock.in_words(holder), "process")
        if holder:
            lock.is_running(holder["pid"])


@functools.cache
def saved_step() -> Path:
    """A step as Orbax writes it, with its manifest."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-step-"))
    checkpoints = Checkpoints(folder, keep_last=1)
    facts = {"label_names": ["cat", "dog"], "next_index": 3, "config": CONFIG}
    state = {"a": jnp.arange(6.0), "b": {"c": jnp.ones((2, 3))}}
    checkpoints.save(1, state, facts, {"accuracy": 0.5})
    checkpoints.close()
    return folder / "1"


Damage = tuple[str, bytes, bool]


def damaged_steps(*, manifest: bool = True) -> st.SearchStrategy[Damage]:
    """A file of a step, its new content, and whether there is a manifest."""
    cases, step = [], saved_step()
    for path in sorted(filter(Path.is_file, step.rglob("*"))):
        whole = path.read_bytes()
        changes = edited([whole]) if whole else st.binary(min_size=1, max_size=9)
        if path.name in (integrity.MANIFEST, integrity.METADATA):
            changes |= any_json([json.loads(whole)])
        if manifest or path.name != integrity.MANIFEST:
            name = st.just(str(path.relative_to(step)))
            cases.append(st.tuples(name, changes, st.just(manifest)))
    return st.one_of(cases)


unsealed_steps = functools.partial(damaged_steps, manifest=False)


def check_step(case: Damage, folder: Path) -> None:
    name, content, has_manifest = case
    step, saved = folder / "1", saved_step()
    shutil.copytree(saved, step)
    if not has_manifest:
        (step / integrity.MANIFEST).unlink()
    whole = (step / name).read_bytes()
    (step / name).write_bytes(content)
    problem = integrity.verify(step)
    if problem:
        check_sentence(problem, "")
    elif has_manifest:
        equal(content, whole, f"{name}, which the manifest vouches for,")
    elif name == integrity.METADATA and integrity.read_metadata(step):
        kept = integrity.read_metadata(step)
        equal(kept.get("label_names"), ["cat", "dog"], "names of classes")
    integrity.verify_sizes(step)
    integrity.read_metrics(step)
    integrity.saved_at(step)
    listing.table([listing.look_at(step, [], checksums=False)])
    with telling("metadata"):
        facts_of(integrity.read_user_metadata(step))


def rows_of_bytes() -> list[bytes]:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    return [lines, lines + CUT]


def one_row(text: bytes) -> bytes:
    return b"\n".join(
        (json.dumps(ROWS[0]).encode(), text, json.dumps(ROWS[2]).encode())
    )


def check_kept(content: bytes, folder: Path) -> None:
    """What `checkpoints` reads of a run's config."""
    from vit_jax.checkpoints.__main__ import make_parser

    path = folder / "config.json"
    path.write_bytes(content)
    (folder / "checkpoints").mkdir()
    arguments: Any = make_parser().parse_args([str(folder)])
    with telling(path, "keep", errors=(ValueError, OSError)):
        retention = listing.find_retention(folder / "checkpoints", arguments)
        retention.kept(folder / "checkpoints")


KEPT = {"checkpoint": {"keep_last": 1, "keep_best": 2, "keep_every": "10steps"}}
READERS = (
    Reader("config.json of a run", lambda: any_json([CONFIG]), check_run_config),
    Reader("checkpoint section", lambda: any_json([KEPT, CONFIG]), check_kept),
    Reader(
        "metrics.jsonl",
        lambda: edited(rows_of_bytes()) | any_json(ROWS).map(one_row),
        check_rows,
    ),
    Reader("in_use.json", lambda: any_json([HOLDER]), check_lock),
    Reader("step with manifest", damaged_steps, check_step),
    Reader("step without manifest", unsealed_steps, check_step, 10),
)
