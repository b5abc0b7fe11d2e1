"""The state that a run begins with: its newest checkpoint's, or a new one.

A checkpoint is gone on with only where it means the same: its config, its classes and
its records are compared with those of now.
"""

from typing import Any, NamedTuple

import ml_collections

from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import ConfigError
from vit_jax.models.depth import stack_blocks, unstack_blocks
from vit_jax.parallel import distributed
from vit_jax.parallel.placement import stack_layers, unstack_layers
from vit_jax.storage.run_files import MeterState, RecordList, config_of, facts_of
from vit_jax.training.run_folder import refuse_changes
from vit_jax.training.setup import Setup, build_program
from vit_jax.training.step import Params, TrainState

SHOWN = 5  # classes in a message


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
        next_index: its position in the data.
        meter: metrics of steps that no row has yet; None for a new run.
    """

    state: TrainState
    next_index: int
    meter: MeterState | None


def start_state(
    config: ml_collections.ConfigDict,
    setup: Setup,
    checkpoints: Checkpoints,
    params: Params | None = None,
    *,
    allow_change: bool,
) -> Start:
    """The newest saved state, or a new one.

    A new one takes over `params`, those of `init`, which are read if they are None.

    Mesh, processes and `model.scan` may be others than those that saved it. A run that
    goes on does not need `init` any more.

    Args:
        allow_change: go on with another config or other names of classes.

    Raises:
        ConfigError: the checkpoint is of another config, or of other classes.
    """
    program = setup.program
    scan = config.model.scan

    def saved_state(metadata: dict[str, Any]) -> TrainState:
        facts = facts_of(metadata)
        saved = config_of(facts)
        if not allow_change:
            refuse_changes("the newest checkpoint", saved, config)
        old, new = facts["label_names"], setup.label_names
        refuse_other_classes(old, new, allow_change=allow_change)
        if saved.model.scan == scan:
            return program.state
        say_scan(config)
        other = config.copy_and_resolve_references()
        other.model.scan = not scan
        classes, lengths = len(setup.label_names), setup.lengths
        return build_program(
            other, num_classes=classes, lengths=lengths, labels=setup.labels
        ).state

    restored = checkpoints.restore(saved_state)
    if restored is not None:
        state, facts = restored.state, facts_of(restored.metadata)
        if config_of(facts).model.scan != scan:
            if scan:
                state = stack_blocks(state, stack_layers)
            else:
                state = unstack_blocks(state, unstack_layers)
        say_other_records(facts.get("records", {}), setup.records, restored.step)
        return Start(state, facts["next_index"] or 0, facts.get("meter"))
    if params is None:
        params = given_params(config, setup)
    return Start(program.init_state(params), 0, None)


def given_params(config: ml_collections.ConfigDict, setup: Setup) -> Params | None:
    """The parameters of `init`, if a run has one."""
    if not config.init:
        return None
    # Imported where a checkpoint is read: it knows everybody's layouts.
    from vit_jax.training.initial_weights import initial_params

    return initial_params(
        setup.program.model,
        setup.program.state.params,
        config.init,
        setup.label_names,
        seed=config.seed,
        resample=config.resample,
    )


def refuse_other_classes(
    saved: list[str], now: tuple[str, ...], *, allow_change: bool = False
) -> None:
    """Raises ConfigError if the outputs of a checkpoint would mean other classes.

    Other names can be allowed, since they may be of the same classes; another order of
    the same names cannot.
    """
    if saved == list(now):
        return
    if sorted(saved) == sorted(now):
        raise ConfigError(
            "the classes of the data are in another order than when the checkpoint was "
            f"saved: {listed(saved)} there, {listed(now)} now; name them in the old "
            "order in data.classes, with --allow-config-change"
        )
    gone = [name for name in saved if name not in now]
    new = [name for name in now if name not in saved]
    text = (
        "the classes of the data have changed since the checkpoint was saved: "
        f"{listed(gone) or 'none'} is gone, {listed(new) or 'none'} is new"
    )
    if allow_change:
        distributed.say(f"{text}; going on all the same, as was asked")
        return
    raise ConfigError(
        f"{text}; undo that, take another --workdir, or --allow-config-change if only "
        "names have changed, and not their order"
    )


def listed(names: list[str] | tuple[str, ...]) -> str:
    """The first of some names."""
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def say_scan(config: ml_collections.ConfigDict) -> None:
    """Says that a scanned model draws its dropout otherwise, if it has some."""
    rates = [f"model.{key}" for key, x in config.model.items() if "_rate" in key and x]
    if rates:
        distributed.say(
            f"model.scan has changed, and with it the random numbers of "
            f"{', '.join(rates)}: the run will not end with the bits of one that was "
            "left alone"
        )


def say_other_records(
    saved: dict[str, RecordList], now: dict[str, RecordList], step: int
) -> None:
    """Says which splits hold other records than when a step was saved."""
    for split, old in saved.items():
        new = now.get(split, old)
        if new != old:
            others = ", but others" if new["images"] == old["images"] else ""
            distributed.say(
                f"the data have changed since step {step}: {split} had "
                f"{old['images']:,} images and has {new['images']:,}{others}; what "
                "follows is not what an undisturbed run would do"
            )
