"""Numbers that timm adds to the attention's logits: by its class for relative positions
(`vit_relpos_*`), and by BEiT, whose other names are those of its class Eva."""

import math
import re
from typing import Any

import numpy as np

from vit_jax.interop.layout import Rule, Tensors, check_options, torch_dense
from vit_jax.models import VisionTransformer
from vit_jax.models.positions import OFFSET_BIASES

TABLE = "relative_position_bias_table"
# The first of them: in a block, or one for all blocks; then the same of BEiT.
PLACES = (
    ("blocks.0.attn.rel_pos.", "stem"),
    ("shared_rel_pos.", "shared"),
    ("blocks.0.attn.", "stem"),
    ("rel_pos_bias.", "shared"),
)
ARCHITECTURES = re.compile(r"(test_)?vit_s?relpos|beit(v2)?_")
FIRST_LAYER = "mlp.fc1.weight"
ENTRIES = 3  # of pairs with a class token, behind those of the offsets


def describe(tensors: Tensors, architecture: str) -> dict[str, Any]:
    """Options of the model for these positions, {} if there are none.

    Raises:
        ValueError: there are none, and the architecture has some.
    """
    for prefix, place in PLACES:
        if f"{prefix}{TABLE}" in tensors:
            return {"positions": "relative_bias", "positions_at": place}
        if "rel_pos" in prefix and f"{prefix}{FIRST_LAYER}" in tensors:
            hidden = len(tensors[f"{prefix}{FIRST_LAYER}"])
            options = {"positions": "relative_mlp", "positions_at": place}
            return options | {"relative_mlp_dim": hidden}
    if ARCHITECTURES.match(architecture):
        raise ValueError(
            f"config.json names timm's {architecture}, which has relative positions, "
            "and no tensor has numbers for them: wanted names that end in "
            f"{TABLE} or rel_pos.{FIRST_LAYER}"
        )
    return {}


def num_heads(tensors: Tensors) -> int:
    """The numbers of an offset, one a head; 0 if there are none."""
    for prefix, _ in PLACES:
        if f"{prefix}{TABLE}" in tensors:
            return tensors[f"{prefix}{TABLE}"].shape[1]
        if f"{prefix}mlp.fc2.weight" in tensors and "rel_pos" in prefix:
            return len(tensors[f"{prefix}mlp.fc2.weight"])
    return 0


def image_size(
    tensors: Tensors, patch: int, stored: tuple[int, int] | None
) -> tuple[int, int] | None:
    """That of a table's grid: the config's if it fits, or a square, or None; of an MLP,
    which is for all grids, the config's."""
    tables = [tensors[f"{p}{TABLE}"] for p, _ in PLACES if f"{p}{TABLE}" in tensors]
    if not tables:
        return stored
    offsets = len(tables[0]) - (ENTRIES if "cls_token" in tensors else 0)
    if stored and math.prod(2 * (side // patch) - 1 for side in stored) == offsets:
        return stored
    root = math.isqrt(offsets)
    side = (root + 1) // 2 * patch
    return (side, side) if root**2 == offsets and root % 2 else None


def shared_rules(model: VisionTransformer) -> list[Rule]:
    """The rules of what all blocks share."""
    if model.positions not in OFFSET_BIASES or model.positions_at != "shared":
        return []
    theirs = "rel_pos_bias" if is_beit(model) else "shared_rel_pos"
    return module_rules(theirs, "relative_positions", model)


def block_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    """The rules of one block's, by the names of its attention."""
    if model.positions not in OFFSET_BIASES or model.positions_at == "shared":
        return []
    theirs = theirs if is_beit(model) else f"{theirs}.rel_pos"
    return module_rules(theirs, f"{ours}/relative_positions", model)


def module_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    if model.positions == "relative_mlp":
        first = torch_dense(f"{theirs}.mlp.fc1", f"{ours}/hidden")
        return first + torch_dense(f"{theirs}.mlp.fc2", f"{ours}/out")
    rows, columns = (2 * side - 1 for side in model.grid)
    entries = ENTRIES if model.num_prefix_tokens else 0

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        offsets = x[: len(x) - entries].reshape(rows, columns, -1)
        return (offsets, x[len(x) - entries :]) if entries else (offsets,)

    def write(offsets: np.ndarray, *prefix: np.ndarray) -> np.ndarray:
        flat = offsets.reshape(rows * columns, -1)
        return np.concatenate([flat, *prefix])

    names = (f"{ours}/offsets", f"{ours}/prefix")[: 2 if entries else 1]
    return [Rule(f"{theirs}.{TABLE}", names, read, write)]


def is_beit(model: VisionTransformer) -> bool:
    """Whether timm has a model with these positions in its class Beit."""
    return model.positions in OFFSET_BIASES and model.qkv_bias == "qv"


def check(model: VisionTransformer, layout: str) -> None:
    """Raises ValueError for a model that timm's class, or its BEiT, has no code for."""
    beit = is_beit(model)
    check_options(
        model,
        layout,
        positions=("relative_bias",) if beit else OFFSET_BIASES,
        pooling=("token", "gap"),
        block=("pre_norm",) if beit else ("pre_norm", "post_norm"),
        activation=("gelu",),
        norm=("layernorm",),
        norm_epsilon=(1e-6,),
        qk_norm=("none",) if beit else ("none", "layernorm"),
        mlp=("plain",),
        mlp_inner_norm=(False,),
        attention_inner_norm=(False,),
        embedding_norm=(False,),
        num_registers=(0,),
        distillation_token=(False,),
        pre_logits=(False,),
        resnet_stem=(None,),
    )
    if beit and not model.has_class_token:
        raise ValueError(
            f"the {layout} layout cannot hold a model with relative_bias, qkv_bias='qv'"
            " and no class token: timm's BEiT always has one"
        )
