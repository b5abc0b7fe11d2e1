"""Whether a run ends with the same bits each time, by the hardware and the config.

CPUs and TPUs add in a fixed order. On NVIDIA cards some kernels add by atomics, in the
order in which blocks happen to finish, and the compiler picks kernels by timing them,
so that a second start may pick others.
"""

# The first implies xla_gpu_exclude_nondeterministic_ops (deterministic algorithms for
# scatter, convolutions, products and the gradient of cuDNN's attention, an error where
# there is none) and chooses kernels without timing them. Products are left to cuBLAS:
# Triton's get no kernel then where no card is, so that they could not be compiled for
# one ahead of time.
DETERMINISTIC = {"xla_gpu_deterministic_ops": True, "xla_gpu_enable_triton_gemm": False}
# Of all runs on GPUs. cuBLASLt adds biases and residuals and applies GELU within a
# product, which Triton's products leave to further kernels; and queries, keys and
# values are products of their own, since one product of them is taken apart by copies.
# What that saves, compiled: docs/performance.md.
PRODUCTS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}


def compiler_options(platform: str, wanted: bool) -> dict[str, bool | int] | None:
    """What `jax.jit` is to tell the compiler; None where there is nothing to say.

    Args:
        platform: of the devices: "cpu", "gpu" or "tpu".
        wanted: `train.deterministic`.
    """
    # Other compilers refuse options of GPUs.
    if platform != "gpu":
        return None
    return PRODUCTS | (DETERMINISTIC if wanted else {})


def in_words(platform: str, wanted: bool) -> str:
    """What a run says of itself, "" where it is no question; arguments as above."""
    if platform != "gpu":
        return f"deterministic: as always on {platform.upper()}s" if wanted else ""
    if wanted:
        return (
            "deterministic: bit-identical after a resume on the same cards, number of "
            "processes and versions"
        )
    return (
        "not deterministic on GPUs: another start may differ in the last bits; "
        "--config.train.deterministic=true for the same ones, at some cost"
    )
