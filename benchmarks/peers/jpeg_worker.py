"""Reads batches of random crops on demand, for `jpeg_speed`, on one core.

Encoded images in memory become uint8 (batch, 224, 224, 3), or (batch, 3, 224, 224) of
torch. Needs the library of its peer only, so it may run in a Python environment of its
own. Reads lines such as `read 10` from stdin, and answers with the seconds that so
many batches took.
"""

import io
import json
import os
import sys
import time
from pathlib import Path

SIZE, AREA = 224, (0.05, 1.0)
# Batches before a turn is timed: what was read ahead while others had their turn.
AHEAD = 4


def ours(images: list[bytes], spec: dict):
    """Our pipeline, as `Data.train_batches` builds it, of the tree in `spec`."""
    sys.path.insert(0, spec["tree"])
    import vit_jax
    from vit_jax.data.batches import TrainBatches
    from vit_jax.data.decode import decode_image
    from vit_jax.data.stream import TrainBlocks
    from vit_jax.data.transforms import ImageTransforms

    if Path(vit_jax.__file__).parents[1] != Path(spec["tree"]):
        raise RuntimeError(f"{vit_jax.__file__} is not in {spec['tree']}")

    class Memory:
        label_names = ("photo",)

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> dict:
            return {"image": decode_image(images[index], f"photo {index}"), "label": 0}

    size = (SIZE, SIZE)
    transforms = ImageTransforms(
        name="photos", image_size=size, crop_area=AREA, flip=spec["flip"]
    )
    blocks = TrainBlocks(
        Memory(),
        transforms.train_transform,
        size,
        seed=0,
        tries=1,
        start=0,
        batch_size=spec["batch"],
        rows=None,
    )
    reading = {"num_threads": 1, "workers": 0, "on_error": "raise", "max_errors": 0}
    batches = TrainBatches(blocks, start_index=0, **reading)
    return batches, ("vit_jax", "simplejpeg", "opencv-python-headless", "grain")


def tensorflow(images: list[bytes], spec: dict):
    """tf.data with the fused decode and crop, as big_vision writes it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    def crop(image):
        shape = tf.image.extract_jpeg_shape(image)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            area_range=AREA,
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        pixels = tf.image.decode_and_crop_jpeg(image, window, channels=3)
        pixels = tf.cast(tf.image.resize(pixels, (SIZE, SIZE)), tf.uint8)
        if spec["flip"] == "on":
            pixels = tf.image.random_flip_left_right(pixels)
        return pixels

    data = tf.data.Dataset.from_tensor_slices(images).repeat()
    data = data.map(crop, num_parallel_calls=1).batch(spec["batch"])
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    batches = data.with_options(options).as_numpy_iterator()
    return batches, ("tensorflow", "tensorflow-cpu")


def torchvision(images: list[bytes], spec: dict):
    """DataLoader with RandomResizedCrop, of Pillow or of torchvision's decoder."""
    from timm_worker import import_torch

    torch = import_torch()
    from PIL import Image
    from torchvision import io as decoders
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = [v2.RandomResizedCrop(SIZE, scale=AREA)]
    crop += [v2.RandomHorizontalFlip()] if spec["flip"] == "on" else []

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1 << 40

        def __getitem__(self, index: int):
            data = images[index % len(images)]
            if spec["decoder"] == "pillow":
                return pillow(Image.open(io.BytesIO(data)).convert("RGB"))
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return tensors(decoders.decode_jpeg(encoded, decoders.ImageReadMode.RGB))

    pillow, tensors = v2.Compose([*crop, v2.PILToTensor()]), v2.Compose(crop)
    loader = torch.utils.data.DataLoader(
        Photos(), batch_size=spec["batch"], num_workers=spec["workers"]
    )
    return iter(loader), ("torch", "torchvision", "pillow")


def versions(names: tuple[str, ...]) -> str:
    """Names and versions of those distributions that are installed."""
    from importlib import metadata

    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> None:
    """Sets the reader up, and serves."""
    spec = json.loads(sys.argv[1])
    # Before any library counts the processors.
    os.sched_setaffinity(0, {spec["core"]})
    images = [path.read_bytes() for path in sorted(Path(spec["images"]).iterdir())]
    peers = {"ours": ours, "tensorflow": tensorflow, "torchvision": torchvision}
    batches, names = peers[spec["reader"]](images, spec)
    next(batches)
    print(json.dumps(versions(names)), flush=True)
    for line in sys.stdin:
        for _ in range(AHEAD):
            next(batches)
        start = time.perf_counter()
        for _ in range(int(line.split()[1])):
            next(batches)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
