"""Lowering for NVIDIA cards and TPUs that the machine does not have.

    program = build_program(config, ..., devices=[ABSENT["v5e"]] * 8)
    lower(program.eval_step, params, batch, mesh=program.mesh)

It shows in seconds which programs JAX cannot express for a platform. Compiling them
takes the platform's compiler: `topology.py`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.extend
from jax._src.cudnn import fused_attention_stablehlo as fused_attention
from jax.sharding import AbstractDevice, AbstractMesh
from jax.stages import Lowered

# Older than every cuDNN that jax's wheels for CUDA 12 and 13 depend on.
CUDNN_VERSION = 91200
# A device of each kind: `device_kind`, cores (a GPU's multiprocessors), platform.
ABSENT = {
    "H100": AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"),
    "v5e": AbstractDevice("TPU v5 lite", 1, "tpu"),
}
HOPPER = (9, 0)


@contextlib.contextmanager
def cudnn_of(capability: tuple[int, int]) -> Iterator[None]:
    """Programs lowered within may call cuDNN, as on a card of this compute capability.

    JAX otherwise asks this machine's card whether cuDNN's attention may run, even when
    it lowers a program for another machine.

    Args:
        capability: major and minor, such as (9, 0) of an H100.
    """

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split("."))

    answers = {
        "check_cudnn_version": lambda: CUDNN_VERSION,
        "check_compute_capability": lambda least: capability >= numbers(least),
        "is_cuda_compute_capability_equal": lambda exact: capability == numbers(exact),
    }
    with mock.patch.multiple(fused_attention, **answers):
        yield


def lower(function: Any, *arguments: Any, mesh: AbstractMesh, **static: Any) -> Lowered:
    """Lowers a function for devices that this machine does not have.

    Args:
        function: the result of `jax.jit`.
        arguments, static: its arguments; `jax.ShapeDtypeStruct`s are enough.
        mesh: made by `make_mesh(..., devices=[ABSENT[...]] * count)`, with one device
            if that is a GPU. Code without a mesh of its own is traced as on one.

    Raises:
        NotImplementedError: the platform has no such operation.
    """
    on_gpu = mesh.abstract_device.platform == "gpu"
    with (
        cudnn_of(HOPPER) if on_gpu else contextlib.nullcontext(),
        jax.sharding.use_abstract_mesh(mesh),
    ):
        traced = function.trace(*arguments, **static)
        if not on_gpu:
            return traced.lower(lowering_platforms=("tpu",))
        # Without shardings, for which JAX would look for real devices to call cuDNN.
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in traced.jaxpr.in_avals]
        function = jax.jit(jax.extend.core.jaxpr_as_fun(traced.jaxpr))
        return function.trace(*shapes).lower(lowering_platforms=("cuda",))


def cudnn_for(devices: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """`cudnn_of` the devices to lower for, if they are GPUs of another machine.

    Args:
        devices: those of `vit_jax.planning.topology`, or of this machine.
    """
    device = devices[0]
    if device.platform != "gpu" or device in jax.devices():
        return contextlib.nullcontext()
    major, minor = device.compute_capability.split(".")
    return cudnn_of((int(major), int(minor)))
