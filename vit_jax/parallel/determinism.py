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
GPU_OPTIONS = {"xla_gpu_deterministic_ops": True, "xla_gpu_enable_triton_gemm": False}


def compiler_options(platform: str, wanted: bool) -> dict[str, bool] | None:
    """What `jax.jit` is to tell the compiler; None where there is nothing to say.

    Args:
        platform: of the devices: "cpu", "gpu" or "tpu".
        wanted: `train.deterministic`.
    """
    # Other compilers refuse options of GPUs.
    return GPU_OPTIONS if wanted and platform == "gpu" else None


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
