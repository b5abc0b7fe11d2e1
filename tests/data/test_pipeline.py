"""The order of examples, resume, evaluation, bad records and worker processes."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import stream
from vit_jax.data.cpus import check_workers
from vit_jax.data.decode import ImageError
from vit_jax.data.pipeline import Data, prefetch_to_device

NUM_TRAIN, NUM_TEST = 60, 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose images have their number as their colour."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for number in range(count):
            path = root / split / f"class{number % 3}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (number, 100, 200)).save(path)
    return root


@pytest.fixture
def broken(folder, tmp_path):
    """The same with three unreadable training images and one test image."""
    root = tmp_path / "broken"
    subprocess.run(["cp", "-r", folder, root], check=True)
    bad = [root / "train" / f"class{n % 3}" / f"{n:03}.png" for n in (7, 8, 40)]
    bad.append(root / "test" / "class1" / "004.png")
    for path in bad:
        path.write_bytes(path.read_bytes()[:30])
    return root, sorted(map(str, bad[:3])), str(bad[3])


def _data(root, **options) -> Data:
    options = {"batch_size": 8, "image_size": (8, 8), "crop": "resize"} | options
    return Data(name=str(root), **options)


def _take(batches, count: int) -> list[dict]:
    with batches:
        return [next(batches) for _ in range(count)]


def _equal(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def _numbers(batches: list[dict]) -> list[int]:
    return [int(n) for batch in batches for n in batch["image"][:, 0, 0, 0]]


def _rows_by_host(batch_size: int, hosts: int) -> list[np.ndarray]:
    """Every host's rows; they are interleaved, as on the grid of chips of a TPU."""
    return [np.arange(batch_size)[h::hosts] for h in range(hosts)]


def _split_by_host(data: Data, count: int, hosts: int, **options) -> list[dict]:
    """Batches of simulated hosts, put together again."""
    whole: list[dict] = [{} for _ in range(count)]
    for rows in _rows_by_host(data.batch_size, hosts):
        for t, part in enumerate(
            _take(data.train_batches(rows=rows, **options), count)
        ):
            for key, value in part.items():
                shape = (data.batch_size, *value.shape[1:])
                whole[t].setdefault(key, np.zeros(shape, value.dtype))[rows] = value
    return whole


# --- The order of the stream -----------------------------------------------------


def test_each_epoch_is_a_new_permutation():
    epochs = [
        tuple(stream.example_at(60 * epoch + i, 60, seed) for i in range(60))
        for seed in range(5)
        for epoch in range(5)
    ]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    # Also not shared along seed + epoch.
    assert len(set(epochs)) == 25
    # Golden: an order that changes between versions would break resuming.
    assert epochs[0][:8] == (18, 55, 50, 7, 20, 45, 24, 52)
    assert stream.example_at(10**15, 300_000_000, 0) < 300_000_000
    assert [stream.example_at(i, 1, 0) for i in range(3)] == [0, 0, 0]


def test_repeated_augmentation_fills_an_epoch_with_a_third_of_the_images():
    """As DeiT's RASampler: each record three times in a row, of a new order."""
    epochs = [
        [stream.example_at(60 * epoch + i, 60, 0, copies=3) for i in range(60)]
        for epoch in range(3)
    ]
    orders = [
        [stream.example_at(60 * epoch + i, 60, 0) for i in range(20)]
        for epoch in range(3)
    ]
    assert epochs == [np.repeat(order, 3).tolist() for order in orders]
    assert len(set(map(tuple, orders))) == 3


