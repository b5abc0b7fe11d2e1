"""Work kept off the thread that trains: joining and copying batches, metrics."""

import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from vit_jax.checkpoints.fingerprint import examine, lower_examination
from vit_jax.data import batches as batches_module
from vit_jax.data.decode import ImageError
from vit_jax.data.device import prefetch_to_device
from vit_jax.data.pipeline import Data
from vit_jax.data.stream import Filling
from vit_jax.training.writer_thread import WriterThread


@pytest.fixture
def device():
    return SingleDeviceSharding(jax.devices()[0])


class Batches:
    """Three batches; notes who asked for them, and how many are under way."""

    batch_size, rows = 4, None

    def __init__(self, count=3, fails_at=None):
        self.count, self.fails_at = count, fails_at
        self.next_index, self.skipped = 0, []
        self.threads, self.closed = set(), 0

    def __next__(self):
        self.threads.add(threading.current_thread())
        number = self.next_index // 4
        if number == self.fails_at:
            raise ImageError("number 7: broken")
        if number == self.count:
            raise StopIteration
        self.next_index += 4
        self.skipped.append(f"bad {number}")
        return {"image": np.full((4, 2), number)}

    def close(self):
        self.closed += 1


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_another_thread_makes_the_batches(device, monkeypatch):
    put = []
    real = jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda *a: put.append(threading.get_ident()) or real(*a)
    )
    source = Batches()
    with prefetch_to_device(source, device) as batches:
        values = [int(batch["image"][0, 0]) for batch in batches]
    assert values == [0, 1, 2]
    (thread,) = source.threads
    assert thread is not threading.current_thread() and set(put) == {thread.ident}
    assert not thread.is_alive() and source.closed == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_position_and_skipped_records_are_those_of_the_batch_in_use(device, size):
    source = Batches(count=10)
    with prefetch_to_device(source, device, size) as batches:
        for number in range(5):
            next(batches)
            # As far ahead as it may go; that is no part of the position.
            wait_until(lambda n=number: source.next_index == 4 * (n + size))
            time.sleep(0.02)
            assert source.next_index == 4 * (number + size)
            assert batches.next_index == 4 * (number + 1)
            assert batches.skipped == [f"bad {n}" for n in range(number + 1)]


def test_an_error_comes_behind_the_batches_before_it_and_stays(device):
    with prefetch_to_device(Batches(fails_at=2), device) as batches:
        assert [int(next(batches)["image"][0, 0]) for _ in range(2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(ImageError, match="number 7"):
                next(batches)
        assert batches.next_index == 8
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_closing_ends_the_thread_and_so_does_dropping(device):
    source = Batches(count=1000)
    batches = prefetch_to_device(source, device)
    batches.close()
    batches.close()
    assert source.closed == 1
    dropped = Batches(count=1000)
    batches = prefetch_to_device(dropped, device)
    next(batches)
    del batches
    wait_until(lambda: dropped.closed == 1)
    (thread,) = dropped.threads
    wait_until(lambda: not thread.is_alive())


def test_a_batch_that_never_comes_does_not_keep_it_from_closing(device, monkeypatch):
    monkeypatch.setattr("vit_jax.data.device.PATIENCE", 0.2)
    stuck, release = Batches(), threading.Event()
    monkeypatch.setattr(Batches, "__next__", lambda _: release.wait())
    batches = prefetch_to_device(stuck, device)
    batches.close()
    assert stuck.closed == 1
    release.set()


def test_blocks_of_threads_are_never_copied_together(monkeypatch):
    """The rows of blocks are views of one array, which loading filled."""

    real = np.concatenate

    def concatenate(arrays, *more, **options):
        assert arrays[0].ndim < 4, "images are copied"
        return real(arrays, *more, **options)

    data = Data(
        name="digits", batch_size=200, image_size=(8, 8), crop="resize", num_threads=3
    )
    monkeypatch.setattr(batches_module.np, "concatenate", concatenate)
    with data.train_batches(seed=0) as batches:
        first, second = next(batches), next(batches)
    assert first["image"].shape == (200, 8, 8, 3) and first["image"].base is None
    assert not np.shares_memory(first["image"], second["image"])
    assert first["image"].any((1, 2, 3)).all() and second["image"].any((1, 2, 3)).all()


def test_a_filling_forgets_batches_that_all_blocks_have():
    made = []
    filling = Filling(2)

    def make():
        made.append({})
        return made[-1]

    one, two = filling.batch(1, make), filling.batch(2, make)
    assert filling.batch(2, make) is two and filling.batch(1, make) is one
    assert one is not two and len(made) == 2
    assert filling.batch(1, make) is not one  # nobody asks: it was forgotten


class SlowWriter:
    """A metrics file on a slow file system, which fails at step 3."""

    def __init__(self):
        self.rows, self.closed, self.flushed = [], False, []

    def train(self, step, values):
        time.sleep(0.1)
        if step == 3:
            raise OSError(28, "No space left on device")
        self.rows.append((threading.current_thread(), step, values))

    evaluation = train

    def skipped(self, names):
        self.rows.append((threading.current_thread(), names))

    def flush(self):
        self.flushed.append(len(self.rows))

    def close(self):
        self.closed = True


def test_metrics_are_written_by_a_thread_and_before_a_flush_returns():
    slow = SlowWriter()
    log = WriterThread(slow)
    results = {"test": {"loss": 1.0}}
    log.train(1, {"loss": 2.0})
    log.evaluation(2, results)
    results["late"] = {}
    log.skipped(["a"])
    log.skipped(["a", "b"])
    assert slow.rows == []
    log.flush()
    rows = [row[1:] for row in slow.rows]
    assert rows == [
        (1, {"loss": 2.0}),
        (2, {"test": {"loss": 1.0}}),
        (["a"],),
        (["b"],),
    ]
    assert slow.flushed == [4]
    assert threading.current_thread() not in {row[0] for row in slow.rows}
    log.train(4, {})
    log.close()
    assert slow.rows[-1][1] == 4 and slow.closed


def test_what_cannot_be_written_is_raised_by_a_later_call():
    slow = SlowWriter()
    log = WriterThread(slow)
    log.train(3, {})
    with pytest.raises(OSError, match="No space left"):
        log.flush()
    log.train(3, {})
    time.sleep(0.3)
    with pytest.raises(OSError, match="No space left"):
        log.train(4, {})
    log.train(3, {})
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert slow.closed


def test_what_is_compiled_ahead_is_not_compiled_again():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append("backend_compile" in event)
    )
    tree = {"a": np.arange(7.0, dtype=np.float32), "b": np.arange(5)}
    placed = jax.device_put(tree, SingleDeviceSharding(jax.devices()[0]))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
    )
    lower_examination(shapes).compile()
    assert any(compiled)
    compiled.clear()
    assert examine(placed)[0]
    assert not any(compiled)


@pytest.mark.full
def test_the_command_that_measures_it():
    command = [sys.executable, "-m", "benchmarks.host_overhead"]
    command += ["--batch", "8", "--size", "16", "--steps", "4", "--pause", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in ("next batch", "metrics of a step", "a row of metrics", "save"):
        assert f"| {name} | " in result.stdout
