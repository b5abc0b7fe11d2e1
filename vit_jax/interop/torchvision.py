"""torchvision's VisionTransformer: a state dict, as .pth or .safetensors.

There is no config; its code has the exact GELU, LayerNorms of epsilon 1e-6, heads of
the usual width, and ImageNet's mean and deviation of the pixels.
"""

from typing import Any

from vit_jax.interop import pytorch
from vit_jax.interop.layout import (
    Facts,
    Rule,
    Tensors,
    check_options,
    same,
    square_image,
    torch_convolution,
    torch_dense,
    torch_norm,
    vit_arguments,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.variants import Size

NAME = "torchvision"
BLOCK = "encoder.layers.encoder_layer_"
POSITIONS = "encoder.pos_embedding"
UNSUPPORTED = {r"^conv_proj\.conv": "convolutions before the patches"}
# Names of the first release.
OLD_MLP = {"mlp.linear_1.": "mlp.0.", "mlp.linear_2.": "mlp.3."}


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:  # noqa: ARG001
    return POSITIONS in tensors


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:  # noqa: ARG001
    """The present names of the MLPs."""
    pytorch.refuse(tensors, UNSUPPORTED)
    for old, new in OLD_MLP.items():
        tensors = {name.replace(old, new): x for name, x in tensors.items()}
    return tensors


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    kernel = tensors["conv_proj.weight"]
    width, patch_size = kernel.shape[0], pytorch.patch_size(kernel)
    size = Size(
        depth=pytorch.depth(tensors, BLOCK),
        width=width,
        mlp_dim=tensors[f"{BLOCK}0.mlp.0.weight"].shape[0],
        num_heads=pytorch.usual_heads(width),
    )
    head = tensors.get("heads.head.bias")
    options = {
        "num_classes": 0 if head is None else len(head),
        "image_size": square_image(tensors[POSITIONS].shape[1] - 1, patch_size),
        "pre_logits": "heads.pre_logits.weight" in tensors,
        "activation": "gelu",
        "pixel_mean": pytorch.IMAGENET_MEAN,
        "pixel_std": pytorch.IMAGENET_STD,
    }
    return vit_arguments(size, patch_size) | pytorch.beside_defaults(options)


def facts(tensors: Tensors, config: dict[str, Any]) -> Facts:  # noqa: ARG001
    """What is assumed: these files hold nothing but weights."""
    return Facts(untold=("num_heads", *pytorch.PIXELS))


def rules(model: Any) -> list[Rule]:
    pytorch.check_kind(model, NAME, VisionTransformer)
    check_options(
        model,
        NAME,
        pooling=("token",),
        class_token_position=(True,),
        positions=("learned",),
        positions_at=("stem",),
        attention=("full",),
        norm_after_pooling=(False,),
        layer_scale_init=(0.0,),
        num_registers=(0,),
        resnet_stem=(None,),
    )
    rules = [
        same("class_token", "class_token"),
        torch_convolution("conv_proj", "embedding"),
        same("conv_proj.bias", "embedding/bias"),
        same(POSITIONS, "positions/embedding"),
        *torch_norm("encoder.ln", "encoder/norm"),
    ]
    for i in range(model.depth):
        rules += block_rules(f"{BLOCK}{i}", f"encoder/block_{i:02d}", model.num_heads)
    if model.pre_logits:
        rules += torch_dense("heads.pre_logits", "pre_logits")
    if model.num_classes:
        rules += torch_dense("heads.head", "head")
    return rules


def block_rules(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    heads = f"{theirs}.self_attention"
    return [
        *torch_norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
        *pytorch.fused_attention(
            f"{heads}.in_proj_{{}}", f"{heads}.out_proj", f"{ours}/attention", num_heads
        ),
        *torch_norm(f"{theirs}.ln_2", f"{ours}/mlp_norm"),
        *torch_dense(f"{theirs}.mlp.0", f"{ours}/mlp/hidden"),
        *torch_dense(f"{theirs}.mlp.3", f"{ours}/mlp/out"),
    ]


def config_for(model: Any, facts: Facts) -> dict[str, Any]:  # noqa: ARG001
    """The layout has no config."""
    return {}
