"""Hugging Face's DINOv3: rotary positions, registers, biases chosen one by one.

What its code does to the positions in training (shift, jitter, rescale) is not ours; in
evaluation the angles are the same, in float32.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from vit_jax.interop import pytorch
from vit_jax.interop.huggingface_config import (
    NAME,
    Config,
    activation_name,
    check_sizes,
    common_config,
    image_size,
    num_heads,
    numerics,
    without_processor,
)
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    check_later,
    check_options,
    rearranged,
    same,
    torch_convolution,
    torch_dense,
    torch_norm,
    unused,
    usual_image,
    vit_arguments,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.variants import Size

TYPES = ("dinov3_vit",)
ARCHITECTURES = re.compile(r"DINOv3ViTModel")
UNTOLD = (*pytorch.NUMERICS, "rope_base")
KERNEL = "embeddings.patch_embeddings.weight"
REGISTERS = "embeddings.register_tokens"
BLOCK = "layer."
QUERY = f"{BLOCK}0.attention.q_proj.weight"


def modern(name: str) -> str:
    """The name in a file of a name in memory."""
    return re.sub(r"^model\.layer\.", BLOCK, name)


def recognises(names: Iterable[str]) -> bool:
    return {KERNEL, QUERY} <= {modern(name) for name in names}


def canonical(tensors: Tensors, config: Config) -> Tensors:
    """The tensors in use, and zeros for biases that its code can leave out."""
    params = {modern(name): x for name, x in tensors.items()}
    usual = "gelu" if without_processor(config) else "silu"
    gate = config.get("hidden_act", usual)
    if f"{BLOCK}0.mlp.gate_proj.weight" in params and gate != "silu":
        raise ValueError(
            f"config.json has hidden_act {gate!r} for gated MLPs: wanted 'silu'"
        )
    mask = np.zeros((1, 1, len(params[KERNEL])), np.float32)
    params["embeddings.mask_token"] = mask
    return pytorch.with_biases(params, r"\.(o|gate|up|down)_proj\.weight$")


def describe(tensors: Tensors, config: Config) -> dict[str, Any]:
    width, patch_size = len(tensors[KERNEL]), pytorch.patch_size(tensors[KERNEL])
    size = Size(
        depth=pytorch.depth(tensors, BLOCK),
        width=width,
        mlp_dim=len(tensors[f"{BLOCK}0.mlp.up_proj.weight"]),
        num_heads=num_heads(config, width, usual=6),
    )
    check_sizes(config, size)
    attention = f"{BLOCK}0.attention."
    biases = [part for part in "qkv" if f"{attention}{part}_proj.bias" in tensors]
    options = {
        "num_classes": 0,
        "image_size": image_size(config) or usual_image(patch_size),
        "positions": "rope2d",
        "rope_base": float(config.get("rope_theta", 100.0)),
        "num_registers": tensors[REGISTERS].shape[1],
        "qkv_bias": "".join(biases) or "none",
        "layer_scale_init": config.get("layerscale_value", 1.0),
        **numerics(config, norm_epsilon=1e-5, pixels=pytorch.IMAGENET),
    }
    if f"{BLOCK}0.mlp.gate_proj.weight" in tensors:
        del options["activation"]  # the gate's is SiLU
        options["mlp"] = "swiglu"
    return vit_arguments(size, patch_size) | pytorch.beside_defaults(options)


def rules(model: VisionTransformer) -> list[Rule]:
    check(model)
    shape = (1, model.num_registers, model.width)
    rules = [
        same("embeddings.cls_token", "class_token"),
        unused("embeddings.mask_token", (1, 1, model.width)),
        torch_convolution("embeddings.patch_embeddings", "embedding"),
        same("embeddings.patch_embeddings.bias", "embedding/bias"),
        # Its code always has the tensor, perhaps of no registers.
        same(REGISTERS, "registers") if shape[1] else unused(REGISTERS, shape),
        *torch_norm("norm", "encoder/norm"),
    ]
    for i in range(model.depth):
        rules += block_rules(f"{BLOCK}{i}", f"encoder/block_{i:02d}", model)
    return rules


def block_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    heads, k = model.num_heads, {"k": model.num_heads}
    attention = f"{theirs}.attention"
    rules = pytorch.attention_out(f"{attention}.o_proj", f"{ours}/attention", heads)
    for part in pytorch.PARTS:
        name, path = f"{attention}.{part[0]}_proj", f"{ours}/attention/{part}"
        pattern = "(k e) d -> d k e"
        rules.append(rearranged(f"{name}.weight", f"{path}/kernel", pattern, **k))
        if part[0] in model.qkv_bias.replace("none", ""):
            pattern = "(k e) -> k e"
            rules.append(rearranged(f"{name}.bias", f"{path}/bias", pattern, **k))
    for number, part in ((1, "attention"), (2, "mlp")):
        scale = f"{ours}/{part}_branch/layer_scale"
        rules += torch_norm(f"{theirs}.norm{number}", f"{ours}/{part}_norm")
        rules.append(same(f"{theirs}.layer_scale{number}.lambda1", scale))
    parts = {"up": "hidden", "down": "out"}
    if model.mlp == "swiglu":
        parts["gate"] = "gate"
    for name, part in parts.items():
        rules += torch_dense(f"{theirs}.mlp.{name}_proj", f"{ours}/mlp/{part}")
    return rules


def check(model: VisionTransformer) -> None:
    """Raises ValueError for rotary positions or blocks that its code has not."""
    check_later(model, NAME, "mlp", "qkv_bias")
    check_options(
        model,
        NAME,
        positions=("rope2d",),
        rope_frequencies=("axial",),
        rope_coordinates=("centred",),
        rope_layout=("half",),
        rope_axes=("yx",),
        attention=("full",),
        pooling=("token",),
        norm_after_pooling=(False,),
        resnet_stem=(None,),
        pre_logits=(False,),
        num_classes=(0,),
    )
    if not model.layer_scale_init:
        raise ValueError(
            f"the {NAME} layout cannot hold a model with rotary positions and without "
            "LayerScale: its code has both"
        )


def config_for(model: VisionTransformer) -> Config:
    gated, biases = model.mlp == "swiglu", model.qkv_bias.replace("none", "")
    return common_config(model) | {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "intermediate_size": model.mlp_dim,
        "hidden_act": "silu" if gated else activation_name(model),
        "use_gated_mlp": gated,
        "layerscale_value": model.layer_scale_init,
        "num_register_tokens": model.num_registers,
        "rope_theta": model.rope_base,
        **{f"{part}_bias": part[0] in biases for part in pytorch.PARTS},
    }
