"""Hugging Face's ViT, DeiT with its teacher's token, DINOv2, and DINOv2 with registers.

A model for image classification has the prefix of its base model and a `classifier`, a
base model has neither. DINOv2's classifier reads the class token and the mean over the
patches side by side.
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
    vit_arguments,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.pixels import HALF
from vit_jax.models.variants import Size

TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
ARCHITECTURES = re.compile(
    r"(ViT|Dinov2|Dinov2WithRegisters)(Model|ForImageClassification)"
    r"|DeiTForImageClassificationWithTeacher"
)
UNTOLD = pytorch.NUMERICS
PREFIX = re.compile(r"^(vit|deit|yolos|dinov2|dinov2_with_registers)\.")
KERNEL = "embeddings.patch_embeddings.projection.weight"
POSITIONS = "embeddings.position_embeddings"
REGISTERS = "embeddings.register_tokens"
MASK = "embeddings.mask_token"
BLOCK = "encoder.layer."
QUERY = f"{BLOCK}0.attention.attention.query.weight"
LAYER_SCALE = f"{BLOCK}0.layer_scale1.lambda1"
DISTILLATION = "embeddings.distillation_token"
HEAD = "classifier.weight"
HEADS = ("cls_classifier", "distillation_classifier")  # of DeiT with its teacher's
UNSUPPORTED = {
    r"detection_tokens": "detection tokens (YOLOS)",
    r"^decoder": "a decoder of masked patches",
}


def recognises(names: Iterable[str]) -> bool:
    return {KERNEL, QUERY} <= {PREFIX.sub("", name) for name in names}


def bare(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors by their names in a base model."""
    return {PREFIX.sub("", name): x for name, x in tensors.items()}


def canonical(tensors: Tensors, config: Config) -> Tensors:  # noqa: ARG001
    """The tensors in use, and zeros for the biases that `qkv_bias=False` leaves out."""
    params = bare(tensors)
    pytorch.refuse(params, UNSUPPORTED)
    distilled = f"{HEADS[0]}.weight" in params
    if DISTILLATION in params and not distilled:
        raise ValueError(
            "the model has a distillation token without a classifier of its own, which "
            "vit_jax has not: wanted a DeiTForImageClassificationWithTeacher"
        )
    has_head = distilled or HEAD in params
    unused = [MASK] + ["pooler.dense.weight", "pooler.dense.bias"] * has_head
    unused = [name for name in unused if name in params]
    pytorch.report_dropped(unused)
    params = {name: x for name, x in params.items() if name not in unused}
    params = pytorch.with_biases(params, r"\.attention\.(query|key|value)\.weight$")
    if REGISTERS in params:
        params[MASK] = np.zeros((1, params[KERNEL].shape[0]), np.float32)
    prefix = ""
    if has_head:
        prefix = base_prefix(LAYER_SCALE in params, REGISTERS in params, distilled)
    heads = ("classifier.", *(f"{name}." for name in HEADS))
    return {
        name if name.startswith(heads) else prefix + name: x
        for name, x in params.items()
    }


def base_prefix(dinov2: bool, registers: bool, distilled: bool) -> str:
    if distilled:
        return "deit."
    if registers:
        return "dinov2_with_registers."
    return "dinov2." if dinov2 else "vit."


def describe(tensors: Tensors, config: Config) -> dict[str, Any]:
    distilled = f"{HEADS[0]}.bias" in tensors
    head = tensors.get(f"{HEADS[0]}.bias", tensors.get("classifier.bias"))
    tensors = bare(tensors)
    width, patch_size = len(tensors[KERNEL]), pytorch.patch_size(tensors[KERNEL])
    dinov2 = LAYER_SCALE in tensors
    gated = f"{BLOCK}0.mlp.weights_in.bias" in tensors
    if gated:
        mlp_dim = tensors[f"{BLOCK}0.mlp.weights_out.weight"].shape[1]
    else:
        hidden = "mlp.fc1" if dinov2 else "intermediate.dense"
        mlp_dim = len(tensors[f"{BLOCK}0.{hidden}.bias"])
    heads = num_heads(config, width)
    size = Size(pytorch.depth(tensors, BLOCK), width, mlp_dim, heads)
    check_sizes(config, size)
    patches = tensors[POSITIONS].shape[1] - 1 - distilled
    registers = tensors.get(REGISTERS)
    options = {
        "num_classes": 0 if head is None else len(head),
        "image_size": pytorch.grid_image(patches, patch_size, image_size(config)),
        "pooling": "token_gap" if dinov2 and head is not None else "token",
        "pre_logits": "pooler.dense.weight" in tensors,
        "num_registers": 0 if registers is None else registers.shape[1],
        "distillation_token": distilled,
        "layer_scale_init": config.get("layerscale_value", 1.0) if dinov2 else 0.0,
        **numerics(
            config,
            norm_epsilon=1e-6 if dinov2 else 1e-12,
            pixels=pytorch.IMAGENET if dinov2 else (HALF, HALF),
        ),
    }
    if gated:
        del options["activation"]  # the gate's is SiLU, whatever the config has
        options["mlp"] = "swiglu"
    return vit_arguments(size, patch_size) | pytorch.beside_defaults(options)


