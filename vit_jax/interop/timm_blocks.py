"""The blocks of timm's transformers: what their tensors tell, and the rules for them.

timm has two classes of them. `VisionTransformer` is read by `timm.py`; `Eva`, for all
models with rotary positions, by `timm_eva.py`. Their blocks differ in a few names.
"""

import re
from collections.abc import Iterable
from typing import Any

import einops
import numpy as np

from vit_jax.interop import pytorch, timm_relative
from vit_jax.interop.layout import (
    Rule,
    Tensors,
    rearranged,
    same,
    torch_convolution,
    torch_dense,
)
from vit_jax.models import VisionTransformer
from vit_jax.models.positions import ROTARY

EVA_NAMES = re.compile(r"^blocks\.0\.(attn\.(q_bias|q_proj\.weight)|gamma_1)$|^rope\.")
EVA_ARCHITECTURES = re.compile(
    r"eva|beit(v2)?_|vit_.*_(dinov3|lingbot|rope|pe|sapiens2)(_|$)"
)


def is_eva(names: Iterable[str], architecture: str) -> bool:
    """Whether a model is one of timm's class Eva."""
    if architecture:
        return bool(EVA_ARCHITECTURES.match(architecture))
    names = set(names)
    # The first training code of DINOv2 has gamma_1 too, and a table of positions.
    found = {name for name in names if EVA_NAMES.match(name)}
    return bool(found - {"blocks.0.gamma_1"}) or bool(
        found and "reg_token" in names and "pos_embed" not in names
    )


def describe(tensors: Tensors) -> dict[str, Any]:
    """Options of the model that the tensors of its first block show."""
    block = {
        name.removeprefix("blocks.0."): x
        for name, x in tensors.items()
        if name.startswith("blocks.0.")
    }
    if "in_proj.weight" in block:
        kind, attention, norm = "parallel", "", "in_norm"
    elif "attns.0.attn.qkv.weight" in block:
        kind, attention, norm = "pairs", "attns.0.attn.", "attns.0.norm"
    else:
        kind, attention, norm = "pre_norm", "attn.", "norm1"

    def kind_of(name: str) -> str:
        return "layernorm" if f"{name}.bias" in block else "rmsnorm"

    fused_bias = {f"{attention}qkv.bias", "in_proj.bias"} & block.keys()
    if fused_bias or f"{attention}k_proj.bias" in block:
        biases = "qkv"
    elif {f"{attention}q_bias", f"{attention}q_proj.bias"} & block.keys():
        biases = "qv"
    else:
        biases = "none"
    qk_norm = f"{attention}q_norm"
    return {
        "block": kind,
        "norm": kind_of(norm),
        "qkv_bias": biases,
        "qk_norm": kind_of(qk_norm) if f"{qk_norm}.weight" in block else "none",
        "attention_inner_norm": f"{attention}norm.weight" in block,
        "mlp_inner_norm": "mlp.norm.weight" in block,
        **mlp_options(block),
    }


def is_scaled(tensors: Tensors) -> bool:
    """Whether the branches of parallel blocks have LayerScale."""
    return bool({"blocks.0.ls.gamma", "blocks.0.attns.0.ls.gamma"} & tensors.keys())


def mlp_options(block: Tensors) -> dict[str, Any]:
    """Kind and width of the MLPs; a gate is in one weight with what it multiplies, or
    has its own."""
    for name in ("mlp.", "ffns.0.mlp."):
        if f"{name}fc1_g.weight" in block:
            return {"mlp": "swiglu", "mlp_dim": len(block[f"{name}fc1_g.weight"])}
        if f"{name}fc1.weight" in block:
            rows, inner = len(block[f"{name}fc1.weight"]), block[f"{name}fc2.weight"]
            kind = "plain" if rows == inner.shape[1] else "swiglu"
            return {"mlp": kind, "mlp_dim": inner.shape[1]}
    return {"mlp": "plain", "mlp_dim": block["mlp_out_proj.weight"].shape[1]}


