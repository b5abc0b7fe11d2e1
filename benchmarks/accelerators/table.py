"""`docs/accelerators.md`, from the rows that `make accelerators` saves."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks.accelerators.rows import Row
from experiments.lab.tables import markdown_table
from vit_jax.planning.estimate import in_gib

HEAD = """# Runs on accelerators, compiled for them

Written by `make accelerators`, not by hand. A row is the training step of a config at
its own batch, compiled for that machine by its own compiler, on a machine without one.
What is shown is what XLA has decided: memory, calls of libraries, what is sent between
devices, and what is moved from and to a device's memory (HBM).

Nothing of it was run: there is no time of a step here, and no loss. Without a card XLA
cannot try out kernels (autotuning), so that there some of them, and a little of the
temporaries, may be others; what fits, what is called and what is refused stay the same.

All figures are of one device and one step, with loops counted as often as they run.

- `temporaries`: activations, gradients and all else that lives within a step.
- `peak`: the most that is in use at one time, of what a run can have. Of a GPU's memory
  that is what jax takes by default, three quarters.
- `largest batch`: of all devices, found by compiling others; left out where compiling
  once takes more than two minutes.
- `sent`: by each device over each axis of the mesh, at least.
"""
# Libraries by the first letters of their kinds of kernels.
LIBRARIES = {
    "__cudnn$fmhaSoftmaxBackward": "cuDNN attention backward",
    "__cudnn$fmha": "cuDNN attention",
    "__cudnn$conv": "cuDNN convolutions",
    "__cublas": "cuBLAS",
    "__triton": "Triton",
    "tpu_custom_call": "Mosaic",
}
DEVICES = {"H100": "NVIDIA H100 (SXM, 80 GiB)", "v5e": "TPU v5e (16 GiB)"}


AGAINST = """## Against big_vision, TPU v5e

The step of [big_vision](https://github.com/google-research/big_vision) (its model,
optimizer, loss and `vit_i1k.py`) and ours, compiled for 32 chips by

    python -m benchmarks.accelerators.big_vision --big-vision PATH

"The same" is: bfloat16 products, the first moment in bfloat16, no dropout, no MixUp;
both have a class token, a pre-logits layer, the sigmoid loss, and clip gradients. Their
own recipe has float32 activations and MixUp, ours dropout and float32 moments.
Recomputed: both scan over the blocks and keep only their inputs.

