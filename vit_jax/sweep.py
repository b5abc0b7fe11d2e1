"""The learning rate chosen on held-out data, then training on all of it.

    python -m vit_jax.sweep --config configs/finetune.py:dataset=cifar10 \\
        --init ViT-B_16.npz --workdir runs/sweep

Each of `sweep.learning_rates` is trained on `sweep.train_split` and evaluated on
`sweep.dev_split`; the best is trained on `data.split` and evaluated on `eval.splits`
(arXiv 2010.11929, section 4.1). With `sweep.best_weights=ema`, the averages of the
parameters are compared. Each is a run of `vit_jax.train` in its own folder: what is
finished is not trained again, and what was interrupted goes on.
"""

import argparse
import json
from pathlib import Path

import ml_collections

from vit_jax.cli import add_config_arguments, command_parser, run_command
from vit_jax.config import ConfigError, check_config
from vit_jax.config_file import read_config
from vit_jax.storage.lock import held
from vit_jax.storage.paths import as_path, write_atomically
from vit_jax.training.loop import Results, exit_on_interrupt, prepare, train
from vit_jax.training.sections import config_sections, ranked_split


def sweep(
    config: ml_collections.ConfigDict, workdir: Path, *, may_exit: bool = False
) -> tuple[dict[float, float], float, Results]:
    """Runs the sweep; `may_exit` as of `train`.

    Returns:
        The metric on the held-out part for each learning rate, the best one (of equals
        the smallest), and the last evaluation of the final run.

    Raises:
        ConfigError: the config's section `sweep` is not filled in.
        FolderInUse: another process writes to the folder.
    """
    check_config(config, config_sections())
    settings = config.sweep
    if not (settings.learning_rates and settings.train_split and settings.dev_split):
        raise ConfigError(
            "sweep.learning_rates, sweep.train_split and sweep.dev_split must be given,"
            " such as 0.001,0.003 and train[:90%] and train[90%:]"
        )
    metric = metric_of(config)
    ranked = ranked_split(config, "sweep", settings.dev_split)
    trials = {rate: trial_of(config, rate) for rate in sorted(settings.learning_rates)}
    final, accuracies = config.copy_and_resolve_references(), {}
    final.optim.learning_rate = min(trials)
    # Before the hours of the trials: the final run may be the one that cannot be.
    prepare(final, workdir / "final")
    with held(workdir):
        for rate, trial in trials.items():
            print(f"\nlearning rate {rate:g}, on {settings.train_split}", flush=True)
            results = train(trial, workdir / f"rate_{rate:g}", may_exit=may_exit)
            accuracies[rate] = results[ranked][metric]
        best = max(accuracies, key=accuracies.__getitem__)
        print(f"\nlearning rate {best:g}, on {config.data.split}", flush=True)
        final.optim.learning_rate = best
        return accuracies, best, train(final, workdir / "final", may_exit=may_exit)


def trial_of(
    config: ml_collections.ConfigDict, rate: float
) -> ml_collections.ConfigDict:
    """The config of the run of a learning rate, on held-out data."""
    trial = config.copy_and_resolve_references()
    trial.optim.learning_rate = rate
    trial.data.split = config.sweep.train_split
    trial.eval.splits = (config.sweep.dev_split,)
    return trial


def metric_of(config: ml_collections.ConfigDict) -> str:
    """The metric that is compared; with several labels an image there is but `map`."""
    return "map" if config.checkpoint.best_metric == "map" else "accuracy"


def main(arguments: argparse.Namespace) -> None:
    """The command: runs the sweep, prints a table and writes `sweep.json`."""
    config = read_config(arguments.config, arguments.overrides)
    workdir = as_path(arguments.workdir)
    with exit_on_interrupt("-m", "vit_jax.sweep"):
        accuracies, best, results = sweep(config, workdir, may_exit=True)
    metric = metric_of(config)
    report = {
        "dev_split": config.sweep.dev_split,
        "best_weights": config.sweep.best_weights,
        f"dev_{metric}": {f"{rate:g}": value for rate, value in accuracies.items()},
        "best_learning_rate": best,
        "final": results,
    }
    write_atomically(workdir / "sweep.json", json.dumps(report, indent=2) + "\n")
    print(f"\nlearning rate  {metric} on {config.sweep.dev_split}")
    for rate, accuracy in accuracies.items():
        mark = "  best" if rate == best else ""
        print(f"{rate:<13g}  {100 * accuracy:.2f} %{mark}")
    for split, metrics in results.items():
        print(f"{split}: {metric} {100 * metrics[metric]:.2f} %")
    print(f"final run: {workdir / 'final'}   table: {workdir / 'sweep.json'}")


if __name__ == "__main__":
    parser = command_parser("vit_jax.sweep", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--workdir", required=True, help="of the runs; or gs://")
    run_command(parser, main)
