"""One page of all results: the paper's figure beside ours, each claim with its verdict.

    python -m experiments.report --results runs/experiments/mini --output report.html

Reads `<results>/<experiment>/result.json` and the figures beside it, trains nothing,
and writes an HTML page that needs no other file, and the same in Markdown, whose images
are those in the folders. Several folders, such as those of two scales, make one page.
The page names missing and broken files.
"""

import argparse
from pathlib import Path

from experiments.lab import report_html, report_markdown
from experiments.lab.results import read_report
from vit_jax.cli import run_command
from vit_jax.storage.paths import write_atomically


def write(*folders: Path, output: Path | None = None) -> Path:
    """Writes the page, and the Markdown beside it; returns the page's path.

    Args:
        folders: of results, as `<root>/<scale>`.
        output: the page; `report.html` in the first folder if not given.
    """
    output = output or folders[0] / "report.html"
    report = read_report(folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, report_html.page(report))
    markdown = output.with_suffix(".md")
    write_atomically(markdown, report_markdown.page(report, output.parent))
    print(
        f"{output} and {markdown}: {len(report.results)} results, "
        f"{len(report.problems)} problems"
    )
    for problem in report.problems:
        print(f"- {problem}")
    return output


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    write(*arguments.results, output=arguments.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[Path("runs/experiments/mini")],
        metavar="FOLDER",
        help="folders of results, one for each scale",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    run_command(parser, main)
