"""`python -m benchmarks`: all benchmarks, with a line each."""

from vit_jax.command_list import start

if __name__ == "__main__":
    start(
        "benchmarks",
        (
            "performance",
            "speed_vs_peers",
            "fleet_speed",
            "host_overhead",
            "randaugment",
            "input_speed",
            "exact_resume",
            "families",
            "accelerators",
            "gpu",
        ),
    )
