"""Tries every attack, counts what came of it, and shows each failure.

    PYTHONPATH=tests python -m attack --out table.md

Exit code 1 if one ended in a traceback, was found late, was silent, or hung. As root,
full disks are tried too.
"""

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from attack.catalogue import KINDS
from attack.outcomes import FAILURES, Attack, Outcome, safe

SHOWN = 9  # failures of a kind in the report
HEAD = ("kind", "tried", *(outcome.value for outcome in Outcome), "seconds")


def attempt(attack: Attack) -> tuple[Outcome, str]:
    """Tries an attack in a folder of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return safe(attack, Path(folder))


def try_kind(attacks: Iterable[Attack]) -> tuple[dict[str, Counter], list[str]]:
    """Tries attacks; the counts of each row, and a line for each failure."""
    counts: dict[str, Counter] = {}
    failures: list[str] = []
    for attack in attacks:
        outcome, text = attempt(attack)
        counts.setdefault(attack.kind, Counter())[outcome] += 1
        if outcome not in attack.good:
            failures.append(
                f"{outcome.value}: {attack.kind}: {attack.name}\n    {text}"
            )
    return counts, failures


def row(kind: str, found: Counter, seconds: float) -> str:
    """A line of the table."""
    cells = [kind, str(found.total()), *(str(found[outcome]) for outcome in Outcome)]
    return f"| {' | '.join((*cells, f'{seconds:.0f}'))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m attack", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", default="", help="catalogues whose name holds this")
    parser.add_argument("--share", type=float, default=1.0, help="of each, by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file")
    arguments = parser.parse_args()
    chosen = {name: kind for name, kind in KINDS.items() if arguments.only in name}
    if not chosen:
        parser.error(f"--only {arguments.only}: wanted a part of {', '.join(KINDS)}")
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    print("\n".join(lines), flush=True)
    failed, rng = [], random.Random(arguments.seed)
    for kind in chosen.values():
        begin = time.monotonic()
        attacks = (x for x in kind() if rng.random() < arguments.share)
        counts, failures = try_kind(attacks)
        seconds = (time.monotonic() - begin) / max(1, len(counts))
        rows = [row(*item, seconds) for item in counts.items()]
        print("\n".join(rows), flush=True)
        lines, failed = [*lines, *rows], failed + failures
        for text in itertools.islice(failures, SHOWN):
            print(text, file=sys.stderr)
    print(f"{len(failed)} failures ({', '.join(x.value for x in FAILURES)})")
    if arguments.out:
        arguments.out.write_text("\n".join((*lines, "", *failed)) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
