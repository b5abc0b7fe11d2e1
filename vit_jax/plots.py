"""Pictures of a run."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt  # noqa: E402

from vit_jax.metrics import read_metrics  # noqa: E402


def learning_curve(workdir: str | Path) -> Path:
    """Draws loss and accuracy of every split over the steps; returns the PNG's path."""
    rows = read_metrics(Path(workdir) / "metrics.jsonl")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for split in dict.fromkeys(row["split"] for row in rows):
            points = [
                (row["step"], row[name])
                for row in rows
                if row["split"] == split and name in row
            ]
            style = "-" if split == "train" else "o-"
            axis.plot(*zip(*points, strict=True), style, markersize=3, label=split)
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[0].legend()
    path = Path(workdir) / "learning_curve.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
