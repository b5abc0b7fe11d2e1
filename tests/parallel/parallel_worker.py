"""Trainings in one process, of one or several: `parallel_worker.py JOBS.json [flags]`.

Each job is {"workdir", "overrides", "stop_at"}: a run of the digits config that SIGTERM
interrupts at step `stop_at`, if that is not 0. Process 0 writes beside each run what
the evaluation gave and how many bytes of the first state its first device held.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import jax

from vit_jax.config_file import read_config
from vit_jax.parallel import distributed
from vit_jax.training import loop


def bytes_here(tree):
    """Bytes on this process's first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def run(workdir, overrides, stop_at):
    slices = {getattr(device, "slice_index", 0) for device in jax.devices()}
    facts = {"slices": len(slices)}
    build, add = loop.build, loop.Meter.add

    def build_and_look(config):
        experiment = build(config)
        facts["teacher"] = bytes_here(experiment.teacher)

        def init_state(params=None):
            state = experiment.program.init_state(params)
            facts["params"] = bytes_here(state.params)
            facts["opt_state"] = bytes_here(state.opt_state)
            return state

        program = experiment.program._replace(init_state=init_state)
        return experiment._replace(program=program)

    def add_and_stop(self, step, metrics):
        add(self, step, metrics)
        if step == stop_at and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            if jax.process_count() > 1:
                # These steps are so short that the run could end before the
                # preemption service has told the others.
                time.sleep(5)

    loop.build, loop.Meter.add = build_and_look, add_and_stop
    overrides = [f"--config.{text}" for text in overrides]
    try:
        config = read_config("configs/digits.py", overrides)
        facts["results"] = loop.train(config, workdir)
    except loop.Interrupted as stop:
        facts["stopped"] = str(stop)
    finally:
        loop.build, loop.Meter.add = build, add
    if distributed.is_primary():
        Path(workdir, "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs")
    distributed.add_arguments(parser)
    arguments = parser.parse_args()
    distributed.start(arguments)
    for job in json.loads(Path(arguments.jobs).read_text()):
        run(**job)
