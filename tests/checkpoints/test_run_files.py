"""The JSON files of a run: damage of any bit is a sentence, and never silent."""

import json
import os
from collections import Counter
from typing import Any

import jax.numpy as jnp
import ml_collections
import pytest

from configs import digits
from vit_jax.checkpoints import integrity
from vit_jax.checkpoints.integrity import MANIFEST, METADATA
from vit_jax.checkpoints.store import CheckpointError, Checkpoints
from vit_jax.config import ConfigError, difference
from vit_jax.storage.json_files import MOST_BYTES, read_json
from vit_jax.storage.run_files import load_config, read_metrics


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json_is_a_sentence(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="config.json is not readable as JSON: ."):
        read_json(path, Any)


def test_what_is_no_file_of_json_is_not_opened(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(FileNotFoundError):
        read_json(path, Any)
    for target, reason in (
        ("/dev/zero", "is a device and no regular file"),
        (tmp_path, "is a folder and no regular file"),
        (tmp_path / "fifo", "is a FIFO and no regular file"),
        (tmp_path / "hole", r"has 300,000,000,000 bytes, more than 268,435,456"),
    ):
        path.symlink_to(target)
        if "FIFO" in reason:
            os.mkfifo(target)
        elif "bytes" in reason:
            target.touch()
            os.truncate(target, 300_000_000_000)
        with pytest.raises(ValueError, match=f"config.json {reason}$"):
            read_json(path, Any)
        path.unlink()
    assert MOST_BYTES == 2**28


def test_a_fifo_in_a_step_is_damage(step):
    for name in (METADATA, MANIFEST):
        (step / name).unlink()
        os.mkfifo(step / name)
        assert integrity.verify(step).startswith(name)
    assert integrity.read_metadata(step) == {}


def flips(data: bytes):
    """The data with each of its bits flipped, one at a time."""
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            yield bytes(flipped)


@pytest.fixture
def step(tmp_path):
    """A step of two files, with its manifest."""
    folder = tmp_path / "7"
    (folder / "state" / "d").mkdir(parents=True)
    (folder / "state" / "d" / "array").write_bytes(bytes(range(64)))
    metadata = {"custom_metadata": {"label_names": ["cat", "dog"]}}
    (folder / METADATA).write_text(json.dumps(metadata))
    integrity.write_manifest(folder)
    return folder


def old_manifest(step):
    entries = json.loads((step / MANIFEST).read_text())["files"]
    (step / MANIFEST).write_text(json.dumps(entries, indent=1))


def first_manifest(step):
    entries = json.loads((step / MANIFEST).read_text())["files"]
    text = json.dumps({name: entry["sha256"] for name, entry in entries.items()})
    (step / MANIFEST).write_text(text)


@pytest.mark.parametrize("form", [lambda _: None, old_manifest, first_manifest])
def test_every_flipped_bit_of_a_manifest_is_damage(step, form):
    form(step)
    assert integrity.verify(step) == integrity.verify_sizes(step) == ""
    whole = (step / MANIFEST).read_bytes()
    silent = 0
    for data in flips(whole):
        (step / MANIFEST).write_bytes(data)
        silent += not integrity.verify(step)
    assert silent == 0


@pytest.mark.parametrize(
    "content", ["{}", "[]", "12", '{"files": {}}', '{"a": {"bytes": 1}}', "null"]
)
def test_a_manifest_of_another_shape_vouches_for_nothing(step, content):
    (step / MANIFEST).write_text(content)
    assert integrity.verify(step) == "manifest.json does not list the files of a step"


def test_a_manifest_lists_all_files(step):
    (step / "state" / ".nfs0001").write_text("")  # of a file system
    assert integrity.verify(step) == ""
    (step / "state" / "stray").write_text("")
    assert integrity.verify(step) == "state/stray is not in manifest.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of the steps 1 and 2, as Orbax writes them."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, keep_last=2)
    for number in (1, 2):
        names = ["cat", "dog"]
        facts = {"label_names": names, "next_index": 3, "config": config_values()}
        checkpoints.save(number, {"a": jnp.float32(number)}, facts, {"accuracy": 0.5})
    checkpoints.close()
    return folder


