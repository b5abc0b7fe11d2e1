"""Data sets of others: tensorflow-datasets, ReaL labels, ObjectNet's mappings."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.images import encoded
from fuzz.mutations import any_json, edited
from fuzz.reader import Reader, equal, telling
from vit_jax.data import labels
from vit_jax.data.decode import ImageError
from vit_jax.data.tfds_source import TfdsSource
from vit_jax.evaluation import objectnet, real


@functools.cache
def prepared() -> Path:
    """A data set as tensorflow-datasets writes it, without TensorFlow."""
    import tensorflow_datasets as tfds

    class FuzzedPets(tfds.core.GeneratorBasedBuilder):
        """Two images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for number in range(2):
                path = folder / f"{number}.png"
                path.write_bytes(encoded("PNG"))
                yield number, {"image": str(path), "label": number}

    folder = Path(tempfile.mkdtemp(prefix="fuzz-sets-"))
    FuzzedPets(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder / "fuzzed_pets" / "1.0.0"


def damaged_sets() -> st.SearchStrategy[tuple[str, bytes]]:
    """A file of a data set, and its new content."""
    cases = []
    for path in sorted(prepared().iterdir()):
        changes = edited([path.read_bytes()])
        if path.suffix == ".json":
            changes |= any_json([json.loads(path.read_bytes())])
        cases.append(st.tuples(st.just(path.name), changes))
    return st.one_of(cases)


def check_set(case: tuple[str, bytes], folder: Path) -> None:
    name, content = case
    place = folder / "pets" / "1.0.0"
    shutil.copytree(prepared(), place)
    (place / name).write_bytes(content)
    with telling(place, errors=(ValueError, OSError)):
        source = TfdsSource(str(place), "train")
        for index in range(len(source)):
            with telling(source.record_name(index), errors=ImageError):
                source[index]
        for record in source.read_many(range(len(source))):
            equal(isinstance(record, dict | ImageError), True, "record")
        source.labels()


LISTS = json.dumps([[1, 2], [], [999]] * 10)


def check_real(content: bytes, folder: Path) -> None:
    path = folder / "real.json"
    path.write_bytes(content)
    with telling(path):
        real.read_real_labels(path)


MAPPINGS: dict[str, Any] = {
    "folder_to_objectnet_label.json": {"chair": "Chair"},
    "objectnet_to_imagenet_1k.json": {"Chair": "tench; goldfish"},
    "pytorch_to_imagenet_2012_id.json": {str(n): n for n in range(4)},
}


@functools.cache
def class_names() -> tuple[str, ...]:
    return labels.label_names(1000)


def check_mappings(case: tuple[str, bytes], folder: Path) -> None:
    changed, content = case
    whole = MAPPINGS | {
        "pytorch_to_imagenet_2012_id.json": {str(n): n for n in range(1000)},
        "objectnet_to_imagenet_1k.json": {"Chair": "; ".join(class_names()[:2])},
    }
    for name, value in whole.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "imagenet_to_label_2012_v2").write_text("\n".join(class_names()))
    (folder / changed).write_bytes(content)
    with telling(folder):
        for numbers in objectnet.read_mappings(folder).values():
            equal(all(0 <= number < 1000 for number in numbers), True, "classes")


@st.composite
def mappings(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from((*MAPPINGS, "imagenet_to_label_2012_v2")))
    if name in MAPPINGS:
        return name, draw(any_json([MAPPINGS[name]]))
    return name, draw(edited([b"tench\ngoldfish\n\xff\nx"]))


READERS = (
    Reader("tensorflow-datasets", lambda: damaged_sets(), check_set, 10),
    Reader("real.json", lambda: any_json([json.loads(LISTS)]), check_real),
    Reader("mappings of ObjectNet", lambda: mappings(), check_mappings),
)
