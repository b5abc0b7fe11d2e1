"""Programs lowered for NVIDIA GPUs and TPUs that are not there: what JAX refuses.

Of each config, the steps of training and evaluation at their full size; of each
command, what it runs on a device.
"""

import re
from pathlib import Path

import pytest

from experiments.accelerator_cases import (
    CASES,
    absent_program,
    evaluation_batch,
)
from vit_jax.planning.deviceless import ABSENT, lower

# Calls into a library of the platform that programs may make.
LIBRARIES = {
    "cuda": r"__cudnn\$fmha\w+|__gpu\$xla\.gpu\.triton|cu_\w+|cusolver_\w+",
    "tpu": r"tpu_custom_call|Eigh|ApproxTopK",
}
# Custom calls of XLA itself: shardings, and what it expands on any platform.
ANYWHERE = r"Sharding|SPMD\w+|annotate_device_placement|mhlo\.topk|mhlo\.erf|TopK"


def check(lowered, platform):
    """No call into another platform's libraries, none to the host, no float64."""
    text = lowered.as_text()
    calls = set(re.findall(r"custom_call @([\w$.]+)", text))
    own = re.compile(f"(?:{ANYWHERE}|{LIBRARIES[platform]})$")
    assert {call for call in calls if not own.match(call)} == set()
    assert not re.search(r"\bx?f64\b", text)
    return text


def label(case):
    return " ".join((case.config, *case.overrides))


def test_every_config_is_lowered():
    files = {path.name for path in Path("configs").glob("*.py")}
    lowered = {case.config.partition(":")[0] for case in CASES if not case.slow}
    assert lowered | {"__init__.py", "base.py"} == files


@pytest.mark.parametrize("kind", ABSENT)
@pytest.mark.parametrize("case", [c for c in CASES if not c.slow], ids=label)
def test_steps(case, kind):
    program = absent_program(case, kind)
    platform = "cuda" if kind == "H100" else "tpu"
    assert program.mesh.abstract_device == ABSENT[kind]
    steps = (
        (program.train_step, (program.state, program.batch, program.keys)),
        (program.eval_step, (program.state.params, evaluation_batch(program))),
    )
    for step, arguments in steps:
        check(lower(step, *arguments, mesh=program.mesh), platform)
