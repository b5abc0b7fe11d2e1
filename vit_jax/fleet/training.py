"""Runs that are the same program, trained side by side on one device.

A tiny model leaves most of an accelerator idle, and its host busy with dispatching. So
the data set is kept on the device and augmented there (`data/device_augment.py`), many
steps are one dispatch, and runs that differ only in arguments of the program (seed,
learning rate, schedule, weight decay, examples) are vmapped, around the ordinary step
of `training/step.py`. On CPUs, where products with a batch of weights are slow, runs go
one after the other through one compiled program.

Each run writes the folder that `vit_jax.train` would write, with the same order of
examples and the same initial parameters; only the random numbers of the augmentation
differ. Finished runs are skipped; interrupted ones are resumed.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from vit_jax.config import ConfigError, check_config, to_dict
from vit_jax.data.pipeline import Data
from vit_jax.fleet.loop import Clock, SideBySide
from vit_jax.fleet.member import Member, Results
from vit_jax.fleet.program import FleetProgram, make_program, program_key
from vit_jax.parallel.distributed import StopSignals
from vit_jax.storage.paths import as_path
from vit_jax.training.initial_weights import complete_model, initial_params
from vit_jax.training.loop import Interrupted
from vit_jax.training.sections import config_sections

# Keys that the fleet does not support, with the values that turn them off.
ORDINARY = {
    "data.randaug_layers": 0,
    "data.repeated_augmentation": 1,
    "data.sampling": "",
    "data.three_augment": False,
    "data.color_jitter": 0.0,
    "data.on_error": "raise",
    "loss.class_weights": "",
    "train.step_timeout": 0.0,
    "guard.policy": "stop",
    "log.wandb": "",
}


class Defaults(NamedTuple):
    """Default sizes of a dispatch on a kind of device."""

    members_at_once: int
    steps_per_dispatch: int


DEFAULTS = {"cpu": Defaults(1, 1), "gpu": Defaults(16, 50), "tpu": Defaults(16, 50)}


def fleet_key(config: ml_collections.ConfigDict) -> str:
    """A text that is equal for configs whose runs can share one program.

    They may differ in seed, init, learning rate and its schedule, weight decay, split,
    duration, evaluation, logging and checkpoints.
    """
    data = Data(**config.data)
    return f"{program_key(config)} {data.name} {data.classes}"


def why_not(config: ml_collections.ConfigDict) -> str:
    """Why a fleet cannot train a config; "" if it can."""
    values = to_dict(config)
    for key, off in ORDINARY.items():
        section, name = key.split(".")
        value = values[section].get(name, off)
        if value != off:
            return f"a fleet needs {key}={off!r}, and it is {value!r}"
    if config.objective.name == "distillation":
        return "a fleet has no teacher, and objective.name='distillation' needs one"
    mesh = config.mesh
    if max(mesh.data, mesh.fsdp, mesh.tensor) > 1 or jax.process_count() > 1:
        return "a fleet trains on one device, and mesh asks for several"
    return ""


def train_fleet(
    configs: Sequence[ml_collections.ConfigDict],
    workdirs: Sequence[str | Path],
    *,
    members_at_once: int | None = None,
    steps_per_dispatch: int | None = None,
    deadline: float | None = None,
) -> list[Results]:
    """Trains each config in its folder, as `train` does, many at once.

    Any configs may be given; those with equal `fleet_key` and equal lengths in steps
    are trained side by side.

    Args:
        members_at_once: most runs side by side; None is 16, on CPUs 1.
        steps_per_dispatch: most steps of a dispatch; None is 50, on CPUs 1.
        deadline: in seconds of `time.monotonic()`; all is saved shortly before it.

    Returns:
        The last evaluation of each run, as `train` returns it; {} for a run that was
        stopped by a faulty step, whose folder then has a `failure.txt`.

    Raises:
        ValueError: a config cannot be used, or not by a fleet; nothing was started.
        CheckpointError: no checkpoint could be restored or written.
        Interrupted: SIGTERM, Ctrl-C or the deadline; the states are saved.
    """
    if len(configs) != len(workdirs) or len(set(map(str, workdirs))) != len(workdirs):
        raise ValueError("a fleet needs one folder for each config, each another")
    for config, workdir in zip(configs, workdirs, strict=True):
        check_config(config, config_sections())
        if reason := why_not(config):
            raise ConfigError(f"{workdir}: {reason}; train it with vit_jax.train")
    defaults = DEFAULTS[jax.default_backend()]
    at_once = members_at_once or defaults.members_at_once
    steps = steps_per_dispatch or defaults.steps_per_dispatch
    members = [
        Member(complete_model(config, folder), folder)
        for config, folder in zip(configs, map(as_path, workdirs), strict=True)
    ]
    with StopSignals() as signals:
        clock = Clock(signals, deadline)
        plan = groups(members, at_once)
        for number, (group, slots) in enumerate(plan, 1):
            run_group(group, slots, steps, clock, f"fleet {number}/{len(plan)}")
    return [member.results for member in members]


def groups(members: list[Member], at_once: int) -> list[tuple[list[Member], int]]:
    """Groups of members to train side by side, each with its number of slots.

    Finished runs are counted, so that the compiled program, and with it the last bit of
    the results, does not depend on how much is left to do.
    """
    alike: dict[tuple[str, str], list[Member]] = {}
    for member in members:
        key = fleet_key(member.config), member.rhythm()
        alike.setdefault(key, []).append(member)
    result = []
    for runs in alike.values():
        slots = math.ceil(len(runs) / math.ceil(len(runs) / at_once))
        result += [(runs[i : i + slots], slots) for i in range(0, len(runs), slots)]
    return result


def run_group(
    group: list[Member], slots: int, steps: int, clock: Clock, name: str
) -> None:
    """Trains the unfinished runs of a group."""
    for member in group:
        member.results = member.finished_results()
        if member.failure:
            print(f"{name}: {member.workdir} is left out, since {member.failure}")
    active = [m for m in group if not (m.results or m.failure)]
    if not active:
        return
    if stop := clock.stop():
        raise Interrupted(f"{stop} before {name}")
    first = active[0]
    splits = (first.data.split, *first.config.eval.splits)
    print(f"{name}: {first.data.in_words(splits)}", flush=True)
    key, classes = program_key(first.config), len(first.label_names)
    program = make_program(key, classes, slots, steps)
    with ExitStack() as stack:
        by_step: dict[int, list[tuple[Member, Any]]] = {}
        # Before any folder is begun: a checkpoint to start from may not be there.
        first_states = {
            member.workdir: jax.device_get(first_state(program, member))
            for member in active
            if not member.saved_step
        }
        for member in active:
            state = member.open(program.state, stack)
            if state is None:
                state = first_states[member.workdir]
            state = jax.device_get(state)
            by_step.setdefault(int(state.step), []).append((member, state))
        # A kill during the saves leaves the runs at different steps.
        for start, pairs in sorted(by_step.items()):
            text = f", from step {start}" if start else ""
            print(f"{name}: {len(pairs)} runs{text}", flush=True)
            members, states = map(list, zip(*pairs, strict=True))
            SideBySide(program, members, states, slots, steps, name).run(start, clock)


def first_state(program: FleetProgram, member: Member) -> Any:
    """The state before the first step, equal to that of an ordinary run."""
    config, shapes = member.config, program.state.params
    if not config.init:
        return program.start(program.draw(config.seed))
    names = member.output_names
    params = initial_params(
        program.model,
        shapes,
        config.init,
        names,
        seed=config.seed,
        resample=config.resample,
    )
    return program.start(params)
