"""Arithmetic of a Vision Transformer, and what the chips can do at best."""

from typing import NamedTuple


def forward_macs(
    *,
    image_size: tuple[int, int],
    patch_size: int,
    depth: int,
    width: int,
    mlp_dim: int,
    num_classes: int,
    pooling: str = "token",
    num_registers: int = 0,
    pre_logits: bool = False,
) -> int:
    """Multiply-adds of the matrix products of one image's forward pass.

    Softmax, LayerNorm, GELU and biases are not counted, as is usual. The arguments are
    the attributes of `VisionTransformer`.
    """
    patches = (image_size[0] // patch_size) * (image_size[1] // patch_size)
    tokens = patches + (pooling == "token") + num_registers
    embedding = patches * 3 * patch_size**2 * width
    mlp = 2 * width * mlp_dim
    block = tokens * (4 * width**2 + mlp) + 2 * tokens**2 * width
    total = embedding + depth * block + width * num_classes
    if pooling == "map":  # One query: its projection, the output's, and an MLP.
        total += tokens * (2 * width**2 + 2 * width) + 2 * width**2 + mlp
    if pre_logits:
        total += width**2
    return total


def training_flops(macs: int) -> int:
    """FLOPs of one image's training step from its forward multiply-adds.

    Two operations a multiply-add; the backward pass costs twice the forward one. This
    is the convention of arXiv 2010.11929, Table 6; recomputation does not count.
    """
    return 6 * macs


class Peak(NamedTuple):
    """Dense peak in FLOP/s of one JAX device, without sparsity."""

    bfloat16: float
    float32: float


# JAX multiplies float32 in TF32 on these GPUs, and in bfloat16 on TPUs, unless told
# otherwise by `jax_default_matmul_precision`.
_A100 = Peak(312e12, 156e12)  # NVIDIA A100 data sheet
_H100 = Peak(989e12, 494e12)  # NVIDIA H100 data sheet, SXM; the H200 has the same
_V5P = Peak(459e12, 459e12)  # TPU figures: cloud.google.com/tpu/docs, system pages
_V6E = Peak(918e12, 918e12)

# By `jax.Device.device_kind`, which is exact: the PCIe and NVL cards of the same name
# are slower chips.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H200": _H100,
    # A JAX device of a v3 is a core, half of a chip of 123e12.
    "TPU v3": Peak(61.5e12, 61.5e12),
    "TPU v4": Peak(275e12, 275e12),
    "TPU v5 lite": Peak(197e12, 197e12),
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device for a dtype; None if it is not known, as for CPUs.

    Args:
        device_kind: `jax.Device.device_kind`.
        dtype: of the matrix products; `float16` counts as `bfloat16`.
    """
    peak = PEAKS.get(device_kind)
    if peak is None:
        return None
    return peak.float32 if dtype == "float32" else peak.bfloat16
