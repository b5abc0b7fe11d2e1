"""Hugging Face transformers: ViT, DeiT, DINOv2, DINOv3, towers of CLIP and SigLIP.

Each kind of model has a module of its own; tensors tell the kind of a file, and options
that of a model. The names are those of the files, which `save_pretrained` writes and
the Hub has; in memory transformers 5 has others.
"""

from types import ModuleType
from typing import Any

from vit_jax.interop import (
    huggingface_config,
    huggingface_dinov3,
    huggingface_towers,
    huggingface_vit,
    pytorch,
)
from vit_jax.interop.huggingface_config import NAME
from vit_jax.interop.layout import Facts, Rule, Tensors
from vit_jax.models import AnyModel, VisionTransformer
from vit_jax.models.positions import ROTARY

__all__ = [
    "NAME",
    "canonical",
    "config_for",
    "describe",
    "facts",
    "recognises",
    "rules",
]

KINDS = (huggingface_vit, huggingface_dinov3, huggingface_towers)


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:  # noqa: ARG001
    return any(kind.recognises(tensors) for kind in KINDS)


def kind_of(tensors: Tensors) -> ModuleType:
    found = [kind for kind in KINDS if kind.recognises(tensors)]
    return found[0] if found else huggingface_vit


def kind_for(model: VisionTransformer) -> ModuleType:
    """The kind of models that a model is written as."""
    if model.positions in ROTARY:
        return huggingface_dinov3
    tower = model.embedding_norm or model.pooling in ("map", "gap")
    return huggingface_towers if tower else huggingface_vit


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    kind = kind_of(tensors)
    huggingface_config.check_class(config, kind.TYPES, kind.ARCHITECTURES)
    return kind.canonical(tensors, config)


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    return kind_of(tensors).describe(tensors, config)


def facts(tensors: Tensors, config: dict[str, Any]) -> Facts:
    return huggingface_config.facts(tensors, config, kind_of(tensors).UNTOLD)


def rules(model: AnyModel) -> list[Rule]:
    pytorch.check_kind(model, NAME, VisionTransformer)
    assert isinstance(model, VisionTransformer)  # for the type checker
    return kind_for(model).rules(model)


def config_for(model: Any, facts: Facts) -> dict[str, Any]:
    config = kind_for(model).config_for(model)
    if model.num_classes and not model.embedding_norm:  # CLIP's are no classes
        config |= huggingface_config.labels(model, facts)
    processor = huggingface_config.preprocessor_config(model, facts)
    return config | {"preprocessor_config": processor}
