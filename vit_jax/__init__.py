"""Vision Transformers in JAX: create, load, use and save models; see docs/python.md."""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from vit_jax.data.parent import follow

if TYPE_CHECKING:
    from vit_jax.interop.load_save import load, save
    from vit_jax.models import create_model
    from vit_jax.models.features import features
    from vit_jax.models.pixels import normalize

__version__ = "0.1.0"
__all__ = ["create_model", "features", "load", "normalize", "save"]

_MODULES = {
    "create_model": "vit_jax.models",
    "features": "vit_jax.models.features",
    "load": "vit_jax.interop.load_save",
    "normalize": "vit_jax.models.pixels",
    "save": "vit_jax.interop.load_save",
}
follow()


def __getattr__(name: str) -> Any:
    # Lazy, so that the data pipeline's worker processes do not import JAX.
    if name in _MODULES:
        handlers = logging.root.handlers[:]
        module = importlib.import_module(_MODULES[name])
        # Importing Orbax configures the root logger, which is the user's to configure.
        logging.root.handlers[:] = handlers
        return getattr(module, name)
    raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
