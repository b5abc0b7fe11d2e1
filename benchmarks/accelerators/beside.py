"""The table of our step beside one written by hand, for `docs/accelerators.md`.

The rows are those that `python -m benchmarks.accelerators.handwritten` saves.
"""

from collections.abc import Iterable

from benchmarks.accelerators.rows import Row
from experiments.lab.tables import markdown_table

GIB = 2**30


def cells(row: Row) -> list[str]:
    """A line of the table: ours, the best, and the ratio, of each figure."""
    line = [row["model"], str(row["batch"]), row["variant"]]
    for key in ("moved", "kept"):
        ours, best = row["ours"][key], row["best"][key]
        line += [f"{ours / GIB:.2f}", f"{best / GIB:.2f}", f"{ours / best:.2f}"]
    ours, best = row["ours"]["kernels"], row["best"]["kernels"]
    return [*line, f"{ours:,}", f"{best:,}", f"{ours / best:.2f}"]


def section(rows: Iterable[Row]) -> str:
    """The part of `docs/accelerators.md`, "" without rows."""
    rows = list(rows)
    if not rows:
        return ""
    figures = ("GiB moved", "GiB of temporaries", "kernels")
    columns = ["model", "batch", "variant"]
    columns += [text for name in figures for text in (name, "by hand", "ratio")]
    table = markdown_table({"columns": columns, "rows": [cells(row) for row in rows]})
    days = sorted({(row["date"], row["hardware"]) for row in rows})
    pairs = {pair for row in rows for pair in row["versions"].items()}
    versions = ", ".join(" ".join(pair) for pair in sorted(pairs))
    return (
        "## Beside a step written by hand, one H100\n\n"
        "The step of `configs/imagenet.py` in bfloat16, without dropout unless a "
        "variant has it, compiled for one card by `python -m "
        "benchmarks.accelerators.handwritten`. By hand: flash attention, norms, GELU "
        "and residual stream fused, counted on paper by "
        "`vit_jax/planning/handwritten.py`. All launches count as kernels, copies too."
        f"\n\n{table}\n\nCompiled on "
        + "; ".join(", ".join(day) for day in days)
        + f": {versions}\n"
    )
