"""ReaL, ImageNet-v2 and ObjectNet, on made-up sets with their files and names."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import evaluate as evaluate_command
from vit_jax.data.labels import label_names, label_order, synsets
from vit_jax.evaluation import real
from vit_jax.evaluation.objectnet import (
    ObjectNetData,
    evaluate_objectnet,
    read_mappings,
)
from vit_jax.interop import Facts, save_checkpoint
from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, init_params
from vit_jax.parallel.sharding import make_mesh

# The model predicts these for any image: the best six of its 1000 classes, best first.
RANKED = (7, 671, 3, 444, 409, 530)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file with a model that ranks the classes in the same way for each image."""
    model = create_model("ViT-mu/16", num_classes=1000, image_size=(32, 32), depth=1)
    params = jax.tree.map(jnp.zeros_like, init_params(model, jax.random.key(0)))
    bias = np.full(1000, -20, np.float32)
    bias[list(RANKED)] = -np.arange(1, len(RANKED) + 1)
    params["head"]["bias"] = jnp.asarray(bias)
    path = tmp_path_factory.mktemp("imagenet") / "model.npz"
    save_checkpoint(path, model, params, layout="google", facts=Facts())
    return path


def run_command(checkpoint, *flags):
    arguments = ["--checkpoint", str(checkpoint), "--batch-size", "4", *flags]
    evaluate_command.main(evaluate_command.make_parser().parse_args(arguments))


def write_image(path, value=(9, 9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 36), value).save(path)


# --- ReaL --------------------------------------------------------------------------


def real_file(path, sets):
    lists = [[] for _ in range(50_000)]
    for number, labels in sets.items():
        lists[number - 1] = labels
    path.write_text(json.dumps(lists))
    return path


def test_real_counts_any_of_the_labels_and_ignores_none():
    sets = [frozenset(labels) for labels in ([1, 2], [], [3], [5])]
    metrics = real.real_accuracy(np.array([2, 0, 4, 5]), sets)
    assert metrics == {"accuracy": pytest.approx(2 / 3), "count": 3, "unlabelled": 1}
    with pytest.raises(ValueError, match="3 predictions for 4 label sets"):
        real.real_accuracy(np.array([2, 0, 4]), sets)
    with pytest.raises(ValueError, match="none of the 1 images has ReaL labels"):
        real.real_accuracy(np.array([2]), [frozenset()])


def test_real_labels_go_by_file_number(tmp_path):
    path = real_file(tmp_path / "real.json", {1: [4], 50_000: [8, 9]})
    labels = real.read_real_labels(path)
    assert (labels[0], labels[1], labels[-1]) == ({4}, set(), {8, 9})
    assert real.file_number("val/n01440764/ILSVRC2012_val_00000293.JPEG") == 293
    for name in ("ILSVRC2012_val_00050001.JPEG", "n01440764_18.JPEG"):
        with pytest.raises(ValueError, match="not named as an image of ImageNet's val"):
            real.file_number(name)


