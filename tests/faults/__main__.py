"""Tries each fault several times and writes a table.

    PYTHONPATH=tests python -m faults --times 5 --out docs/faults_table.md

As root, since disks are mounted.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.bench import Bed, Result, cannot_mount
from faults.catalogue import FAULTS, Fault

HEAD = (
    "| fault | times | how the command ended | steps trained again | same end |",
    "|---|---|---|---|---|",
)


def row(fault: Fault, results: list[Result]) -> str:
    """A fault's line of the table."""
    ended = Counter(result.ended for result in results).most_common()
    times = len(results)
    texts = [text if count == times else f"{count} x {text}" for text, count in ended]
    again = [result.again for result in results]
    span = str(again[0]) if len(set(again)) == 1 else f"{min(again)} to {max(again)}"
    same = sum(result.same for result in results)
    cells = (fault.name, str(times), "<br>".join(texts), span, f"{same} of {times}")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    lines, failed = list(HEAD), False
    print("\n".join(HEAD), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(Path(folder))
        for fault in FAULTS:
            if arguments.only not in fault.name:
                continue
            if fault.needs_mount and (reason := cannot_mount()):
                lines.append(f"| {fault.name} | 0 | {reason} | | |")
                continue
            started = time.perf_counter()
            rng = random.Random(f"{arguments.seed} {fault.name}")
            results = []
            for _ in range(arguments.times):
                try:
                    results.append(bed.try_fault(fault, rng))
                except AssertionError as error:
                    failed = True
                    print(error, file=sys.stderr)
                    results.append(Result("FAILED", 0, False))
            lines.append(row(fault, results))
            print(lines[-1], f" {time.perf_counter() - started:.0f} s", flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