"""


def report(rows: list[Row], pairs: list[Row]) -> str:
    """The document as Markdown; `pairs` are the rows of `big_vision.py`."""
    parts = [HEAD]
    for kind, title in DEVICES.items():
        own = [row for row in rows if row["name"] and kind in row["target"]]
        if own:
            parts.append(f"## {title}\n\n{markdown_table(compiled_table(own))}\n")
    if pairs:
        parts.append(f"{AGAINST}{markdown_table(comparison_table(pairs))}\n")
    parts += [f"## The runs\n\n{markdown_table(runs_table(rows))}\n", lowered(rows)]
    parts.append(provenance(rows))
    return "\n".join(parts)


def compiled_table(rows: list[Row]) -> dict[str, Any]:
    """A line for each run on one kind of device."""
    columns = (
        "run",
        "devices",
        "batch",
        "parameters, optimizer",
        "temporaries",
        "peak",
        "largest batch",
        "calls",
        "sent",
        "HBM",
        "compiled",
    )
    return {"columns": columns, "rows": [compiled_cells(row) for row in rows]}


def compiled_cells(row: Row) -> list[Any]:
    """The cells of a run: the figures of its plan, or an error."""
    start = [row["name"], row["target"]]
    if "error" in row:
        return [*start, f"fails: {row['error']}", *[None] * 8]
    plan = row["plan"]
    memory, program = plan["memory"], plan["program"]
    state = memory["parameters"] + memory["optimizer"] + memory["average"]
    peak = in_gib(memory["peak"])
    cells = [
        *start,
        f"{plan['batch_size']:,}",
        in_gib(state),
        in_gib(memory["temporaries"]),
        f"{peak} of {in_gib(memory['available'])}"
        + ("" if memory["fits"] else ": does not fit"),
    ]
    compiled = f"{plan['compile_seconds']:.0f} s"
    if program is None:
        return [*cells, largest(plan), None, None, None, compiled]
    return [
        *cells,
        largest(plan),
        calls(program["kernels"]),
        sent(program["collectives"]),
        in_gib(program["hbm_bytes"]),
        compiled,
    ]


def comparison_table(rows: list[Row]) -> dict[str, Any]:
    """A line for each pair of programs that `big_vision.py` compiled."""
    columns = (
        "run",
        "batch",
        "what both have",
        "HBM, ours",
        "big_vision's",
        "ours / theirs",
        "peak",
        "theirs",
        "compiled",
        "theirs",
    )
    return {"columns": columns, "rows": [comparison_cells(row) for row in rows]}


def comparison_cells(row: Row) -> list[Any]:
    """The cells of a pair; what does not fit has no bytes."""
    pair = row["ours"], row["theirs"]
    moved = [one.get("hbm") for one in pair]
    ratio = f"**{moved[0] / moved[1]:.2f}**" if all(moved) else None
    return [
        row["model"],
        f"{row['batch']:,}",
        row["recipe"],
        *(in_gib(size) if size else None for size in moved),
        ratio,
        *(
            in_gib(one["peak"])
            if "peak" in one
            else f"{in_gib(one['needed'])}: does not fit"
            for one in pair
        ),
        *(f"{one['seconds']:.0f} s" if "seconds" in one else None for one in pair),
    ]


def largest(plan: Row) -> str | None:
    """The largest batch, in all and on a device."""
    if plan["largest_batch"] is None:
        return None
    each = plan["largest_batch"] // plan["devices"]
    return f"{plan['largest_batch']:,} ({each:,} a device)"


def calls(kernels: dict[str, int]) -> str | None:
    """Calls of libraries and of generated kernels, without XLA's own fusions.

    All convolutions of cuDNN are counted together, as are all kernels of Triton.
    """
    counts: Counter[str] = Counter()
    for kind, count in kernels.items():
        for start, name in LIBRARIES.items():
            if kind.startswith(start):
                counts[name] += count
                break
    named = [f"{count:,} {name}" for name, count in counts.most_common()]
    return ", ".join(named) or None


def sent(collectives: Iterable[Row]) -> str:
    """The bytes that a device sends in a step, by mesh axis."""
    sizes = defaultdict(float)
    kinds = defaultdict(Counter)
    for one in collectives:
        axes = "+".join(one["axes"])
        sizes[axes] += one["sent"]
        kinds[axes][one["kind"]] += one["count"]
    rows = sorted(sizes, key=sizes.__getitem__, reverse=True)
    return "; ".join(
        f"{axes or 'none'} {in_gib(sizes[axes])} ("
        + ", ".join(f"{n} {kind}" for kind, n in kinds[axes].most_common())
        + ")"
        for axes in rows
    )


def runs_table(rows: list[Row]) -> dict[str, Any]:
    """The config of each named run."""
    named = {row["name"]: f"`{row['case']}`" for row in rows if row["name"]}
    return {"columns": ("run", "config"), "rows": list(map(list, named.items()))}


def lowered(rows: list[Row]) -> str:
    """The runs that were lowered and not compiled, failures first."""
    others = [row for row in rows if not row["name"]]
    failures = [row for row in others if "error" in row]
    names = dict.fromkeys(row["case"] for row in others if "error" not in row)
    lines = ["## Lowered, not compiled", ""]
    lines += [
        f"- `{row['case']}` fails for {row['target']}: {row['error']}"
        for row in failures
    ]
    lines += [f"- `{name}`" for name in names]
    return "\n".join(lines) + "\n"


def provenance(rows: list[Row]) -> str:
    """Dates, machines and versions of the compilations."""
    programs = Counter(
        (row["date"], row["hardware"], tuple(sorted(row["versions"].items())))
        for row in rows
        if "plan" in row
    )
    lines = ["## Compiled on", ""]
    for (date, hardware, versions), count in sorted(programs.items()):
        named = ", ".join(" ".join(pair) for pair in versions)
        lines.append(f"- {count} programs on {date}, {hardware}: {named}")
    return "\n".join(lines) + "\n"