def test_files_that_are_not_real_json(tmp_path):
    path = tmp_path / "real.json"
    with pytest.raises(FileNotFoundError, match="reassessed-imagenet"):
        real.read_real_labels(path)
    entries = [[]] * 50_000
    for content, message in (
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON: it is nested too deeply"),
        (json.dumps(entries[1:]), "wanted a list of 50000 lists of class numbers"),
        (json.dumps({}), "content is {}: wanted a list of 50000 lists of class numb"),
        (json.dumps([*entries[1:], [1000]]), r"\[49999\]\[0\] is 1000: wanted .* 999"),
        (json.dumps([7, *entries[1:]]), r"real.json: \[0\] is 7: wanted a list"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            real.read_real_labels(path)


def test_the_command_measures_real(checkpoint, tmp_path, capsys):
    sets = {3: [RANKED[0], 1], 4: [5], 11: [], 50_000: [RANKED[0]]}
    for number, ids in zip(sets, (0, RANKED[0], 1, 2), strict=True):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        write_image(tmp_path / "set" / "val" / synsets(1000)[ids] / name)
    path = real_file(tmp_path / "real.json", sets)
    flags = ["--dataset", str(tmp_path / "set"), "--split", "val", "--protocol", "real"]
    run_command(
        checkpoint, *flags, "--real-labels", str(path), "--output", str(tmp_path)
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["real"] == {
        "accuracy": pytest.approx(2 / 3),
        "count": 3,
        "unlabelled": 1,
    }
    assert metrics["accuracy"] == 0.25 and metrics["count"] == 4
    assert "accuracy    66.67 %" in capsys.readouterr().out


# --- ImageNet-v2 -------------------------------------------------------------------


def test_folders_named_by_number_are_not_in_the_order_of_the_numbers():
    """ "0", "1", "10", "100": the trap of the released folders of ImageNet-v2."""
    there = tuple(sorted(map(str, range(1000))))
    assert there[2] == "10"
    for by_index in (False, True):
        order = label_order(there, label_names(1000), "v2", by_index=by_index)
        assert order.tolist() == [int(name) for name in there]
    # The names in tensorflow-datasets.
    order = label_order(synsets(1000), label_names(1000), "imagenet_v2")
    assert order.tolist() == list(range(1000))
    with pytest.raises(ValueError, match="other label names"):
        label_order(there[:10], label_names(1000), "digits")


def test_the_command_knows_where_imagenet_v2_is(checkpoint):
    parsed = evaluate_command.make_parser().parse_args(
        ["--checkpoint", str(checkpoint), "--protocol", "imagenet_v2"]
    )
    with pytest.raises(FileNotFoundError, match="'imagenet_v2/matched-frequency' is"):
        evaluate_command.main(parsed)


# --- ObjectNet ---------------------------------------------------------------------

# Folder, label of ObjectNet, classes of ImageNet; "sofa bed" has no counterpart.
OBJECTS = (
    ("bicycle", "Bicycle", (444, 671)),
    ("alarm_clock", "Alarm clock", (409, 530)),
    ("sofa_bed", "Sofa bed", ()),
)


@pytest.fixture
def objectnet(tmp_path):
    """The folder of a small ObjectNet, with ImageNet's names in an order of its own."""
    folder = tmp_path / "objectnet-1.0"
    names = [
        f"{name}, {code}"
        for code, name in zip(synsets(1000), label_names(1000), strict=True)
    ]
    lines = np.random.default_rng(0).permutation(1000)
    mappings = folder / "mappings"
    mappings.mkdir(parents=True)
    text = "\n".join(names[number] for number in np.argsort(lines)) + "\n"
    (mappings / "imagenet_to_label_2012_v2").write_text(text)
    files = {
        "pytorch_to_imagenet_2012_id": {str(i): int(lines[i]) for i in range(1000)},
        "folder_to_objectnet_label": {name: label for name, label, _ in OBJECTS},
        "objectnet_to_imagenet_1k": {
            label: "; ".join(names[i] for i in ids) for _, label, ids in OBJECTS if ids
        },
    }
    for name, content in files.items():
        (mappings / f"{name}.json").write_text(json.dumps(content))
    for (name, _, _), count in zip(OBJECTS, (3, 1, 2), strict=True):
        for number in range(count):
            write_image(folder / "images" / name / f"{number}.png")
    return folder


def test_objectnet_scores_the_overlapping_classes(checkpoint, objectnet):
    mapping = read_mappings(objectnet / "mappings")
    assert mapping == {"bicycle": (444, 671), "alarm_clock": (409, 530)}
    mesh = make_mesh(data=-1, fsdp=1, tensor=1)
    run = load_trained(checkpoint)
    metrics = evaluate_objectnet(run, objectnet, mesh, batch_size=3)
    # All six images are read, the two sofa beds left out; 671 is the best of the four
    # classes that count, and a bicycle. Of all 1000, class 7 comes first.
    assert metrics == {
        "accuracy": 0.75,
        "top5": 1.0,
        "accuracy_of_1000": 0.0,
        "top5_of_1000": 1.0,
        "count": 4,
    }


def test_objectnet_by_the_command(checkpoint, objectnet, tmp_path, capsys):
    flags = ["--dataset", str(objectnet), "--protocol", "objectnet"]
    run_command(checkpoint, *flags, "--output", str(tmp_path))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["accuracy"]) == ("objectnet", 0.75)
    assert "75.00 %" in capsys.readouterr().out


def test_the_red_frame_is_cut_off():
    image = np.full((40, 36, 3), 50, np.uint8)
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = (255, 0, 0)
    data = ObjectNetData(name="", batch_size=1, image_size=(32, 32), eval_crop="resize")
    assert (data.eval_transform(image) == 50).all()


def test_mistakes_with_objectnet(checkpoint, objectnet, digits_run, tmp_path):
    mesh = make_mesh(data=-1, fsdp=1, tensor=1)
    with pytest.raises(ValueError, match="the 1000 classes of ImageNet, but the model"):
        evaluate_objectnet(load_trained(digits_run), objectnet, mesh, batch_size=4)
    with pytest.raises(FileNotFoundError, match="as it is distributed, with images/"):
        evaluate_objectnet(load_trained(checkpoint), tmp_path, mesh, batch_size=4)
    file = objectnet / "mappings" / "pytorch_to_imagenet_2012_id.json"
    good = json.loads(file.read_text())
    file.write_text(json.dumps({k: (v + 1) % 1000 for k, v in good.items()}))
    with pytest.raises(
        ValueError, match="only 0% of ImageNet's classes have the names"
    ):
        read_mappings(file.parent)
    file.write_text(json.dumps({k: v for k, v in good.items() if k != "5"}))
    with pytest.raises(ValueError, match="do not fit together: '5' is in one"):
        read_mappings(file.parent)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("folder_to_objectnet_label.json", b"null", "content is None: wanted"),
        ("objectnet_to_imagenet_1k.json", b'{"Chair": null}', "Chair is None: wanted"),
        ("pytorch_to_imagenet_2012_id.json", b'{"0": "x"}', r"\['0'\] is 'x': wanted"),
        ("pytorch_to_imagenet_2012_id.json", b"[" * 100_000, "not readable as JSON"),
        ("imagenet_to_label_2012_v2", b"tench\n\xff", "is no text"),
    ],
)
def test_damaged_mappings_of_objectnet(objectnet, name, content, message):
    (objectnet / "mappings" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}|{name}.*{message}"):
        read_mappings(objectnet / "mappings")


def test_options_belong_to_protocols(checkpoint):
    for flags, message in (
        (
            ["--protocol", "knn", "--shots", "1"],
            "--shots is an option of --protocol few",
        ),
        (
            ["--real-labels", "x"],
            "is an option of --protocol real, and not of classifi",
        ),
        (["--protocol", "real"], "--protocol real needs --real-labels"),
        (["--protocol", "fewshot"], "--dataset is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            run_command(checkpoint, *flags)
