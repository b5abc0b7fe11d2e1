"""Hugging Face transformers: ViT, DINOv2, and DINOv2 with registers.

The names are those of the files, which `save_pretrained` writes and the Hub has; in
memory transformers 5 has others. A model for image classification has the prefix of
its base model and a `classifier`, a base model has neither. DINOv2's classifier reads
the class token and the mean over the patches side by side.
"""

import re
from typing import Any

import numpy as np

from vit_jax.interop import pytorch
from vit_jax.interop.huggingface_config import (
    check_kind,
    config_for,
    facts,
    image_size,
    num_heads,
    numerics,
)
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    check_options,
    same,
    torch_convolution,
    torch_dense,
    torch_norm,
    vit_arguments,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.variants import Size

__all__ = ["canonical", "config_for", "describe", "facts", "recognises", "rules"]

NAME = "huggingface"
PREFIX = re.compile(r"^(vit|deit|yolos|dinov2|dinov2_with_registers)\.")
KERNEL = "embeddings.patch_embeddings.projection.weight"
POSITIONS = "embeddings.position_embeddings"
REGISTERS = "embeddings.register_tokens"
MASK = "embeddings.mask_token"
BLOCK = "encoder.layer."
QUERY = f"{BLOCK}0.attention.attention.query.weight"
LAYER_SCALE = f"{BLOCK}0.layer_scale1.lambda1"
HEAD = "classifier.weight"
UNSUPPORTED = {
    r"distillation": "a distillation token (DeiT)",
    r"detection_tokens": "detection tokens (YOLOS)",
    r"mlp\.weights_(in|out)\.": "gated MLPs (SwiGLU)",
    r"^decoder": "a decoder of masked patches",
}


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:  # noqa: ARG001
    return {KERNEL, QUERY} <= bare(tensors).keys()


def bare(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors by their names in a base model."""
    return {PREFIX.sub("", name): x for name, x in tensors.items()}


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """The tensors in use, and zeros for the biases that `qkv_bias=False` leaves out."""
    check_kind(config)
    params = bare(tensors)
    pytorch.refuse(params, UNSUPPORTED)
    unused = [MASK] + ["pooler.dense.weight", "pooler.dense.bias"] * (HEAD in params)
    unused = [name for name in unused if name in params]
    pytorch.report_dropped(unused)
    params = {name: x for name, x in params.items() if name not in unused}
    params = pytorch.with_biases(params, r"\.attention\.(query|key|value)\.weight$")
    if REGISTERS in params:
        params[MASK] = np.zeros((1, params[KERNEL].shape[0]), np.float32)
    prefix = ""
    if HEAD in params:
        prefix = base_prefix(LAYER_SCALE in params, REGISTERS in params)
    return {
        name if name.startswith("classifier.") else prefix + name: x
        for name, x in params.items()
    }


def base_prefix(dinov2: bool, registers: bool) -> str:
    if registers:
        return "dinov2_with_registers."
    return "dinov2." if dinov2 else "vit."


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    tensors = bare(tensors)
    width, patch_size = len(tensors[KERNEL]), pytorch.patch_size(tensors[KERNEL])
    dinov2, has_head = LAYER_SCALE in tensors, HEAD in tensors
    hidden = "mlp.fc1" if dinov2 else "intermediate.dense"
    size = Size(
        depth=pytorch.depth(tensors, BLOCK),
        width=width,
        mlp_dim=len(tensors[f"{BLOCK}0.{hidden}.bias"]),
        num_heads=num_heads(config, width),
    )
    patches = tensors[POSITIONS].shape[1] - 1
    registers = tensors.get(REGISTERS)
    options = {
        "num_classes": len(tensors[HEAD]) if has_head else 0,
        "image_size": pytorch.grid_image(patches, patch_size, image_size(config)),
        "pooling": "token_gap" if dinov2 and has_head else "token",
        "pre_logits": "pooler.dense.weight" in tensors,
        "num_registers": 0 if registers is None else registers.shape[1],
        **numerics(config, dinov2),
    }
    return vit_arguments(size, patch_size) | pytorch.beside_defaults(options)


def rules(model: Any) -> list[Rule]:
    check(model)
    dinov2 = bool(model.layer_scale_init)
    prefix = base_prefix(dinov2, model.num_registers > 0) if model.num_classes else ""
    stem = f"{prefix}embeddings"
    rules = [
        same(f"{stem}.cls_token", "class_token"),
        torch_convolution(f"{stem}.patch_embeddings.projection", "embedding"),
        same(f"{stem}.patch_embeddings.projection.bias", "embedding/bias"),
        same(f"{stem}.position_embeddings", "positions/embedding"),
        *torch_norm(f"{prefix}layernorm", "encoder/norm"),
    ]
    if model.num_registers:
        rules.append(same(f"{stem}.register_tokens", "registers"))
        # Its code always has the mask token of pre-training.
        mask = np.zeros((1, model.width), np.float32)
        rules.append(Rule(f"{stem}.mask_token", (), lambda _: (), lambda: mask))
    blocks = dinov2_rules if dinov2 else vit_rules
    for i in range(model.depth):
        ours = f"encoder/block_{i:02d}"
        rules += blocks(f"{prefix}{BLOCK}{i}", ours)
        theirs = f"{prefix}{BLOCK}{i}.attention"
        rules += attention_rules(theirs, f"{ours}/attention", model.num_heads)
    if model.pre_logits:
        rules += torch_dense(f"{prefix}pooler.dense", "pre_logits")
    if model.num_classes:
        rules += torch_dense("classifier", "head")
    return rules


def check(model: Any) -> None:
    """Raises ValueError for a model that transformers has no code for."""
    pytorch.check_kind(model, NAME, VisionTransformer)
    dinov2, has_head = bool(model.layer_scale_init), model.num_classes > 0
    check_options(
        model,
        NAME,
        class_token_position=(True,),
        positions=("learned",),
        positions_at=("stem",),
        attention=("full",),
        norm_after_pooling=(False,),
        resnet_stem=(None,),
        pooling=("token_gap" if dinov2 and has_head else "token",),
        num_registers=(model.num_registers if dinov2 else 0,),
        pre_logits=(False,) if dinov2 or has_head else (False, True),
    )
    if dinov2 and model.mlp_dim % model.width:
        raise ValueError(
            f"the {NAME} layout cannot hold this model with LayerScale: the width of "
            f"the MLPs must be a multiple of {model.width}, not {model.mlp_dim}"
        )


def attention_rules(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    rules = pytorch.attention_out(f"{theirs}.output.dense", ours, num_heads)
    for part in pytorch.PARTS:
        name = f"{theirs}.attention.{part}"
        rules += pytorch.attention_part(name, f"{ours}/{part}", num_heads)
    return rules


def vit_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        *torch_norm(f"{theirs}.layernorm_before", f"{ours}/attention_norm"),
        *torch_norm(f"{theirs}.layernorm_after", f"{ours}/mlp_norm"),
        *torch_dense(f"{theirs}.intermediate.dense", f"{ours}/mlp/hidden"),
        *torch_dense(f"{theirs}.output.dense", f"{ours}/mlp/out"),
    ]


def dinov2_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        *torch_norm(f"{theirs}.norm1", f"{ours}/attention_norm"),
        same(f"{theirs}.layer_scale1.lambda1", f"{ours}/attention_branch/layer_scale"),
        *torch_norm(f"{theirs}.norm2", f"{ours}/mlp_norm"),
        *torch_dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/hidden"),
        *torch_dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
        same(f"{theirs}.layer_scale2.lambda1", f"{ours}/mlp_branch/layer_scale"),
    ]
