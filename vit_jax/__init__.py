"""Vision Transformers in JAX: `create_model`, `load`, `normalize`."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["create_model", "load", "normalize"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the data pipeline's worker processes do not import JAX.
    if name == "create_model":
        from vit_jax.models import create_model

        return create_model
    if name == "normalize":
        from vit_jax.data.mix import normalize

        return normalize
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def load(folder: str, *, ema: bool = False) -> tuple[Any, dict[str, Any]]:
    """Loads `(model, params)` from the folder of a training run; see `run.load_run`."""
    from vit_jax.run import load_run

    run = load_run(folder, ema=ema)
    return run.model, run.params