def norm_rules(theirs: str, ours: str, kind: str) -> list[Rule]:
    rules = [same(f"{theirs}.weight", f"{ours}/scale")]
    if kind == "layernorm":
        rules.append(same(f"{theirs}.bias", f"{ours}/bias"))
    return rules


def common_rules(model: VisionTransformer) -> list[Rule]:
    """What both classes have under the same names, the blocks included."""
    norm = "fc_norm" if model.norm_after_pooling else "norm"
    ours = "pool_norm" if model.norm_after_pooling else "encoder/norm"
    rules = [
        torch_convolution("patch_embed.proj", "embedding"),
        *norm_rules(norm, ours, model.norm),
    ]
    if model.embedding_norm:
        rules += norm_rules("norm_pre", "embedding_norm", model.norm)
    else:
        rules.append(same("patch_embed.proj.bias", "embedding/bias"))
    if model.has_class_token:
        rules.append(same("cls_token", "class_token"))
    if model.num_registers:
        rules.append(same("reg_token", "registers"))
    for i in range(model.depth):
        rules += block_rules(f"blocks.{i}", f"encoder/block_{i:02d}", model)
    if model.num_classes:
        rules += torch_dense("head", "head")
    return rules


def block_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    """All of one block, of either class."""
    if model.block == "parallel":
        return parallel_rules(theirs, ours, model)
    scale = "gamma_{}" if is_of_eva(model) else "ls{}.gamma"
    rules = []
    for number, part, their_part in ((1, "attention", "attn"), (2, "mlp", "mlp")):
        parts = [(f"{theirs}.norm{number}", f"{theirs}.{their_part}", part)]
        scales = [f"{theirs}.{scale.format(number)}"]
        if model.block == "pairs":
            group = f"{theirs}.{'attns' if part == 'attention' else 'ffns'}"
            copies = ("", "second_")
            parts = [
                (f"{group}.{i}.norm", f"{group}.{i}.{their_part}", f"{copy}{part}")
                for i, copy in enumerate(copies)
            ]
            scales = [f"{group}.{i}.ls.gamma" for i in (0, 1)]
        for (norm, module, name), gamma in zip(parts, scales, strict=True):
            path = f"{ours}/{name}"
            rules += norm_rules(norm, f"{path}_norm", model.norm)
            make = attention_rules if part == "attention" else mlp_rules
            rules += make(module, path, model)
            if model.layer_scale_init:
                rules.append(same(gamma, f"{path}_branch/layer_scale"))
    return rules


def is_of_eva(model: VisionTransformer) -> bool:
    """Whether timm has a model in its class Eva, or Beit, which has the same names: no
    bias of keys alone, or rotary."""
    return model.positions in ROTARY or model.qkv_bias == "qv"


def has_own_gate(model: VisionTransformer) -> bool:
    """Whether timm has a weight for the gate alone: DINOv3, and with a norm inside."""
    centred = model.positions in ROTARY and model.rope_coordinates == "centred"
    return model.mlp_inner_norm or centred


def attention_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    heads, k = model.num_heads, {"k": model.num_heads}
    weights = tuple(f"{ours}/{part}/kernel" for part in pytorch.PARTS)
    # EVA-02 has three weights where it has norms inside its MLPs.
    if is_of_eva(model) and model.mlp_inner_norm:
        rules = [
            rearranged(f"{theirs}.{n}_proj.weight", w, "(k e) d -> d k e", **k)
            for n, w in zip("qkv", weights, strict=True)
        ]
        names = {n: f"{theirs}.{n}_proj.bias" for n in "qkv"}
    else:
        pattern = "(n k e) d -> n d k e"
        rules = [rearranged(f"{theirs}.qkv.weight", weights, pattern, n=3, **k)]
        names = {n: f"{theirs}.{n}_bias" for n in "qv"}
    if model.qkv_bias == "qkv" and "k" not in names:
        biases = tuple(f"{ours}/{part}/bias" for part in pytorch.PARTS)
        fused = f"{theirs}.qkv.bias"
        rules.append(rearranged(fused, biases, "(n k e) -> n k e", n=3, **k))
    elif model.qkv_bias != "none":
        for part in pytorch.PARTS:
            if part[0] in model.qkv_bias:
                bias = names[part[0]]
                rules.append(
                    rearranged(bias, f"{ours}/{part}/bias", "(k e) -> k e", **k)
                )
    rules += pytorch.attention_out(f"{theirs}.proj", ours, heads)
    if model.attention_inner_norm:
        rules += norm_rules(f"{theirs}.norm", f"{ours}/norm", model.norm)
    rules += timm_relative.block_rules(theirs, ours, model)
    return rules + qk_norm_rules(f"{theirs}.", ours, model)


