"""Shared set-up: strict JAX, one compilation cache, shape checks."""

import os
import pathlib

# Before JAX is imported; kept between runs of the suite, since compiling is most of it.
CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types in signatures are checked at every call that the tests make.
install_import_hook(
    ["vit_jax.models", "vit_jax.losses", "vit_jax.data.mix", "vit_jax.analysis"],
    "beartype.beartype",
)
