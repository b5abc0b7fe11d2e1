"""Writes the golden files of TensorFlow: RandAugment and boxes of the Inception crop.

    git clone https://github.com/google-research/big_vision
    pip install "tensorflow-cpu==2.15.*" "tensorflow-addons==0.23.*" "numpy<2"
    PYTHONPATH=tests:big_vision python -m golden.write_tensorflow

`tensorflow_randaugment.npz` has a picture and what each operation of
big_vision/pp/autoaugment.py makes of it at each level, in a graph, as training runs it.
Signs are positive and cutout's centre lies at 0.4 of both sides.
`tensorflow_crops.json` has quantiles of the boxes of
`tf.image.sample_distorted_bounding_box`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from big_vision.pp import autoaugment

HERE = Path(__file__).parent
LEVELS = (0, 1, 5, 9, 10, 15, 20)
SEED = 7
BOXES = 200_000
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
# (height, width), and the range of areas.
CASES = (
    ((375, 500), (0.05, 1.0)),
    ((500, 375), (0.05, 1.0)),
    ((100, 300), (0.05, 1.0)),
    ((32, 32), (0.3, 1.0)),
    ((40, 160), (0.25, 1.0)),
)


def picture() -> np.ndarray:
    """Noise of three scales, black, white and a flat part: uint8 (24, 32, 3)."""
    rng = np.random.default_rng(SEED)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    for scale, rows in ((4, slice(8, 16)), (8, slice(16, 24))):
        coarse = rng.integers(40, 200, (24 // scale, 32 // scale, 3), np.uint8)
        image[rows] = coarse.repeat(scale, 0).repeat(scale, 1)[rows]
    image[2:6, 2:6], image[2:6, 8:12], image[10:15, 3:9] = 0, 255, (120, 130, 90)
    return image


def fixed_uniform(
    shape: list, minval: int = 0, maxval: Any = None, dtype: Any = None
) -> tf.Tensor:
    """In the place of `tf.random_uniform`: a positive sign, and cutout's centre."""
    del shape, minval, dtype
    if maxval is None:
        return tf.constant(0.9)
    return tf.cast(0.4 * tf.cast(maxval, tf.float32), tf.int32)


def write_randaugment() -> None:
    hparams = autoaugment.HParams(cutout_const=40, translate_const=100)
    autoaugment.tf.random_uniform = fixed_uniform
    results = {"picture": picture()}
    for name in autoaugment.NAME_TO_FUNC:
        for level in LEVELS:
            function, _, arguments = autoaugment._parse_policy_info(
                name, 0.5, float(level), [128] * 3, hparams
            )
            graph = tf.function(lambda image, f=function, a=arguments: f(image, *a))
            results[f"{name}_{level}"] = graph(results["picture"]).numpy()
    np.savez_compressed(HERE / "tensorflow_randaugment.npz", **results)


def write_crops() -> None:
    def draw(number: tf.Tensor, shape: tuple[int, int], area: tuple[float, float]):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            (*shape, 3),
            tf.zeros([0, 0, 4]),
            seed=(SEED, number),
            min_object_covered=0,
            area_range=area,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], size[:2]], 0)

    rows = []
    for shape, area in CASES:
        numbers = tf.data.Dataset.range(BOXES)
        boxes = numbers.map(lambda n, s=shape, a=area: draw(n, s, a)).batch(BOXES)
        top, left, height, width = boxes.get_single_element().numpy().T
        share = height * width / (shape[0] * shape[1])
        columns = {
            "area": share,
            "aspect": width / height,
            "top": top,
            "left": left,
            "height": height,
            "width": width,
        }
        rows.append(
            {
                "shape": shape,
                "area_range": area,
                "mean_area": round(float(share.mean()), 4),
                "below_a_quarter": round(float((share < 0.25).mean()), 4),
                "whole_image": round(float((share == 1).mean()), 4),
                "quantiles": {
                    name: [round(float(np.quantile(x, q)), 4) for q in QUANTILES]
                    for name, x in columns.items()
                },
            }
        )
    golden = {
        "source": f"tensorflow {tf.__version__}, sample_distorted_bounding_box",
        "boxes": BOXES,
        "quantiles_at": QUANTILES,
        "cases": rows,
    }
    text = json.dumps(golden, indent=1)
    (HERE / "tensorflow_crops.json").write_text(text + "\n")


if __name__ == "__main__":
    write_randaugment()
    write_crops()
