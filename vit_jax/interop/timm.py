"""timm: ViTs and hybrids, BiT ResNets, MLP-Mixers; by the same names DeiT, MAE, DINO
and DINOv2 of facebookresearch.

Query, key and value are one weight. Registers stand behind the class token, and may
have positions: these are added to the registers here, which is the same sum.
"""

import re
from typing import Any

import numpy as np

from vit_jax.interop import pytorch, timm_blocks, timm_relative, timm_trunks, vit5
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    check_options,
    same,
    torch_dense,
    torch_norm,
    usual_image,
    vit_arguments,
)
from vit_jax.interop.timm_architectures import check_architecture
from vit_jax.interop.timm_config import (
    NAME,
    architecture,
    arguments,
    facts,
    num_heads,
    numerics,
    pooling,
    stored_image_size,
)
from vit_jax.interop.timm_written import config_for
from vit_jax.models import AnyModel, Mixer, ResNet, VisionTransformer
from vit_jax.models.positions import OFFSET_BIASES
from vit_jax.models.resnet import ResNetTrunk
from vit_jax.models.variants import Size

__all__ = ["canonical", "config_for", "describe", "facts", "recognises", "rules"]

KERNEL = "patch_embed.proj.weight"
# A weight of the first block, by the kind of the blocks.
FIRST = (
    "blocks.0.attn.qkv.weight",
    "blocks.0.attns.0.attn.qkv.weight",
    "blocks.0.in_proj.weight",
)
# What only an architecture's name tells.
POST_NORM = re.compile(r"vit_\w+_rpn_")
LARGE_EPSILON = re.compile(r"vit_\w+_clip_|beit3_")
READS_ALL = re.compile(r"test_vit3")
UNSUPPORTED = {
    r"\.attn\.lambda_": "differential attention",
    r"\.attn\.(q_bias|relative_position)": "biases or positions of BEiT",
    r"\.mlp\.(w\d|fc1_[gx]|gate)": "gated MLPs whose gate is a weight of its own",
    r"^patch_embed\.norm\.": "a norm of the patch embedding",
    r"\.running_mean$": "BatchNorm",
    r"^patch_embed\.backbone\.\d": "a stem of plain convolutions",
}


def recognises(tensors: Tensors, config: dict[str, Any]) -> bool:
    is_eva = timm_blocks.is_eva(tensors, architecture(config))
    if is_eva or vit5.recognises(tensors, config):
        return False
    names = {modern(name) for name in tensors}
    blocks = KERNEL in names and not names.isdisjoint(FIRST)
    return blocks or timm_trunks.recognises(names)


def modern(name: str) -> str:
    """timm's present name of a tensor."""
    # DINOv2's training code puts its blocks into chunks; their numbers go on.
    name = re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name)
    name = re.sub(r"\.gamma_(\d)$", r".ls\1.gamma", name)
    return "reg_token" if name == "register_tokens" else name