def config_values():
    return json.loads(digits.get_config().to_json())


def test_metadata_without_a_manifest_have_a_checksum(saved):
    """What a bit in a label, or in the config, does before there is a manifest."""
    folder, path = saved / "2", saved / "2" / METADATA
    manifest, whole = (folder / MANIFEST).read_bytes(), path.read_bytes()
    (folder / MANIFEST).unlink()
    try:
        assert integrity.verify(folder) == ""
        path.write_bytes(whole.replace(b'"cat"', b'"bat"'))
        assert "checksum within" in integrity.verify(folder)
    finally:
        path.write_bytes(whole)
        (folder / MANIFEST).write_bytes(manifest)


def test_the_newest_facts_are_those_of_whole_metadata(saved):
    path = saved / "2" / METADATA
    whole = path.read_bytes()
    checkpoints = Checkpoints(saved, read_only=True)
    assert checkpoints.newest_facts()["label_names"] == ["cat", "dog"]
    try:
        for other in (b'"bat"', b'"c\xff"', b"12"):
            path.write_bytes(whole.replace(b'"cat"', other))
            assert checkpoints.newest_facts()["label_names"] == ["cat", "dog"]
        (saved / "1").rename(saved / "one")
        with pytest.raises(CheckpointError, match="there is no checkpoint in"):
            checkpoints.newest_facts()
    finally:
        path.write_bytes(whole)
        (saved / "one").rename(saved / "1")


def test_flipped_bits_of_a_config_are_told(tmp_path):
    """Each is an error, a difference, or another spelling of the same value."""
    small = {name: {"name": "a"} for name in ("model", "data", "loss", "train")}
    small["data"]["image_size"] = [16, 16]
    config = ml_collections.ConfigDict(small | {"init": "", "seed": 3})
    path = tmp_path / "config.json"
    outcomes = Counter()
    for data in flips(config.to_json(indent=2).encode()):
        path.write_bytes(data)
        try:
            same = difference(load_config(path), config) == {}
            outcomes["same" if same else "difference"] += 1
        except ConfigError:
            outcomes["error"] += 1
    assert outcomes["same"] == 0 and outcomes["error"] and outcomes["difference"]


@pytest.mark.parametrize("content", ["[]", "12", "{}", '{"model": 3}', "null", '"x"'])
def test_a_config_of_another_shape_is_a_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"ing run: .*config.json: .*(wanted|miss)"):
        load_config(tmp_path / "config.json")


def test_damage_in_the_middle_of_metrics_costs_its_rows(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": n, "split": "train", "loss": float(n)} for n in range(1, 7)]
    lines = [json.dumps(row).encode() for row in rows]
    lines[1], lines[2], lines[4] = b"12", b'{"step": 3, "split": "tr\xff', b""
    path.write_bytes(b"\n".join(lines) + b'\n{"step": 7, "spl')
    assert [row["step"] for row in read_metrics(path)] == [1, 4, 6]
    assert "metrics.jsonl: line 2, 3, 5 cannot be read" in caplog.text
    caplog.clear()
    path.write_bytes(json.dumps(rows[0]).encode() + b'\n{"step": 7, "spl')
    assert len(read_metrics(path)) == 1 and not caplog.text  # a kill's cut is no damage


def test_a_row_that_was_saved_is_not_cut_in_silence(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "split": "te')
    assert len(read_metrics(path, saved=1)) == 1 and not caplog.text
    assert len(read_metrics(path, saved=2)) == 1
    assert "line 2 cannot be read and is left out" in caplog.text


@pytest.mark.parametrize(
    "row",
    ["[1]", "null", '{"step": "3", "split": "a"}', '{"step": 3}',
     '{"step": 3, "split": "a", "loss": "x"}', '{"step": 3, "split": 5}'],
)  # fmt: skip
def test_rows_of_another_shape_are_left_out(tmp_path, row):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{row}\n{{"step": 4, "split": "fault", "reason": "NaN"}}\n')
    assert [found["step"] for found in read_metrics(path)] == [4]
