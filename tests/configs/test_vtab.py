"""VTAB's tasks: their table, and labels from records with the real sets' features."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import vtab
from vit_jax.config_file import read_config
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.data.vtab_labels import RULES, clevr_distance, kitti_distance

# Training images of the sets without a validation split, and the percent of them after
# which task_adaptation's validation split starts; scenic's config has the same numbers.
CUT = {
    "caltech101": (3_060, 90),
    "cifar100": (50_000, 90),
    "clevr": (70_000, 90),
    "dsprites": (737_280, 80),
    "eurosat/rgb": (27_000, 60),
    "oxford_iiit_pet": (3_680, 80),
    "resisc45": (31_500, 60),
    "svhn_cropped": (73_257, 90),
}
# The rest of those that have no test split either, after so many percent.
TEST_CUT = {"dsprites": 90, "eurosat/rgb": 80, "resisc45": 80}


def test_the_splits():
    for task in vtab.TASKS.values():
        size, percent = CUT.get(task.data, (0, 0))
        start = size * percent // 100
        validation = f"train[{start}:{start + 200}]" if size else "validation[:200]"
        test = "validation" if task.data == "clevr" else "test"
        if task.data in TEST_CUT:
            test = f"train[{size * TEST_CUT[task.data] // 100}:]"
        if task.data == "smallnorb":
            validation, test = "test[:200]", "test[50%:]"
        assert (task.validation, task.test) == (validation, test), task.data
    assert {task.data for task in vtab.TASKS.values()} >= CUT.keys()


def test_the_groups_and_the_papers_means():
    """19 tasks; means of Table 9's groups, worked out from its columns."""
    sizes = [
        sum(t.group == group for t in vtab.TASKS.values()) for group in vtab.GROUPS
    ]
    assert sizes == [7, 4, 8]
    means = [
        [
            np.mean([t.paper[column] for t in vtab.TASKS.values() if t.group == group])
            for group in vtab.GROUPS
        ]
        for column in range(3)
    ]
    expected = [[86.69, 87.00, 65.03], [85.56, 86.72, 62.96], [83.27, 84.65, 57.50]]
    np.testing.assert_allclose(means, expected, atol=0.006)
    overall = np.mean([task.paper for task in vtab.TASKS.values()], axis=0)
    np.testing.assert_allclose(overall, [77.6, 76.3, 72.7], atol=0.06)


def test_exceptions_of_crop_and_flip():
    """BiT paper, appendix F."""
    tasks = vtab.TASKS.items()
    assert {name for name, task in tasks if not task.flip} == {
        "dsprites_orientation",
        "dsprites_location",
        "smallnorb_azimuth",
    }
    assert {name for name, task in tasks if not task.crop} == {
        "clevr_count",
        "clevr_distance",
        "dmlab",
        "kitti_distance",
        "dsprites_location",
    }


@pytest.mark.parametrize("name", vtab.TASKS)
def test_the_protocol(name):
    task = vtab.TASKS[name]
    config = read_config(f"configs/vtab.py:task={name},model=ViT-L/16", [])
    optim, data = config.optim, Data(**config.data)
    assert (optim.name, optim.learning_rate, optim.momentum) == ("sgd", 0.01, 0.9)
    assert (optim.schedule, optim.warmup) == ("cosine", "200steps")
    assert (optim.weight_decay, optim.clip_norm) == (0, 1)
    assert config.train.duration == "2500steps" and data.batch_size == 512
    assert data.split == f"train[:800]+{task.validation}"
    assert config.eval.splits == (task.test,)
    assert config.sweep.train_split == "train[:800]"
    assert config.sweep.dev_split == task.validation
    assert data.flips() == task.flip and data.image_size == (384, 384)
    image = np.zeros((500, 600, 3), np.uint8)
    image[:, :300] = 255
    out = data.train_transform(image, np.random.default_rng(0))
    assert out.shape == (384, 384, 3)
    # Without a crop the edge stays in the middle; a flip swaps its sides.
    edge = abs(int((out[0, :, 0] > 127).sum()) - 192)
    assert edge <= 1 if not task.crop else data.crop_resize == 448


def test_names_of_derived_labels():
    for name, task in vtab.TASKS.items():
        if task.label in RULES:
            assert len(RULES[task.label].names) == task.classes, name


@pytest.mark.parametrize(
    ("distances", "label"),
    [([12, 7.9], 0), ([8.0], 0), ([8.01, 9], 1), ([9.5, 30], 3), ([10.5, 11], 5)],
)
def test_clevr_distance(distances, label):
    places = [np.array([0, 0, value], np.float32) for value in distances]
    assert clevr_distance({"pixel_coords": places}) == label


@pytest.mark.parametrize(
    ("objects", "label"),
    [
        ([], 3),
        ([(3, 1.0), (7, 2.0)], 3),  # a pedestrian and a sign are no vehicles
        ([(0, 8.0), (1, 30.0)], 0),
        ([(2, 20.0), (3, 1.0)], 1),
        ([(1, 20.5)], 2),
    ],
)
def test_kitti_distance(objects, label):
    places = [np.array([0, 0, z], np.float32) for _, z in objects]
    types = [kind for kind, _ in objects]
    assert kitti_distance({"type": types, "location": places}) == label


# --- records with the features of the real sets -----------------------------------


