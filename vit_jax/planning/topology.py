"""Devices of other machines to compile for: a TPU pod, GPUs of one host or several.

    devices = pod("v5e:16x16")
    devices = cards("2x8xH100")
    mesh = make_mesh(data=-1, fsdp=1, tensor=1, devices=devices)

No such device is needed, only the wheels that hold the compiler: `libtpu`, or those of
`jax[cuda13]` or `jax[cuda12]`.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import jax

# Descriptions of cards, for XLA: GpuTargetConfigProto as text, each with its source.
CARDS = Path(__file__).parent / "cards"
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
EXAMPLES = "v3:4x4, v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16"
# Otherwise libtpu would query the metadata server of a TPU's host, for minutes. It must
# neither claim a TPU of this machine nor fail when another process compiles too.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def pod(name: str) -> list[Any]:
    """The devices of `v5e:16x16`, or of two such slices, `2*v5e:16x16`.

    A device is a chip, or a core of a v3. Call this before anything is computed: JAX
    itself runs on the CPU from then on.

    Raises:
        ImportError: libtpu is not installed.
        ValueError: there is no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            "compiling for a TPU needs libtpu, which is not installed: pip install "
            '"vit_jax[tpu]"'
        )
    match = re.fullmatch(r"(?:([1-9]\d*)\*)?(v\w+:\d+(?:x\d+)*)", name)
    if not match:
        raise ValueError(f"--topology={name}: wanted generation:chips, as {EXAMPLES}")
    os.environ.update(_ENVIRONMENT)
    options: dict[str, Any] = {"num_slices": int(match[1])} if match[1] else {}
    # The two cores of a v4 chip are one device, as they are on the machine itself.
    if match[2].startswith("v4"):
        options["chip_config_name"] = "megacore"
    return _devices(f"--topology={name}", EXAMPLES, match[2], "tpu", options)


def cards(name: str) -> list[Any]:
    """The GPUs of `8xH100`, or of two hosts of eight each, `2x8xH100`.

    Call this before anything is computed: JAX itself runs on the CPU from then on.

    Raises:
        ImportError: no CUDA wheels of jax are installed.
        ValueError: a name of another form, or a card whose description is not known.
    """
    known = sorted(path.stem for path in CARDS.glob("*.txtpb"))
    wanted = "wanted GPUs, or hosts x GPUs, of one kind, as 8xH100 or 2x8xH100"
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)x([A-Z].*)", name)
    if not match:
        raise ValueError(f"--devices={name}: {wanted}")
    if match[3] not in known:
        raise ValueError(
            f"--devices={name}: there is no description of {match[3]!r} to compile "
            f"for; there are those of {', '.join(known)}"
        )
    if not any(importlib.util.find_spec(plugin) for plugin in CUDA_PLUGINS):
        raise ImportError(
            "compiling for NVIDIA GPUs needs the CUDA wheels of jax, which are not "
            'installed: pip install "vit_jax[cuda]" (no GPU is needed)'
        )
    # Without a driver, the check of the installed CUDA libraries prints a traceback.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    options = {
        "target_config": (CARDS / f"{match[3]}.txtpb").read_text(),
        # A slice is the GPUs that NVLink joins: here one host, as is usual.
        "topology": f"{match[1] or 1}x1x{match[2]}",
    }
    return _devices(f"--devices={name}", "8xH100", match[3], "cuda", options)


def _devices(
    argument: str, example: str, name: str, platform: str, options: dict[str, Any]
) -> list[Any]:
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(name, platform=platform, **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{argument}: {reason}; wanted one such as {example}"
        ) from None
    return list(topology.devices)


def island(device: Any) -> int:
    """The number of the island, the devices reached over NVLink or ICI.

    Traffic between islands goes through the network. An island is a host of GPUs or a
    slice of a TPU.
    """
    if device.platform == "gpu":
        return device.process_index
    return getattr(device, "slice_index", 0)
