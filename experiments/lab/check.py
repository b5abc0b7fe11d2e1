"""The sizes and compute of a grid of runs, from an abstract training step of each.

Nothing is computed and no data is read, so that the paper's own setting can be checked
on any machine; `python -m vit_jax.plan --config ...` says more about one config.
"""

from typing import Any, NamedTuple

import jax

from experiments.lab.frame import Arm
from experiments.lab.grid import GridRun
from vit_jax.config import check_config, resolve_lengths
from vit_jax.data.pipeline import Data
from vit_jax.planning.estimate import core_days
from vit_jax.planning.flops import model_macs, training_flops
from vit_jax.planning.run_plan import data_facts
from vit_jax.training.sections import config_sections
from vit_jax.training.setup import build_program


class Needs(NamedTuple):
    """Size and cost of a run; FLOPs are 6 a multiply-add, as the paper counts them."""

    label: str
    parameters: int
    macs: int
    steps: int
    batch_size: int
    flops: float

    @property
    def core_days(self) -> float:
        """TPUv3-core-days at the utilisation that the paper's Table 2 implies."""
        return core_days(self.flops / 1e18)


def needs(run: GridRun, arm: Arm) -> Needs:
    """Resolves a run, and traces its training step without computing it.

    Raises:
        ValueError: the config cannot be used, or its data is neither known nor there.
    """
    config = run.config
    check_config(config, config_sections())
    examples, classes = data_facts(config, arm.examples or None, arm.classes or None)
    lengths = resolve_lengths(config, examples)
    program = build_program(
        config, num_classes=classes, lengths=lengths, devices=jax.devices()[:1]
    )
    jax.eval_shape(program.train_step, program.state, program.batch, program.keys)
    macs = model_macs(program.model)
    images = lengths.total * config.data.batch_size
    leaves: list[Any] = jax.tree.leaves(program.state.params)
    return Needs(
        run.label,
        sum(leaf.size for leaf in leaves),
        macs,
        lengths.total,
        config.data.batch_size,
        float(training_flops(macs) * images),
    )


def data_is_here(name: str, split: str = "test") -> bool:
    """Whether a data set can be read on this machine."""
    data = Data(name=name, batch_size=1, image_size=(1, 1), cache="never")
    try:
        return data.num_examples(split) > 0
    except (ValueError, OSError, ImportError):
        return False


def needs_table(rows: list[Needs], seeds: dict[str, int], gflops: float) -> str:
    """A Markdown table with a line for each arm, and the sum over all seeds.

    Args:
        gflops: sustained speed of the machine in GFLOP/s; 0 if that is not known.
    """
    lines = [
        "| arm | seeds | parameters | MACs an image | steps x batch | FLOPs a run |"
        " TPUv3-core-days |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.label} | {seeds[row.label]} | {row.parameters:,} | {row.macs:.3g} "
            f"| {row.steps:,} x {row.batch_size} | {row.flops:.3g} "
            f"| {row.core_days:.3g} |"
        )
    total = sum(row.flops * seeds[row.label] for row in rows)
    lines.append(f"\n{total:.3g} FLOPs in all")
    if gflops:
        lines[-1] += f", {total / gflops / 6e10:.1f} minutes at {gflops:g} GFLOP/s"
    return "\n".join(lines)