def qk_norm_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    if model.qk_norm == "none":
        return []
    return [
        *norm_rules(f"{theirs}q_norm", f"{ours}/query_norm", model.qk_norm),
        *norm_rules(f"{theirs}k_norm", f"{ours}/key_norm", model.qk_norm),
    ]


def mlp_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    rules = torch_dense(f"{theirs}.fc2", f"{ours}/out")
    if model.mlp_inner_norm:
        rules += norm_rules(f"{theirs}.norm", f"{ours}/norm", model.norm)
    if model.mlp == "plain":
        return rules + torch_dense(f"{theirs}.fc1", f"{ours}/hidden")
    if has_own_gate(model):
        rules += torch_dense(f"{theirs}.fc1_g", f"{ours}/gate")
        return rules + torch_dense(f"{theirs}.fc1_x", f"{ours}/hidden")
    kernels, biases = (
        (f"{ours}/gate/{name}", f"{ours}/hidden/{name}") for name in ("kernel", "bias")
    )
    return [
        *rules,
        rearranged(f"{theirs}.fc1.weight", kernels, "(n o) i -> n i o", n=2),
        rearranged(f"{theirs}.fc1.bias", biases, "(n o) -> n o", n=2),
    ]


def parallel_rules(theirs: str, ours: str, model: VisionTransformer) -> list[Rule]:
    """Attention and MLP side by side; what reads the tokens is one weight."""
    heads, attention = model.num_heads, f"{ours}/attention"
    ends = model.mlp_dim + model.width * np.arange(3)
    parts = tuple(f"{attention}/{part}" for part in pytorch.PARTS)
    kernels = (f"{ours}/mlp/hidden/kernel", *(f"{part}/kernel" for part in parts))
    biases = (f"{ours}/mlp/hidden/bias", *(f"{part}/bias" for part in parts))

    def read_weight(x: np.ndarray) -> tuple[np.ndarray, ...]:
        hidden, *others = np.split(x, ends)
        return hidden.T, *(
            einops.rearrange(y, "(k e) d -> d k e", k=heads) for y in others
        )

    def write_weight(hidden: np.ndarray, *others: np.ndarray) -> np.ndarray:
        rows = [einops.rearrange(y, "d k e -> (k e) d") for y in others]
        return np.concatenate([hidden.T, *rows])

    def read_bias(x: np.ndarray) -> tuple[np.ndarray, ...]:
        hidden, *others = np.split(x, ends)
        return hidden, *(y.reshape(heads, -1) for y in others)

    def write_bias(*all_biases: np.ndarray) -> np.ndarray:
        return np.concatenate([x.ravel() for x in all_biases])

    bias = Rule(f"{theirs}.in_proj.bias", biases, read_bias, write_bias)
    if model.qkv_bias == "none":
        bias = same(f"{theirs}.mlp_bias", biases[0])
    rules = [
        Rule(f"{theirs}.in_proj.weight", kernels, read_weight, write_weight),
        bias,
        *norm_rules(f"{theirs}.in_norm", f"{ours}/norm", model.norm),
        *pytorch.attention_out(f"{theirs}.attn_out_proj", attention, heads),
        *torch_dense(f"{theirs}.mlp_out_proj", f"{ours}/mlp/out"),
        *qk_norm_rules(f"{theirs}.", attention, model),
    ]
    if model.layer_scale_init:
        rules.append(same(f"{theirs}.ls.gamma", f"{ours}/branch/layer_scale"))
    return rules
