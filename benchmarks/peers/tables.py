"""The processor, its results on disk, and the tables of all processors as Markdown."""

import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.lineup import Case
from benchmarks.peers.turns import (
    QUIET,
    Result,
    Spread,
    counted_rounds,
    loads,
    rates,
    ratios,
)
from experiments.lab.tables import markdown_table

# Columns of the tables. Of the peers of one column the fastest is shown.
COLUMNS = {
    "timm": ("timm", "timm-channels-last"),
    "timm compiled": ("timm-compiled", "timm-compiled-channels-last"),
    "google": ("google",),
    "big_vision": ("big_vision",),
    "plain Linen": ("linen",),
}
TITLES = {"train": "Training", "forward": "Inference"}


def this_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The processor of this machine: `name`, `cores` and `features`.

    The name of a virtual machine says little, so that on Linux family and model follow,
    as in `Intel(R) Xeon(R) Processor, family 6 model 207`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    found = {"name": platform.machine(), "cores": cores or os.cpu_count()}
    fields = {}
    if cpuinfo.exists():
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
        pairs = (line.partition(":") for line in lines)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" in fields:
        number = f"family {fields['cpu family']} model {fields['model']}"
        found["name"] = f"{fields['model name']}, {number}"
    flags = fields.get("flags", "").split()
    kinds = {"avx2": "AVX2", "avx512f": "AVX-512", "amx_bf16": "AMX"}
    found["features"] = [name for flag, name in kinds.items() if flag in flags]
    return found


def file_name(processor: dict[str, Any]) -> str:
    """The JSON file of a processor, such as `amd-epyc-family-25-model-1-2-cores`."""
    text = f"{processor['name']} {processor['cores']} cores".lower()
    text = re.sub(r"\((r|tm)\)", "", text)
    return "-".join(re.findall("[a-z0-9]+", text)) + ".json"


def load(path: Path, processor: dict[str, Any]) -> dict[str, Any]:
    """What a file holds: `processor`, and `results` by the names of their cases."""
    if path.exists():
        return json.loads(path.read_text())
    return {"processor": processor, "results": {}}


def save(path: Path, measured: dict[str, Any]) -> None:
    """Writes the file, with the figures of a peer in a line."""
    text = json.dumps(measured, indent=1)
    lists = re.compile(r"\[[^\[\]{}]*\]")
    text = lists.sub(lambda match: re.sub(r"\s+", " ", match[0]), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def render(measured: Iterable[dict[str, Any]], cases: Sequence[Case]) -> str:
    """Markdown: for each processor a heading, its facts, and two tables.

    Args:
        measured: of `load`, one a processor.
        cases: the rows in their order; results of other cases are not shown.
    """
    parts = []
    for one in measured:
        results = [one["results"][x.name] for x in cases if x.name in one["results"]]
        if not results:
            continue
        processor = one["processor"]
        parts.append(f"### {processor['name']}, {processor['cores']} cores")
        parts.append(facts(processor, results))
        for mode, title in TITLES.items():
            own = [result for result in results if result["mode"] == mode]
            if own:
                parts.append(f"**{title}**\n\n{markdown_table(table(own))}")
    return "\n\n".join(parts) or "No processor has been measured."


def facts(processor: dict[str, Any], results: Sequence[Result]) -> str:
    """Dates, commits, instruction sets, versions and the load of others."""
    dates = sorted({result["date"] for result in results})
    commits = sorted({result["commit"] for result in results})
    rows = [row for result in results for row in result["peers"].values()]
    versions = sorted({row["version"] for row in rows})
    counted = [loads(r)[number] for r in results for number in counted_rounds(r)]
    features = ", ".join(processor["features"]) or "instruction sets unknown"
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    noisy = sum(load >= QUIET for load in counted)
    warning = f" In {noisy} rounds they used more than {QUIET:.0%}:" if noisy else ""
    warning += " those ratios are not to be trusted." if noisy else ""
    return (
        f"{days}, commit {', '.join(commits)}; {features}; {'; '.join(versions)}. "
        f"Other processes used at most {max(counted):.0%} of the CPUs.{warning}"
    )


def table(results: Sequence[Result]) -> dict[str, Any]:
    """A line for each case and each of ours; columns of peers that took part."""
    present = {name for result in results for name in result["peers"]}
    columns = {title: x for title, x in COLUMNS.items() if present & {*x}}
    for name in sorted(x for x in present if x.startswith("ours@")):
        columns[f"commit {name.removeprefix('ours@')}"] = (name,)
    lines = []
    for result in results:
        for name in result["peers"]:
            if name == "ours" or name.startswith("ours:"):
                lines.append(line(result, name, columns))
    titles = [f"ours / {title}" for title in columns]
    head = ["model, batch", "dtype", "ours with", "images/s", *titles, "rounds"]
    return {"columns": head, "rows": lines}


def line(result: Result, ours: str, columns: dict[str, Sequence[str]]) -> list[str]:
    """The cells of one of ours in one case."""
    cells = [f"{result['model']}, {result['batch']}", result["dtype"]]
    cells += [result["peers"][ours]["version"], with_range(rates(result, ours), ".4g")]
    for names in columns.values():
        present = [name for name in names if name in result["peers"]]
        if not present:
            cells.append("")
            continue
        best = max(present, key=lambda name: rates(result, name).median)
        cell = with_range(ratios(result, ours, best), ".2f", bold=True)
        cell += f", {rates(result, best).median:.4g}"
        cells.append(cell + (" channels last" if best.endswith("last") else ""))
    quiet, every = len(counted_rounds(result)), len(loads(result))
    return [*cells, f"{quiet} of {every}"]


def with_range(spread: Spread, form: str, *, bold: bool = False) -> str:
    """Such as `1.21 (1.18-1.25)`."""
    stars = "**" if bold else ""
    least, most = format(spread.least, form), format(spread.most, form)
    return f"{stars}{format(spread.median, form)}{stars} ({least}-{most})"


def replace_block(text: str, name: str, body: str) -> str:
    """A page with what stands between its markers `begin NAME` and `end NAME` replaced.

    Raises:
        ValueError: the page does not have each marker once, in this order.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    pattern = re.compile(re.escape(begin) + "(.*?)" + re.escape(end), re.S)
    if text.count(begin) != 1 or text.count(end) != 1 or not pattern.search(text):
        raise ValueError(f"the page lacks the markers of {name}, or has them twice")
    return pattern.sub(lambda _: f"{begin}\n{body}\n\n{end}", text)
