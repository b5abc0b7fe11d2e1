"""Runs in a bucket under faults, by real processes: the same bits as on a disk."""

import os
import random
import re
import signal
import time
import urllib.error
import urllib.request

import bucket_server
import numpy as np
import pytest
from PIL import Image

from faults.processes import Training, final_state, finish
from vit_jax.data import prepare
from vit_jax.storage.paths import as_path
from vit_jax.storage.run_files import read_metrics

gcsfs = pytest.importorskip("gcsfs")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]
OPTIONS = ("--config.train.duration=200steps",)


@pytest.fixture(scope="session")
def store():
    with bucket_server.running() as environment:
        os.environ.update(environment)
        yield


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """A run on a disk that was left alone."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    with Training(workdir, options=OPTIONS) as training:
        assert training.end() == [0], training.text()
    return workdir


def rows(workdir):
    """The rows of metrics, without the speed."""
    found = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("/s")} for row in found]


def assert_same(workdir, reference):
    workdir = as_path(workdir)
    assert final_state(workdir) == final_state(reference)
    assert rows(workdir) == rows(reference) != []


def go_on(workdir, log, count=1):
    with Training(workdir, count, OPTIONS, log) as training:
        assert set(training.end()) == {0}, training.text()
        return training.text()


def test_ten_kills(reference, tmp_path):
    workdir, rng = f"gs://{bucket_server.BUCKET}/kills", random.Random(0)
    reached = 0
    for kill in range(10):
        with Training(workdir, options=OPTIONS, logs=tmp_path / "log") as training:
            # Two while Python imports or JAX compiles.
            target = reached + rng.randint(5, 25)
            if kill in (0, 5):
                time.sleep(rng.uniform(1, 6))
            else:
                training.wait_for_step(min(target, 190))
                time.sleep(rng.uniform(0, 0.3))
            training.processes[0].kill()
            training.end()
            found = re.search(r"Going on from step (\d+)", training.text())
            reached = max(reached, int(found[1]) if found else 0)
            assert "DAMAGED" not in training.text()
    assert "Going on from step" in go_on(workdir, tmp_path / "log")
    assert_same(workdir, reference)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_in_a_bucket_give_the_bits_of_their_folder(tmp_path, workers):
    """Killed in mid-run, run and data both in a bucket; then a shard changes."""
    folder, shards = tmp_path / "photos", tmp_path / "shards"
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        path = folder / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    prepare.main([str(folder), "--output", str(shards), "--per-shard", "30"])
    files, name = gcsfs.GCSFileSystem(), f"{bucket_server.BUCKET}/shards{workers}"
    for path in shards.iterdir():
        if path.is_file():
            files.put_file(str(path), f"{name}/{path.name}")
    options = (*OPTIONS, "--config.eval.splits=train[:20]", "--config.data.cache=never")
    local = (*options, f"--config.data.name={folder}")
    with Training(tmp_path / "run", options=local) as training:
        assert training.end() == [0], training.text()
    options += (f"--config.data.name=gs://{name}", f"--config.data.workers={workers}")
    options += (f"--config.data.stage={tmp_path / 'stage'}",)
    workdir = f"gs://{bucket_server.BUCKET}/on_shards{workers}"
    for step in (35, 90):
        with Training(workdir, options=options, logs=tmp_path / "log") as training:
            training.wait_for_step(step)
            training.processes[0].kill()
            training.end()
    with Training(workdir, options=options, logs=tmp_path / "log") as training:
        assert training.end() == [0], training.text()
        assert "Going on from step" in training.text()
        assert "have changed" not in training.text()
    assert_same(workdir, tmp_path / "run")
    # The same names and the same number of them, one label another.
    content = (shards / "train-000001.tar").read_bytes()
    label = content.index(b".cls\0") // 512 * 512 + 512
    other = str(1 - int(content[label : label + 1])).encode()
    changed = content[:label] + other + content[label + 1 :]
    files.pipe_file(f"{name}/train-000001.tar", changed)
    with Training(workdir, options=options, logs=tmp_path / "log") as training:
        assert training.end() == [0], training.text()
        assert "train had 80 images and has 80, but others" in training.text()


def test_sigterm_saves(reference, tmp_path):
    workdir = f"gs://{bucket_server.BUCKET}/terminated"
    with Training(workdir, options=OPTIONS, logs=tmp_path / "log") as training:
        training.wait_for_step(33)
        training.processes[0].send_signal(signal.SIGTERM)
        assert training.end() == [75] and "the state is saved" in training.text()
        (stopped,) = re.findall(r"at step (\d+) of", training.text())
    assert f"Going on from step {stopped}" in go_on(workdir, tmp_path / "log")
    assert final_state(as_path(workdir)) == final_state(reference)


def test_two_processes_share_a_bucket(tmp_path):
    finish(tmp_path / "run", 2)
    workdir = f"gs://{bucket_server.BUCKET}/shared"
    with Training(workdir, 2, logs=tmp_path / "log") as training:
        training.wait_for_step(45)
        for process in training.processes:
            process.kill()
        training.end()
    with Training(workdir, 2, logs=tmp_path / "log") as training:
        assert training.end() == [0, 0], training.text()
        assert "Going on from step" in training.text()
    assert final_state(as_path(workdir)) == final_state(tmp_path / "run")


def is_there(address):
    try:
        with urllib.request.urlopen(address):
            return True
    except urllib.error.HTTPError:
        return False


def test_a_store_that_goes_away_is_told(tmp_path, monkeypatch):
    """Between two saves, with the last good step, and at the start."""
    workdir = f"gs://{bucket_server.BUCKET}/run"
    with bucket_server.running() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        options = ("--config.train.duration=100000steps",)
        options += ("--config.checkpoint.every=500steps",)
        training = Training(workdir, options=options, logs=tmp_path / "log")
        address = environment["STORAGE_EMULATOR_HOST"]
        manifest = f"{address}/bucket/run/checkpoints/500/manifest.json"
        training.wait_until(lambda: is_there(manifest))
    with training:
        codes, text = training.end(), training.text()
    assert codes == [1] and "Traceback" not in text
    assert re.search(r"^error: .*The last good checkpoint is step \d+ in", text, re.M)
    with Training(workdir, options=options, logs=tmp_path / "log") as training:
        codes, text = training.end(), training.text()
    assert codes == [1] and "Traceback" not in text
    assert re.search(
        r"^error: gs://bucket/run/checkpoints could not be read", text, re.M
    )
