"""The devices of a TPU pod that is not there, to compile for.

    devices = pod("v5e:16x16")
    mesh = make_mesh(data=-1, fsdp=1, tensor=1, devices=devices)

Needs the wheel `libtpu`, which holds the compiler, and no TPU.
"""

import importlib.util
import math
import os
import re
from typing import Any

import jax

EXAMPLES = "v3:4x4, v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16"
# What libtpu would otherwise ask the metadata server of a TPU's host, for minutes; and
# it must not claim the machine's own TPU, should there be one, nor fail when another
# process compiles at the same time.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def pod(name: str) -> list[Any]:
    """The devices of a TPU slice, such as `v5e:16x16`: chips, of a v3 cores.

    To be called before anything is computed: JAX itself runs on the CPU from then on.

    Raises:
        ImportError: libtpu is not installed.
        ValueError: there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            "compiling for a TPU needs libtpu, which is not installed: pip install "
            '"vit_jax[tpu]"'
        )
    if not re.fullmatch(r"v\w+:\d+(x\d+)*", name):
        raise ValueError(f"--topology={name}: wanted generation:chips, as {EXAMPLES}")
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    # The two cores of a v4 chip are one device, as they are on the machine itself.
    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={name}: {reason}; wanted one such as {EXAMPLES}"
        ) from None
    return list(found.devices)


def chips_in(name: str) -> int:
    """The number of chips of `v5e:16x16`: 256."""
    return math.prod(int(side) for side in name.partition(":")[2].split("x"))
