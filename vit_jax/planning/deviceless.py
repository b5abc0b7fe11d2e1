"""Lowering for NVIDIA cards that are not there.

JAX asks the card of this machine whether cuDNN's attention may run, also where it only
lowers a program for another machine. Here the answer is that of the card meant.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
from jax._src.cudnn import fused_attention_stablehlo as fused_attention

# The oldest that jax's wheels for CUDA 12 and 13 bring with them is newer.
CUDNN_VERSION = 91200


@contextlib.contextmanager
def cudnn_of(capability: tuple[int, int]) -> Iterator[None]:
    """Programs lowered within may call cuDNN, as on a card of this compute capability.

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


def cudnn_for(devices: Sequence[Any]) -> contextlib.AbstractContextManager[None]:
    """`cudnn_of` the devices to lower for, if they are GPUs that are not there.

    Args:
        devices: of `vit_jax.planning.topology`, or of this machine.
    """
    device = devices[0]
    if device.platform != "gpu" or device in jax.devices():
        return contextlib.nullcontext()
    major, minor = device.compute_capability.split(".")
    return cudnn_of((int(major), int(minor)))