def rules(model: VisionTransformer) -> list[Rule]:
    check(model)
    dinov2, prefix = bool(model.layer_scale_init), ""
    if model.num_classes:
        registers = model.num_registers > 0
        prefix = base_prefix(dinov2, registers, model.distillation_token)
    stem = f"{prefix}embeddings"
    rules = [
        same(f"{stem}.cls_token", "class_token"),
        torch_convolution(f"{stem}.patch_embeddings.projection", "embedding"),
        same(f"{stem}.patch_embeddings.projection.bias", "embedding/bias"),
        same(f"{stem}.position_embeddings", "positions/embedding"),
        *torch_norm(f"{prefix}layernorm", "encoder/norm"),
    ]
    if model.distillation_token:
        rules.append(same(f"{stem}.distillation_token", "distillation_token"))
    if model.num_registers:
        rules.append(same(f"{stem}.register_tokens", "registers"))
        rules.append(unused(f"{stem}.mask_token", (1, model.width)))
    for i in range(model.depth):
        theirs, ours = f"{prefix}{BLOCK}{i}", f"encoder/block_{i:02d}"
        if dinov2:
            rules += dinov2_rules(theirs, ours, gated=model.mlp == "swiglu")
        else:
            rules += vit_rules(theirs, ours)
        theirs, ours = f"{theirs}.attention", f"{ours}/attention"
        rules += attention_rules(theirs, ours, model.num_heads)
    if model.pre_logits:
        rules += torch_dense(f"{prefix}pooler.dense", "pre_logits")
    if model.distillation_token:
        rules += torch_dense(HEADS[0], "head")
        rules += torch_dense(HEADS[1], "distillation_head")
    elif model.num_classes:
        rules += torch_dense("classifier", "head")
    return rules


def check(model: VisionTransformer) -> None:
    """Raises ValueError for a model that transformers has no code for."""
    check_later(model, NAME, "mlp", "distillation_token")
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
        mlp=("plain", "swiglu") if dinov2 else ("plain",),
        distillation_token=(not dinov2 and has_head and model.distillation_token,),
    )
    if dinov2:
        mlp_ratio(model)


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


def dinov2_rules(theirs: str, ours: str, *, gated: bool) -> list[Rule]:
    rules = [
        *torch_norm(f"{theirs}.norm1", f"{ours}/attention_norm"),
        same(f"{theirs}.layer_scale1.lambda1", f"{ours}/attention_branch/layer_scale"),
        *torch_norm(f"{theirs}.norm2", f"{ours}/mlp_norm"),
        same(f"{theirs}.layer_scale2.lambda1", f"{ours}/mlp_branch/layer_scale"),
    ]
    theirs, ours = f"{theirs}.mlp", f"{ours}/mlp"
    if not gated:
        rules += torch_dense(f"{theirs}.fc1", f"{ours}/hidden")
        return rules + torch_dense(f"{theirs}.fc2", f"{ours}/out")
    kernels, biases = (
        (f"{ours}/gate/{name}", f"{ours}/hidden/{name}") for name in ("kernel", "bias")
    )
    return [
        *rules,
        rearranged(f"{theirs}.weights_in.weight", kernels, "(n o) i -> n i o", n=2),
        rearranged(f"{theirs}.weights_in.bias", biases, "(n o) -> n o", n=2),
        *torch_dense(f"{theirs}.weights_out", f"{ours}/out"),
    ]


def mlp_ratio(model: VisionTransformer) -> int:
    """The whole number that DINOv2's code makes the width of its MLPs from.

    Raises:
        ValueError: there is none.
    """
    for ratio in range(1, 65):
        hidden = ratio * model.width
        if model.mlp == "swiglu":
            hidden = -(-(2 * hidden // 3) // 8) * 8
        if hidden == model.mlp_dim:
            return ratio
    kind = "a multiple of" if model.mlp == "plain" else "2/3 of a multiple of"
    raise ValueError(
        f"the {NAME} layout cannot hold this model with LayerScale: the width of the "
        f"MLPs must be {kind} {model.width}, not {model.mlp_dim}"
    )


def architecture(model: VisionTransformer) -> str:
    """The class of transformers that loads the model."""
    if model.distillation_token:
        return "DeiTForImageClassificationWithTeacher"
    base = "ViT"
    if model.layer_scale_init:
        base = "Dinov2WithRegisters" if model.num_registers else "Dinov2"
    return f"{base}ForImageClassification" if model.num_classes else f"{base}Model"


def config_for(model: VisionTransformer) -> Config:
    config: Config = common_config(model) | {
        "architectures": [architecture(model)],
        "model_type": "deit" if model.distillation_token else "vit",
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
    }
    if model.mlp == "plain":
        config["hidden_act"] = activation_name(model)
    if not model.layer_scale_init:
        return config | {"intermediate_size": model.mlp_dim}
    config |= {
        "model_type": "dinov2_with_registers" if model.num_registers else "dinov2",
        "mlp_ratio": mlp_ratio(model),
        "layerscale_value": model.layer_scale_init,
        "use_swiglu_ffn": model.mlp == "swiglu",
    }
    if model.num_registers:
        return config | {"num_register_tokens": model.num_registers}
    return config | {"use_mask_token": False}
