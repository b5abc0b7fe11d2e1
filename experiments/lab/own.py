"""Arms and measures of one's own beside those of an experiment: `--own FILE.py`.

They have a table of their own: what the experiment concludes is judged by its arms
alone, so that no verdict on the paper depends on what somebody adds.
"""

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.lab.frame import Arm, Experiment, RunResults
from experiments.lab.records import Table
from experiments.lab.tables import mean_cell
from vit_jax.interop.trained import TrainedModel, load_trained

Measure = Callable[[TrainedModel], float]


class Own(NamedTuple):
    """What the file defines, either or both.

    Attributes:
        arms: `arms(scale)`, the arms of a scale by label.
        measures: `MEASURES`, functions of a trained model by the title of the column.
    """

    arms: Callable[[str], dict[str, Arm]] = lambda _: {}
    measures: Mapping[str, Measure] = {}


def load_own(path: str) -> Own:
    """What a file adds; nothing for "".

    Raises:
        ValueError: no such file, one that fails, or one that defines neither.
    """
    if not path:
        return Own()
    if not Path(path).is_file():
        raise ValueError(f"--own={path}: there is no such file")
    try:
        names = runpy.run_path(path)
    except Exception as error:
        raise ValueError(f"--own={path}: {type(error).__name__}: {error}") from error
    found: dict[str, Any] = {
        key: names[name]
        for key, name in (("arms", "arms"), ("measures", "MEASURES"))
        if name in names
    }
    if not found:
        raise ValueError(f"--own={path}: wanted `arms(scale)` or `MEASURES` in it")
    return Own(**found)


def own_experiment(experiment: Experiment, own: Own, scale: str) -> Experiment:
    """The experiment with the arms of `own` too.

    Raises:
        ValueError: a label that the experiment has already.
    """
    theirs, mine = experiment.arms(scale), own.arms(scale)
    if twice := sorted(theirs.keys() & mine.keys()):
        raise ValueError(
            f"the experiment has arms named {', '.join(twice)}: rename those of --own"
        )
    return experiment._replace(arms=lambda _: theirs | mine)


def own_table(results: RunResults, own: Own) -> Table:
    """All arms with their accuracy and the measures of one's own."""
    mine = own.arms(results.scale)
    few = all(results.configs[label].fewshot.every for label in results.runs)
    columns = ["arm", "whose", "accuracy (%)"]
    columns += ["few-shot accuracy (%)"] * few
    rows = []
    for label, folders in results.runs.items():
        values = [results.accuracy(label)] + [results.fewshot(label)] * few
        cells: list[Any] = [mean_cell(x, 100) for x in values]
        models = [load_trained(folder) for folder in folders] if own.measures else []
        for measure in own.measures.values():
            cells.append(mean_cell([float(measure(model)) for model in models]))
        whose = "one's own" if label in mine else "the experiment's"
        rows.append([label, whose, *cells])
    return Table(
        "Arms and measures of one's own; no claim is judged by them",
        [*columns, *own.measures],
        rows,
    )