def canonical(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """timm's present names, the positions of registers added to them, and zeros for the
    biases that attention pooling leaves out."""
    check_architecture(config)
    params = {modern(name): x for name, x in tensors.items()}
    pytorch.refuse(params, UNSUPPORTED)
    if params.pop("mask_token", None) is not None:
        pytorch.report_dropped(["mask_token"])
    params = pytorch.with_biases(params, r"^attn_pool\.(q|kv)\.weight$")
    if "pos_embed" in params and "reg_token" in params:
        first, count = int("cls_token" in params), params["reg_token"].shape[1]
        if prefix_rows(params, config) == first + count:
            table, rows = params["pos_embed"], slice(first, first + count)
            params["reg_token"] = params["reg_token"] + table[:, rows]
            params["pos_embed"] = np.delete(table, rows, axis=1)
    return params


def prefix_rows(tensors: Tensors, config: dict[str, Any]) -> int:
    """Rows of the position table before those of the patches: 0, the class token's, or
    those of the class token and the registers."""
    rows = tensors["pos_embed"].shape[1]
    token = int("cls_token" in tensors) + int("dist_token" in tensors)
    choices = [0, token]
    if "reg_token" in tensors:
        choices.append(token + tensors["reg_token"].shape[1])
    side, image_size = token_side(tensors), stored_image_size(config)
    if image_size:
        patches = (image_size[0] // side) * (image_size[1] // side)
        if rows - patches in choices:
            return rows - patches
    for choice in choices:
        if pytorch.grid_image(rows - choice, side, None):
            return choice
    return token


def token_side(tensors: Tensors) -> int:
    """Pixels a side of a token, a ResNet stem included."""
    side = pytorch.patch_size(tensors[KERNEL])
    stem = timm_trunks.stem_units(tensors)
    return side if stem is None else side * ResNetTrunk(stem).stride


def describe(tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
    if KERNEL not in tensors:
        return timm_trunks.describe(tensors, config)
    width, side = len(tensors[KERNEL]), token_side(tensors)
    shown = timm_blocks.describe(tensors)
    size = Size(
        depth=pytorch.depth(tensors, "blocks."),
        width=width,
        mlp_dim=shown.pop("mlp_dim"),
        num_heads=num_heads(tensors, config, width),
    )
    pool, token = pooling(tensors, config), "cls_token" in tensors
    registers = tensors.get("reg_token")
    options = shown | {
        "num_classes": timm_trunks.num_classes(tensors, "head"),
        "pooling": pool,
        "class_token": "always" if token and pool != "token" else "auto",
        "num_registers": 0 if registers is None else registers.shape[1],
        "norm_after_pooling": "fc_norm.weight" in tensors,
        "pre_logits": "pre_logits.fc.weight" in tensors,
        "distillation_token": "dist_token" in tensors,
        "embedding_norm": "norm_pre.weight" in tensors,
        "map_reads": map_reads(tensors, config),
        **timm_trunks.stem_options(tensors),
        **numerics(tensors, config),
    }
    options |= by_name(architecture(config), arguments(config))
    if shown["block"] in ("parallel", "pairs") and timm_blocks.is_scaled(tensors):
        options["layer_scale_init"] = arguments(config).get("init_values") or 1e-5
    if shown["mlp"] == "swiglu":
        del options["activation"]  # that of timm's class is the gate's
    if relative := timm_relative.describe(tensors, architecture(config)):
        options |= relative
        stored = stored_image_size(config)
        image_size = timm_relative.image_size(tensors, side, stored)
    elif "pos_embed" in tensors:
        prefix = prefix_rows(tensors, config)
        patches = tensors["pos_embed"].shape[1] - prefix
        image_size = pytorch.grid_image(patches, side, stored_image_size(config))
        options["class_token_position"] = prefix > 0 or not token
    else:
        options["positions"] = "none"
        image_size = stored_image_size(config) or usual_image(side)
    options["image_size"] = image_size
    return vit_arguments(size, side) | pytorch.beside_defaults(options)


def rules(model: AnyModel) -> list[Rule]:
    pytorch.check_kind(model, NAME, VisionTransformer, ResNet, Mixer)
    if isinstance(model, ResNet):
        return timm_trunks.bit_rules(model)
    if isinstance(model, Mixer):
        return timm_trunks.mixer_rules(model)
    check(model)
    rules = timm_blocks.common_rules(model)
    if model.distillation_token:
        rules.append(same("dist_token", "distillation_token"))
    if model.positions == "learned":
        rules.append(position_rule(model))
    rules += timm_relative.shared_rules(model)
    if model.resnet_stem is not None:
        rules += timm_trunks.stem_rules(model.resnet_stem)
    if model.pooling == "map":
        rules += pool_rules(model.num_heads)
    if model.pre_logits:
        rules += torch_dense("pre_logits.fc", "pre_logits")
    if model.num_classes and model.distillation_token:
        rules += torch_dense("head_dist", "distillation_head")
    return rules


def check(model: VisionTransformer) -> None:
    """Raises ValueError for a ViT that timm has no code for."""
    if timm_blocks.is_of_eva(model):
        raise ValueError(
            f"the {NAME} layout cannot hold a model with rotary positions or without a "
            "bias of the keys alone: write it as layout timm_eva"
        )
    check_options(
        model,
        NAME,
        pooling=("token", "gap", "map"),
        positions=("learned", "none", *OFFSET_BIASES),
        attention=("full",),
        qkv_bias=("qkv", "none"),
    )
    if model.positions in OFFSET_BIASES:
        timm_relative.check(model, NAME)
    else:
        check_options(model, NAME, positions_at=("stem",))


def position_rule(model: VisionTransformer) -> Rule:
    if not (model.has_class_token and model.class_token_position):
        return same("pos_embed", "positions/embedding")
    # Its code has positions for all tokens before the patches, or for none.
    zeros = np.zeros((1, model.num_registers, model.width), np.float32)

    def write(table: np.ndarray) -> np.ndarray:
        return np.concatenate([table[:, :1], zeros, table[:, 1:]], axis=1)

    return Rule("pos_embed", ("positions/embedding",), lambda x: (x,), write)


def by_name(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Options that neither tensors nor the given arguments tell."""
    options: dict[str, Any] = {}
    if POST_NORM.match(name):
        options["block"] = "post_norm"
    if LARGE_EPSILON.match(name):
        options["norm_epsilon"] = 1e-5
    if "_quickgelu_" in name and "act_layer" not in given:
        options["activation"] = "quick_gelu"
    return options


def map_reads(tensors: Tensors, config: dict[str, Any]) -> str:
    """What attention pooling reads, if there are other tokens than patches."""
    if "attn_pool.latent" not in tensors or not {"cls_token", "reg_token"} & {*tensors}:
        return "all"
    name = architecture(config)
    known = READS_ALL.match(name) or arguments(config).get("pool_include_prefix")
    return "all" if known else "patches"


def pool_rules(heads: int) -> list[Rule]:
    """Attention pooling; key and value are one weight."""
    theirs, ours = "attn_pool", "map_head/attention"
    return [
        same(f"{theirs}.latent", "map_head/probe"),
        *pytorch.attention_part(f"{theirs}.q", f"{ours}/query", heads),
        *pytorch.fused_parts(f"{theirs}.kv.{{}}", ours, pytorch.PARTS[1:], heads),
        *pytorch.attention_out(f"{theirs}.proj", ours, heads),
        *torch_norm(f"{theirs}.norm", "map_head/norm"),
        *torch_dense(f"{theirs}.mlp.fc1", "map_head/mlp/hidden"),
        *torch_dense(f"{theirs}.mlp.fc2", "map_head/mlp/out"),
    ]
