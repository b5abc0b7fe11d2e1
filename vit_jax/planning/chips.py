"""Peak figures of TPUs and GPUs: arithmetic, memory, links."""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """Figures of one JAX device.

    Attributes:
        bfloat16: dense peak of matrix products in FLOP/s, without sparsity.
        float32: the same for float32 inputs as JAX multiplies them by default: in TF32
            on GPUs and in bfloat16 on TPUs, see `jax_default_matmul_precision`.
        memory: bytes of HBM. Vendors write GB, but count 2**30 bytes.
        bandwidth: bytes/s of HBM.
        links: bytes/s that the device can send to others over all of its links (ICI,
            NVLink) together. It receives as much at the same time; data sheets mostly
            give the sum of both directions.
        source: the origin of the figures.
        kinds: its exact names as `jax.Device.device_kind`, since the PCIe and NVL cards
            of the same name are slower chips.
        network: bytes/s that it can send to devices that the links do not reach: its
            share of the network adapters of its host. None if it is not known.
    """

    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    links: float
    source: str
    kinds: tuple[str, ...]
    network: float | None = None


# Google's pages "System architecture"; links of v3 and v4 from the papers. Those links
# and NVIDIA's figures are recalled from the sources named, not looked up again, but for
# the network of H100, H200 and B200: that of NVIDIA's DGX, eight adapters of 400 Gbit/s
# for eight GPUs (docs.nvidia.com/dgx-basepod, core components). Others have less.
_TPU = "cloud.google.com/tpu/docs/"
_ICI_V3 = ", links: Jouppi et al. 2020 (doi 10.1145/3360307), 4 of 656 Gbit/s"
_ICI_V4 = ", links: Jouppi et al. 2023 (arXiv 2304.01433), 6 of 50 GB/s"

CHIPS = {
    # A JAX device of a v3 is a core, half of a chip of 123e12 FLOP/s and 32 GiB.
    "v3": Chip(
        61.5e12, 61.5e12, 16 * GIB, 450e9, 164e9, _TPU + "v3" + _ICI_V3, ("TPU v3",)
    ),
    "v4": Chip(
        275e12, 275e12, 32 * GIB, 1200e9, 300e9, _TPU + "v4" + _ICI_V4, ("TPU v4",)
    ),
    "v5e": Chip(
        197e12, 197e12, 16 * GIB, 819e9, 200e9, _TPU + "v5e", ("TPU v5 lite", "TPU v5e")
    ),
    "v5p": Chip(
        459e12, 459e12, 95 * GIB, 2765e9, 600e9, _TPU + "v5p", ("TPU v5", "TPU v5p")
    ),
    "v6e": Chip(
        918e12,
        918e12,
        32 * GIB,
        1638e9,
        400e9,
        _TPU + "v6e",
        ("TPU v6 lite", "TPU v6e"),
    ),
    "A100-40GB": Chip(
        312e12,
        156e12,
        40 * GIB,
        1555e9,
        300e9,
        "NVIDIA A100 data sheet",
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        25e9,  # DGX A100: 200 Gbit/s a GPU
    ),
    "A100-80GB": Chip(
        312e12,
        156e12,
        80 * GIB,
        2039e9,
        300e9,
        "NVIDIA A100 data sheet, SXM; PCIe has 1935e9 bytes/s of HBM",
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        25e9,
    ),
    "H100": Chip(
        989e12,
        494e12,
        80 * GIB,
        3350e9,
        450e9,
        "NVIDIA H100 data sheet, SXM",
        ("NVIDIA H100 80GB HBM3",),
        50e9,
    ),
    "H200": Chip(
        989e12,
        494e12,
        141 * GIB,
        4800e9,
        450e9,
        "NVIDIA H200 data sheet, SXM",
        ("NVIDIA H200",),
        50e9,
    ),
    "B200": Chip(
        2250e12,
        1125e12,
        180 * GIB,
        8000e9,
        900e9,
        "NVIDIA DGX B200 data sheet, an eighth",
        ("NVIDIA B200",),
        50e9,
    ),
}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if it is unknown, as CPUs are."""
    return next((c for c in CHIPS.values() if device_kind in c.kinds), None)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device for a dtype; None if it is not known, as for CPUs.

    Args:
        device_kind: `jax.Device.device_kind`.
        dtype: of the matrix products; `float16` counts as `bfloat16`.
    """
    chip = find_chip(device_kind)
    if chip is None:
        return None
    return chip.float32 if dtype == "float32" else chip.bfloat16