def picture(channels: int = 3, levels: int = 256) -> io.BytesIO:
    pixels = np.arange(64 * 64 * channels).reshape(64, 64, channels) % levels
    file = io.BytesIO()
    Image.fromarray(np.squeeze(pixels.astype(np.uint8))).save(file, "PNG")
    file.seek(0)
    return file


def write(folder, name, splits) -> None:
    """Prepares a set with its official features and our records, without TensorFlow."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(
        name, data_dir=folder, try_gcs=False, file_format="array_record"
    )
    builder._split_generators = lambda _: {
        split: iter(list(enumerate(records))) for split, records in splits.items()
    }
    builder.download_and_prepare()


def labels(folder, name, split, label) -> list[int]:
    source = make_source(name, split, label=label, data_dir=folder)
    result = [source[index]["label"] for index in range(len(source))]
    assert source.labels().tolist() == result
    return result


def test_clevr(tmp_path):
    def scene(*distances):
        same = {"3d_coords": [0, 0, 0], "color": "gray", "material": "metal"}
        same |= {"rotation": 0.0, "shape": "cube", "size": "small"}
        objects = [same | {"pixel_coords": [1, 2, value]} for value in distances]
        text = {"question_answer": [{"answer": "yes", "question": "?"}]}
        return {"image": picture(), "file_name": "", "objects": objects, **text}

    train = [scene(9.2, 8.4, 12.0), scene(*range(11, 21))]
    write(tmp_path, "clevr", {"train": train, "validation": [scene(1, 2, 3, 4)]})
    both = "train[:2]+validation[:1]"
    assert labels(tmp_path, "clevr", both, "clevr_count") in ([0, 7, 1], [7, 0, 1])
    result = labels(tmp_path, "clevr", both, "clevr_distance")
    assert result in ([1, 5, 0], [5, 1, 0])
    data = Data(
        name="clevr",
        split=both,
        label="clevr_count",
        batch_size=3,
        image_size=(16, 16),
        data_dir=str(tmp_path),
    )
    assert data.label_names()[0] == "3 objects" and len(data.label_names()) == 8
    with data.train_batches(seed=0) as batches:
        assert sorted(next(batches)["label"].tolist()) == [0, 1, 7]


def test_kitti(tmp_path):
    import tensorflow_datasets as tfds

    def road(*vehicles):
        same = {"alpha": 0.0, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0)}
        same |= {"dimensions": [1, 1, 1], "occluded": 0}
        same |= {"rotation_y": 0.0, "truncated": 0.0}
        objects = [same | {"type": kind, "location": [0, 0, z]} for kind, z in vehicles]
        return {"image": picture(), "image/file_name": "", "objects": objects}

    roads = [road(), road(("Van", 9.0), ("Pedestrian", 2.0)), road(("Cyclist", 1.0))]
    write(tmp_path, "kitti", {"train": roads})
    assert sorted(labels(tmp_path, "kitti", "train", "kitti_distance")) == [1, 3, 3]


def test_dsprites(tmp_path):
    def sprite(angle, x):
        zeros = ("label_shape", "label_scale", "label_y_position")
        values = ("shape", "scale", "orientation", "x_position", "y_position")
        return {
            "image": picture(1, levels=2),
            "label_orientation": angle,
            "label_x_position": x,
            **dict.fromkeys(zeros, 0),
            **{f"value_{name}": 0.0 for name in values},
        }

    write(tmp_path, "dsprites", {"train": [sprite(i, i % 32) for i in range(40)]})
    result = labels(tmp_path, "dsprites", "train", "dsprites_orientation")
    # floor(angle / 2.5), as task_adaptation has it.
    assert sorted(result) == [int(angle / 2.5) for angle in range(40)]
    result = labels(tmp_path, "dsprites", "train", "dsprites_location")
    assert sorted(result) == sorted(i % 32 // 2 for i in range(40))
    image = make_source("dsprites", "train", label="label_shape", data_dir=tmp_path)
    assert np.unique(image[0]["image"]).tolist() == [0, 255]
    assert image[0]["image"].shape == (64, 64, 3)


def test_small_norb(tmp_path):
    def view(azimuth, elevation):
        zeros = ("label_category", "instance", "label_lighting")
        pictures = {"image": picture(1), "image2": picture(1)}
        angles = {"label_azimuth": azimuth, "label_elevation": elevation}
        return pictures | angles | dict.fromkeys(zeros, 0)

    # Its images have 96x96 pixels; only their number of channels is checked.
    write(tmp_path, "smallnorb", {"train": [view(17, 0), view(3, 8)]})
    assert sorted(labels(tmp_path, "smallnorb", "train", "label_azimuth")) == [3, 17]
    assert sorted(labels(tmp_path, "smallnorb", "train", "label_elevation")) == [0, 8]
    source = make_source("smallnorb", "train", label="label_azimuth", data_dir=tmp_path)
    assert len(source.label_names) == 18
    with pytest.raises(ValueError, match="data.label='label'.*class field 'label' are"):
        make_source("smallnorb", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="a field 'objects' are needed, found image"):
        make_source("smallnorb", "train", label="clevr_count", data_dir=tmp_path)


def test_labels_of_other_sources():
    with pytest.raises(ValueError, match='for digits leave it at "label"'):
        make_source("digits", "train", label="clevr_count")