@pytest.mark.parametrize("batch_size", [24, 16, 17])
def test_copies_are_in_one_batch_and_no_neighbours(folder, batch_size):
    options = dict(crop="inception", flip="on", batch_size=batch_size)
    data = _data(folder, **options, repeated_augmentation=3)
    source, whole = data.source("train"), _take(data.train_batches(seed=3), 6)
    for t, batch in enumerate(whole):
        positions = range(t * batch_size, (t + 1) * batch_size)
        wanted = {
            data.train_transform(
                source[stream.example_at(p, NUM_TRAIN, 3, copies=3)]["image"],
                stream.generator_at(p, 3),
            ).tobytes()
            for p in positions
        }
        assert {image.tobytes() for image in batch["image"]} == wanted
        order = stream.spread(np.array(positions), NUM_TRAIN, 3)
        records = [stream.example_at(int(p), NUM_TRAIN, 3, copies=3) for p in order]
        # MixUp takes the row before, and the last for the first.
        assert all(records[i] != records[i - 1] for i in range(batch_size))
    resumed = data.train_batches(seed=3, start_index=2 * batch_size)
    assert _equal(_take(resumed, 4), whole[2:])
    # Two hosts have the rows of one.
    half = np.arange(batch_size // 2, batch_size)
    rows = data.train_batches(seed=3, rows=half)
    parts = [{key: value[half] for key, value in batch.items()} for batch in whole]
    assert _equal(_take(rows, 6), parts)


def test_augmentation_depends_on_seed_and_position_only():
    seeds = (0, 0, 0, 1, 5, 0, 0, 0)
    positions = (5, 5, 6, 5, 0, 65, 5 + (1 << 32), 1 << 60)
    draws = [
        stream.generator_at(position, seed).random()
        for seed, position in zip(seeds, positions, strict=True)
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 7


def test_batches_follow_the_index_law(folder):
    data = _data(folder, crop="inception", flip="on")
    source = data.source("train")
    expected = []
    for t in range(20):
        records = [
            (position, source[stream.example_at(position, NUM_TRAIN, 3)])
            for position in range(8 * t, 8 * t + 8)
        ]
        images = [
            data.train_transform(r["image"], stream.generator_at(position, 3))
            for position, r in records
        ]
        labels = np.array([record["label"] for _, record in records], np.int32)
        expected.append({"image": np.stack(images), "label": labels})
    batches = _take(data.train_batches(seed=3), 20)
    assert _equal(batches, expected)
    assert batches[0]["image"].dtype == np.uint8
    assert batches[0]["label"].dtype == np.int32
    assert all(
        n % 3 == label
        for n, label in zip(
            _numbers(batches),
            np.concatenate([b["label"] for b in batches]),
            strict=True,
        )
    )


@pytest.mark.parametrize("hosts", [2, 4])
def test_number_of_hosts_changes_nothing(folder, hosts):
    data = _data(folder, crop="inception")
    alone = _take(data.train_batches(seed=1), 12)
    assert _equal(_split_by_host(data, 12, hosts, seed=1), alone)


def test_blocks_cover_large_batches(folder, monkeypatch):
    data = _data(folder, crop="inception", batch_size=44)
    whole = _take(data.train_batches(seed=1), 6)
    evaluated = list(data.eval_batches("test", 14))
    monkeypatch.setattr(stream, "_BLOCK", 5)
    assert _equal(_take(data.train_batches(seed=1), 6), whole)
    assert _equal(_split_by_host(data, 6, 2, seed=1), whole)
    assert _equal(list(data.eval_batches("test", 14)), evaluated)


@pytest.mark.parametrize("position", [1, 7, 8, 15])
def test_resume_at_any_batch(folder, position):
    data = _data(folder, crop="inception")
    whole = _take(data.train_batches(seed=1), 20)
    batches = data.train_batches(seed=1)
    for _ in range(position):
        next(batches)
    assert batches.next_index == 8 * position
    batches.close()
    again = data.train_batches(seed=1, start_index=batches.next_index)
    assert _equal(_take(again, 20 - position), whole[position:])


def test_resume_with_another_batch_size(folder):
    data = _data(folder, crop="inception")
    whole = _take(data.train_batches(seed=1), 15)
    small = _take(
        _data(folder, crop="inception", batch_size=3).train_batches(
            seed=1, start_index=40
        ),
        20,
    )
    for key in ("image", "label"):
        wanted = np.concatenate([batch[key] for batch in whole])[40:100]
        assert np.array_equal(np.concatenate([b[key] for b in small]), wanted)


def test_threads_change_nothing(folder):
    batches = [
        _take(
            _data(folder, crop="inception", num_threads=n, cache=cache).train_batches(
                seed=2
            ),
            10,
        )
        for n, cache in ((1, "always"), (4, "never"))
    ]
    assert _equal(*batches)


def test_workers_change_nothing_also_on_resume(folder):
    data = _data(folder, crop="inception", randaug_layers=1)
    whole = _take(data.train_batches(seed=1), 12)
    one, two = (dataclasses.replace(data, workers=workers) for workers in (1, 2))
    assert _equal(_take(two.train_batches(seed=1), 7), whole[:7])
    resumed = one.train_batches(seed=1, start_index=56, rows=np.arange(4, 8))
    halves = [{key: value[4:] for key, value in b.items()} for b in whole[7:]]
    assert _equal(_take(resumed, 5), halves)


# --- Evaluation --------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 24, 64])
@pytest.mark.parametrize("split", ["test", "test[:16]", "test[:1]"])
def test_evaluation_sees_every_record_once(folder, split, batch_size, hosts):
    data = _data(folder)
    source = data.source(split)
    seen, lengths = [], set()
    for rows in _rows_by_host(batch_size, hosts):
        batches = data.eval_batches(split, batch_size, rows=rows)
        lengths.add(len(batches))
        with batches:
            count = 0
            for batch in batches:
                count += 1
                assert len(batch["image"]) == batch_size // hosts
                for row in np.flatnonzero(batch["mask"]):
                    record = source[int(batch["index"][row])]
                    assert record["label"] == batch["label"][row]
                    assert (record["image"][0, 0] == batch["image"][row, 0, 0]).all()
                    seen.append(int(batch["index"][row]))
        lengths.add(count)
    assert sorted(seen) == list(range(len(source)))
    assert lengths == {-(-len(source) // batch_size)}


def test_transforms(folder):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for crop in ("inception", "resize_small_random_crop", "resize_random_crop"):
        data = _data(folder, crop=crop, image_size=(16, 24))
        results = [
            data.train_transform(image, np.random.default_rng(s)) for s in (1, 2)
        ]
        assert all(r.shape == (16, 24, 3) and r.dtype == np.uint8 for r in results)
        assert (results[0] != results[1]).any()
    data = _data(folder, crop="resize", flip="off")
    assert (
        data.train_transform(image, np.random.default_rng(1))
        == data.train_transform(image, np.random.default_rng(2))
    ).all()
    for crop in ("resize_small_center_crop", "resize"):
        result = _data(folder, eval_crop=crop, image_size=(16, 24)).eval_transform(
            image
        )
        assert result.shape == (16, 24, 3) and result.dtype == np.uint8


def test_evaluation_resizes_with_the_filter_that_is_asked_for(folder):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    picture = Image.fromarray(image)
    filters = {
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
    for name, pillow in filters.items():
        data = _data(folder, image_size=(16, 16), eval_interpolation=name)
        expected = np.asarray(picture.resize((27, 18), pillow))[1:17, 5:21]
        assert (data.eval_transform(image) == expected).all()
        whole = dataclasses.replace(data, eval_crop="resize")
        expected = np.asarray(picture.resize((16, 16), pillow))
        assert (whole.eval_transform(image) == expected).all()
    default = _data(folder, image_size=(16, 16))
    assert default.eval_interpolation == "bilinear"


def test_flip_is_off_where_it_changes_the_label(folder):
    def flips(name, flip="auto"):
        return Data(name=name, batch_size=1, image_size=(8, 8), flip=flip).flips()

    for name in ("digits", "mnist", "svhn_cropped", "emnist/letters", "/data/mnist/"):
        assert not flips(name) and flips(name, "on")
    for name in ("cifar10", "fashion_mnist", "/digits/cats", str(folder)):
        assert flips(name) and not flips(name, "off")


# --- Bad records -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_record_raises_its_name(broken, workers):
    root, bad, _ = broken
    data = _data(root, cache="never", workers=workers)
    with data.train_batches(seed=0) as batches:
        with pytest.raises(
            ImageError, match="/(007|008|040).png: .*cannot be decoded.*on_error"
        ):
            for _ in range(8):
                next(batches)
    with pytest.raises(ImageError, match=bad[0][-10:]):
        dataclasses.replace(data, cache="always").num_examples()


def test_skipped_records_are_replaced_listed_and_change_nothing_else(broken, folder):
    root, bad, _ = broken
    good = _take(_data(folder).train_batches(seed=0), 30)
    by_workers = []
    for options in ({"cache": "always"}, {"cache": "never", "workers": 1}):
        batches = _data(root, on_error="skip", **options).train_batches(seed=0)
        taken = _take(batches, 30)
        assert sorted(batches.skipped) == bad
        by_workers.append(taken)
    assert _equal(*by_workers)
    numbers, wanted = _numbers(by_workers[0]), _numbers(good)
    assert not {7, 8, 40} & set(numbers)
    # In place of a bad record stands the next good one in the order of the source.
    source = _data(folder).source("train")
    order = [int(source[i]["image"][0, 0, 0]) for i in range(NUM_TRAIN)]
    for number, want in zip(numbers, wanted, strict=True):
        place = order.index(want)
        following = (order[place:] + order[:place])[: len(bad) + 1]
        assert number == next(n for n in following if n not in (7, 8, 40))


def test_too_many_bad_records_stop_the_training(broken):
    root, _, _ = broken
    batches = _data(root, on_error="skip", max_errors=2).train_batches(seed=0)
    with pytest.raises(ImageError, match="3 of 60 records.*data.max_errors=2 allows"):
        _take(batches, 30)


def test_split_without_any_good_record(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes(b"")
    data = _data(tmp_path, on_error="skip", batch_size=2)
    with pytest.raises(ImageError, match="4 of 4 records cannot be read"):
        _take(data.train_batches(seed=0), 4)


def test_evaluation_masks_and_lists_bad_records(broken):
    root, _, bad = broken
    with pytest.raises(ImageError, match="test/class1/004.png"):
        list(_data(root).eval_batches("test", 8))
    batches = _data(root, on_error="skip").eval_batches("test", 8)
    taken = list(batches)
    assert sum(int(batch["mask"].sum()) for batch in taken) == NUM_TEST - 1
    assert batches.skipped == [bad]


# --- Mistakes before the first step ------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "center"}, "data.crop is 'center': wanted one of inception"),
        ({"eval_crop": "x"}, "data.eval_crop is 'x': wanted one of resize_small"),
        (
            {"eval_interpolation": "x"},
            "eval_interpolation is .x.: wanted one of",
        ),
        ({"flip": True}, "data.flip is True: wanted one of auto, on, off"),
        ({"on_error": "x"}, "data.on_error is 'x': wanted one of raise, skip"),
        ({"cache": "x"}, "data.cache is 'x': wanted one of auto, always"),
        ({"image_size": (8, 0)}, r"data.image_size\[1\] is 0: wanted a whole number"),
        ({"crop_area": (0.5, 1.5)}, r"data.crop_area\[1\] is 1.5: wanted a number in"),
        ({"crop_area": (0.5, 0.4)}, "least <= most, got"),
        ({"batch_size": 0}, "data.batch_size is 0: wanted a whole number"),
        ({"workers": -1}, "data.workers is -1: wanted a whole number"),
        ({"crop_resize": 7}, "data.crop_resize must be 0 .* or at least 8.*got 7"),
        ({"eval_resize": 7}, "data.eval_resize must be 0 .* or at least 8.*got 7"),
        ({"randaug_layers": -1}, "data.randaug_layers is -1: wanted a whole"),
    ],
)
def test_wrong_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        _data(folder, **options)


def test_wrong_sizes(folder):
    with pytest.raises(ValueError, match="batch_size=61 is larger than .* 60 images"):
        _data(folder, batch_size=61).train_batches(seed=0)
    with pytest.raises(ValueError, match="split 'train.0:0.' of .* is empty"):
        _data(folder, split="train[0:0]").train_batches(seed=0)


def test_interface(folder):
    data = _data(folder, image_size=[8, 8])
    assert data.image_size == (8, 8)
    assert data.label_names() == ("class0", "class1", "class2")
    assert data.num_examples() == NUM_TRAIN and data.num_examples("test") == NUM_TEST
    assert data.source("train") is data.source("train")
    assert pickle.loads(pickle.dumps(data)) == data
    assert len(pickle.dumps(data)) < 1000
    batches = data.train_batches(seed=0)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="these batches are closed"):
        next(batches)


# --- Devices and processes ---------------------------------------------------------


def test_prefetch_counts_delivered_batches(folder):
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    data = _data(folder)
    host = _take(data.train_batches(seed=0), 5)
    with prefetch_to_device(data.train_batches(seed=0), sharding, 3) as device:
        assert device.next_index == 0
        for count, batch in enumerate(host, 1):
            arrays = next(device)
            assert arrays["image"].sharding == sharding
            assert arrays["image"].dtype == np.uint8
            assert _equal([{k: np.asarray(v) for k, v in arrays.items()}], [batch])
            assert device.next_index == 8 * count
    evaluated = list(prefetch_to_device(data.eval_batches("test", 8), sharding))
    assert sum(int(batch["mask"].sum()) for batch in evaluated) == NUM_TEST
    with pytest.raises(ValueError, match="size=0"):
        prefetch_to_device(data.train_batches(seed=0), sharding, 0)


_TRAINER = """
import multiprocessing, sys, time
from vit_jax.data.pipeline import Data

if __name__ == "__main__":
    workers = int(sys.argv[2])
    data = Data(name=sys.argv[1], batch_size=8, image_size=(8, 8), workers=workers)
    batches = data.train_batches(seed=0)
    for _ in range(4):
        next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    while sys.argv[3] == "run":
        next(batches)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie is dead; only its parent (here: init) has not reaped it yet.
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_workers_die_with_a_killed_trainer_and_not_before(folder, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), "2", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2 and all(map(_alive, workers))
        for pid in workers:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.5)
        assert trainer.poll() is None and all(map(_alive, workers))
        trainer.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))


def test_unclosed_batches_end_quietly(folder, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), "1", "end"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == ""


def test_no_framework_is_imported_where_it_is_not_needed():
    code = (
        "import sys, vit_jax.data.pipeline as p;"
        "p.Data(name='x', batch_size=1, image_size=(8, 8));"
        "print([m for m in ('flax', 'tensorflow', 'tensorflow_datasets', 'sklearn')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


_STARTING = """
import sys, time
import vit_jax

if "--multiprocessing-fork" in sys.orig_argv:
    time.sleep(600)  # a worker that is still importing

if __name__ == "__main__":
    import multiprocessing, threading
    from vit_jax.data.pipeline import Data

    data = Data(name=sys.argv[1], batch_size=8, image_size=(8, 8), workers=1)
    batches = data.train_batches(seed=0)
    threading.Thread(target=next, args=(batches,), daemon=True).start()
    while not multiprocessing.active_children():
        time.sleep(0.1)
    time.sleep(3)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_workers_that_still_start_die_with_a_killed_trainer(folder, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(_STARTING)
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        worker = int(trainer.stdout.readline())
        assert _alive(worker)
        trainer.kill()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive := _alive(worker):
        os.kill(worker, signal.SIGKILL)
    assert not alive


def test_more_workers_than_the_machine_stands(folder, tmp_path):
    with pytest.raises(ValueError, match="data.workers=5000 is more than 4 for each"):
        _data(folder, workers=5000).check_splits(())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemAvailable:    300000 kB\n")
    with pytest.raises(ValueError, match="256 MiB of memory.*292 MiB are free.*most 1"):
        check_workers(2, tmp_path)
    check_workers(1, tmp_path)
