"""Small files of finished runs, kept in the repository.

Runs of several machines and days add up: a run whose small files are in the folder
`<kept>/<scale>/runs/...` counts as finished, and its checkpoints are not needed for the
report. It is trained again where another run starts from it, and for an experiment
that reads a measure of it which was not kept.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.lab.grid import RECORD, SPENT, GridRun, is_finished, record
from experiments.lab.measures import MissingMeasure
from vit_jax.storage.lock import LOCK
from vit_jax.storage.paths import write_atomically
from vit_jax.storage.run_files import CONFIG, METRICS, read_metrics

KEPT = Path("docs/results/runs")
# Files of a run folder that are not measures; they name paths of the machine.
OF_THE_RUN = (CONFIG, LOCK, RECORD, SPENT)


def place(run: GridRun, kept: Path) -> Path:
    """The folder of a run's small files; its own is `<root>/<scale>/runs/X/seedN`."""
    *_, scale, runs, name, seed = run.folder.parts
    return kept / scale / runs / name / seed


def with_kept(
    runs: list[GridRun], kept: Path, measure: Callable[[GridRun], object] = lambda _: 0
) -> list[GridRun]:
    """The runs, those that are only kept in the place of those not trained here.

    A run that an unfinished one needs has to be here with its checkpoint, and so has
    one of which a measure was not kept.

    Args:
        measure: of a run with a result; raises MissingMeasure as in `Experiment`.
    """
    there = {
        run.folder: place(run, kept)
        for run in runs
        if not is_finished(run.folder) and is_finished(place(run, kept))
    }
    lacks: dict[Path, str] = {}
    for run in runs:
        if run.folder in there and not record(there[run.folder])["failed"]:
            try:
                measure(run._replace(folder=there[run.folder]))
            except MissingMeasure as error:
                lacks[run.folder] = str(error)
    there = {here: folder for here, folder in there.items() if here not in lacks}
    if lacks:
        first = next(iter(lacks.values())).partition(":")[0]
        print(f"{len(lacks)} kept runs are trained again here, the first as {first}")
    needed = {
        folder
        for run in runs
        if not is_finished(run.folder) and run.folder not in there
        for folder in run.after
    }
    return [
        run._replace(folder=there[run.folder], after=())
        if run.folder in there and run.folder not in needed
        else run
        for run in runs
    ]


def keep(run: GridRun, kept: Path) -> None:
    """Copies the evaluations, measures and the record of a finished run.

    They replace those of another training of the same run.
    """
    target = place(run, kept)
    if target == run.folder:
        return
    if is_finished(target) and record(target) != record(run.folder):
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    rows = [
        row for row in read_metrics(run.folder / METRICS) if row["split"] != "train"
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(target / METRICS, lines)
    for path in sorted(run.folder.glob("*.json")):
        if path.name not in OF_THE_RUN:
            shutil.copyfile(path, target / path.name)
    # Last, since it marks the run as finished.
    write_atomically(target / RECORD, (run.folder / RECORD).read_text())
