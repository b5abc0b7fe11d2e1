"""Hugging Face's image towers: of CLIP, SigLIP, and SigLIP 2 for one image size.

A whole model is read as its image tower. CLIP's projection to the space of images and
texts is a head without bias here, as in timm. SigLIP pools by attention, except for
classes: `SiglipForImageClassification` averages the patches and leaves the pooling out.
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
    vit_arguments,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.pixels import HALF
from vit_jax.models.variants import Size

TYPES = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
ARCHITECTURES = re.compile(
    r"CLIP(Model|VisionModel|VisionModelWithProjection)"
    r"|Siglip(Model|VisionModel|ForImageClassification)"
)
UNTOLD = pytorch.NUMERICS
TOWER = "vision_model."
KERNEL = f"{TOWER}embeddings.patch_embedding.weight"
POSITIONS = f"{TOWER}embeddings.position_embedding.weight"
BLOCK = f"{TOWER}encoder.layers."
QUERY = f"{BLOCK}0.self_attn.q_proj.weight"
CLASS = f"{TOWER}embeddings.class_embedding"
POOL = f"{TOWER}head."
PROJECTION = "visual_projection.weight"
CLIP_PIXELS = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
# What their configs leave out: epsilon, pixels, activation.
CLIP = (1e-5, CLIP_PIXELS, "quick_gelu")
SIGLIP = (1e-6, (HALF, HALF), "gelu_pytorch_tanh")
# Of the texts, and numbers of the positions that old files have.
UNUSED = re.compile(r"text_|logit_(scale|bias)$|.*\.position_ids$")


def with_tower(names: Iterable[str]) -> dict[str, str]:
    """The names in a whole model; a tower alone may have been saved without."""
    names = list(names)
    if any(name.startswith(TOWER) for name in names):
        return {name: name for name in names}
    return {name: f"{TOWER}{name}" for name in names}


def recognises(names: Iterable[str]) -> bool:
    return {KERNEL, QUERY} <= set(with_tower(names).values())


def canonical(tensors: Tensors, config: Config) -> Tensors:  # noqa: ARG001
    """The tensors of the image tower that its output depends on."""
    names = with_tower(tensors)
    params = {name: tensors[old] for old, name in names.items()}
    classifies, is_clip = "classifier.weight" in params, CLASS in params
    if classifies and is_clip:
        raise ValueError(
            "a CLIPForImageClassification averages patches without the norm behind the "
            "blocks, which vit_jax has not: wanted a CLIPModel, CLIPVisionModel or "
            "CLIPVisionModelWithProjection"
        )
    if not is_clip and not classifies and f"{POOL}probe" not in params:
        raise ValueError(
            "the SigLIP tower has no attention pooling (vision_use_head is false), so "
            "that nothing says what its output is: wanted one with it"
        )
    unused = [name for name in params if UNUSED.match(name)]
    unused += [name for name in params if classifies and name.startswith(POOL)]
    pytorch.report_dropped(unused)
    return {name: x for name, x in params.items() if name not in unused}


def describe(tensors: Tensors, config: Config) -> dict[str, Any]:
    if tensors[KERNEL].ndim != 4:
        raise ValueError(
            "the patches of the SigLIP 2 tower are of any aspect (NaFlex), which "
            "vit_jax has not: wanted a checkpoint for one image size"
        )
    is_clip, processor = CLASS in tensors, config.get("preprocessor_config")
    config = config.get("vision_config", config)
    if processor is not None:
        config = config | {"preprocessor_config": processor}
    width, patch_size = len(tensors[KERNEL]), pytorch.patch_size(tensors[KERNEL])
    size = Size(
        depth=pytorch.depth(tensors, BLOCK),
        width=width,
        mlp_dim=len(tensors[f"{BLOCK}0.mlp.fc1.bias"]),
        num_heads=num_heads(config, width),
    )
    check_sizes(config, size)
    patches = len(tensors[POSITIONS]) - is_clip
    head = tensors.get(PROJECTION, tensors.get("classifier.weight", ()))
    epsilon, pixels, activation = CLIP if is_clip else SIGLIP
    options = {
        "num_classes": len(head),
        "image_size": pytorch.grid_image(patches, patch_size, image_size(config)),
        "pooling": "map" if f"{POOL}probe" in tensors else "gap",
        "embedding_norm": is_clip,
        **numerics(config, norm_epsilon=epsilon, pixels=pixels, activation=activation),
    }
    if is_clip:
        options["pooling"] = "token"
    return vit_arguments(size, patch_size) | pytorch.beside_defaults(options)


def rules(model: VisionTransformer) -> list[Rule]:
    check(model)
    rules = [
        torch_convolution(KERNEL.removesuffix(".weight"), "embedding"),
        *torch_norm(f"{TOWER}post_layernorm", "encoder/norm"),
    ]
    table = "positions/embedding"
    rules.append(rearranged(POSITIONS, table, "l d -> 1 l d"))
    if model.embedding_norm:
        rules.append(rearranged(CLASS, "class_token", "d -> 1 1 d"))
        rules += torch_norm(f"{TOWER}pre_layrnorm", "embedding_norm")
    else:
        rules.append(same(KERNEL.replace("weight", "bias"), "embedding/bias"))
    for i in range(model.depth):
        theirs, ours = f"{BLOCK}{i}", f"encoder/block_{i:02d}"
        rules += block_rules(theirs, ours, model.num_heads)
    if model.pooling == "map":
        rules += pool_rules(model.num_heads)
    if model.num_classes and model.embedding_norm:
        rules.append(projection_rule(model))
    elif model.num_classes:
        rules += torch_dense("classifier", "head")
    return rules


def block_rules(theirs: str, ours: str, num_heads: int) -> list[Rule]:
    attention, path = f"{theirs}.self_attn", f"{ours}/attention"
    rules = [
        *torch_norm(f"{theirs}.layer_norm1", f"{ours}/attention_norm"),
        *torch_norm(f"{theirs}.layer_norm2", f"{ours}/mlp_norm"),
        *torch_dense(f"{theirs}.mlp.fc1", f"{ours}/mlp/hidden"),
        *torch_dense(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
        *pytorch.attention_out(f"{attention}.out_proj", path, num_heads),
    ]
    for part in pytorch.PARTS:
        name = f"{attention}.{part[0]}_proj"
        rules += pytorch.attention_part(name, f"{path}/{part}", num_heads)
    return rules


def pool_rules(num_heads: int) -> list[Rule]:
    """Attention pooling; query, key and value are one weight."""
    attention = f"{POOL}attention"
    return [
        same(f"{POOL}probe", "map_head/probe"),
        *pytorch.fused_attention(
            f"{attention}.in_proj_{{}}",
            f"{attention}.out_proj",
            "map_head/attention",
            num_heads,
        ),
        *torch_norm(f"{POOL}layernorm", "map_head/norm"),
        *torch_dense(f"{POOL}mlp.fc1", "map_head/mlp/hidden"),
        *torch_dense(f"{POOL}mlp.fc2", "map_head/mlp/out"),
    ]


def projection_rule(model: VisionTransformer) -> Rule:
    """A head whose bias is zero."""
    zeros = np.zeros(model.num_classes, np.float32)

    def write(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        if bias.any():
            raise ValueError(
                f"the {NAME} layout cannot hold a CLIP model whose head has a bias: "
                "its code has a projection without; layout timm holds both"
            )
        return kernel.T

    return Rule(PROJECTION, ("head/kernel", "head/bias"), lambda x: (x.T, zeros), write)


def check(model: VisionTransformer) -> None:
    """Raises ValueError for a tower that its code has not."""
    check_later(model, NAME, "embedding_norm")
    if model.embedding_norm:
        poolings = ("token",)
    else:
        poolings = ("gap",) if model.num_classes else ("map",)
    check_options(
        model,
        NAME,
        pooling=poolings,
        class_token=("auto",),
        class_token_position=(True,),
        positions=("learned",),
        positions_at=("stem",),
        attention=("full",),
        norm_after_pooling=(False,),
        layer_scale_init=(0.0,),
        num_registers=(0,),
        resnet_stem=(None,),
        pre_logits=(False,),
        image_size=((min(model.image_size),) * 2,),  # its code has squares only
    )


def config_for(model: VisionTransformer) -> Config:
    tower = common_config(model) | {
        "intermediate_size": model.mlp_dim,
        "hidden_act": activation_name(model),
    }
    if model.embedding_norm:
        kind, projection = "CLIPVisionModel", {}
        if model.num_classes:
            kind += "WithProjection"
            projection = {"projection_dim": model.num_classes}
        return (
            tower
            | projection
            | {
                "architectures": [kind],
                "model_type": "clip_vision_model",
            }
        )
    if model.num_classes:
        return {
            "architectures": ["SiglipForImageClassification"],
            "model_type": "siglip",
            "vision_config": tower | {"vision_use_head": False},
        }
    return tower | {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
    }
