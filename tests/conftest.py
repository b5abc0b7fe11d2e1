"""Shared set-up: strict JAX, cheap compilation, one cache of it, shape checks."""

import gc
import os
import pathlib
from importlib import metadata

# Before JAX is imported; kept between runs of the suite, since compiling is most of it.
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The arrays of the tests are so small that XLA would take longer to optimise a program
# than the program then runs. With XLA_FLAGS set to nothing they are compiled as users'
# programs are.
CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):  # Later ones end at this flag.
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", CHEAP)

# The collector would walk all that JAX has traced so far every few hundred objects.
gc.set_threshold(100_000, 50, 100)

from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types in signatures are checked at every call that the tests make.
install_import_hook(
    ["vit_jax.models", "vit_jax.losses", "vit_jax.data.mix", "vit_jax.analysis"],
    "beartype.beartype",
)

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> pathlib.Path:
    """The folder of a run of four steps: two tiny blocks on digits, with averages."""
    from configs import digits
    from vit_jax.training.loop import train

    config = digits.get_config()
    config.model.update(depth=2, width=32, mlp_dim=64, num_heads=2)
    config.data.batch_size = 256
    config.optim.update(learning_rate=1e-2, warmup="0steps")
    config.train.update(duration="4steps", ema_decay=0.9)
    config.eval.batch_size = 100
    config.log.tensorboard = False
    folder = tmp_path_factory.mktemp("digits_run")
    train(config, folder)
    return folder
