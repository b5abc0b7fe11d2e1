"""Names and shapes of published checkpoints, typed out by hand.

Nothing here is taken from the code under test: the names are those of the files in
gs://vit_models, gs://mixer_models, gs://bit_models and gs://big_vision, as the code of
google-research/vision_transformer, big_transfer and big_vision reads them.
"""

import numpy as np

Shapes = dict[str, tuple[int, ...]]


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 arrays large enough that each of them changes the logits."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        fan_in = max(int(np.prod(shape[:-1])), 1)
        noise = rng.normal(size=shape)
        if name.endswith(("scale", "gamma")):
            noise = 1 + 0.3 * noise
        elif name.endswith("kernel"):
            noise = noise * fan_in**-0.5
        else:
            noise = 0.3 * noise
        tensors[name] = noise.astype(np.float32)
    return tensors


def dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def heads(name: str, width: int, num_heads: int) -> Shapes:
    split = (num_heads, width // num_heads)
    return {
        f"{name}/query/kernel": (width, *split),
        f"{name}/query/bias": split,
        f"{name}/key/kernel": (width, *split),
        f"{name}/key/bias": split,
        f"{name}/value/kernel": (width, *split),
        f"{name}/value/bias": split,
        f"{name}/out/kernel": (*split, width),
        f"{name}/out/bias": (width,),
    }


def google_vit(
    *,
    depth: int,
    width: int,
    mlp_dim: int,
    num_heads: int,
    patch: int,
    num_patches: int,
    classes: int,
    class_token: bool = True,
    pre_logits: bool = False,
    features: int = 3,
) -> Shapes:
    """A ViT of vision_transformer; parts of a block are counted in one row."""
    shapes = {
        "embedding/kernel": (patch, patch, features, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (
            1,
            num_patches + class_token,
            width,
        ),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
    }
    if class_token:
        shapes["cls"] = (1, 1, width)
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        shapes |= norm(f"{block}/LayerNorm_0", width)
        shapes |= heads(f"{block}/MultiHeadDotProductAttention_1", width, num_heads)
        shapes |= norm(f"{block}/LayerNorm_2", width)
        shapes |= dense(f"{block}/MlpBlock_3/Dense_0", width, mlp_dim)
        shapes |= dense(f"{block}/MlpBlock_3/Dense_1", mlp_dim, width)
    if pre_logits:
        shapes |= dense("pre_logits", width, width)
    return shapes | dense("head", width, classes)


def google_stem(blocks: tuple[int, ...], width: int) -> Shapes:
    """The ResNet (v1) before the patches of a hybrid; also big_vision's `bit.py`."""
    shapes = {"conv_root/kernel": (7, 7, 3, width)} | norm("gn_root", width)
    inputs = width
    for s, count in enumerate(blocks, 1):
        middle = width * 2 ** (s - 1)
        for u in range(1, count + 1):
            unit = f"block{s}/unit{u}"
            shapes |= {
                f"{unit}/conv1/kernel": (1, 1, inputs, middle),
                f"{unit}/conv2/kernel": (3, 3, middle, middle),
                f"{unit}/conv3/kernel": (1, 1, middle, 4 * middle),
            }
            shapes |= norm(f"{unit}/gn1", middle)
            shapes |= norm(f"{unit}/gn2", middle)
            shapes |= norm(f"{unit}/gn3", 4 * middle)
            if u == 1:
                shapes[f"{unit}/conv_proj/kernel"] = (1, 1, inputs, 4 * middle)
                shapes |= norm(f"{unit}/gn_proj", 4 * middle)
            inputs = 4 * middle
    return shapes


def big_transfer(blocks: tuple[int, ...], width: int, classes: int) -> Shapes:
    """A ResNet (v2) of big_transfer, named by TensorFlow."""
    shapes = {"resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, width)}
    inputs = width
    for s, count in enumerate(blocks, 1):
        middle = width * 2 ** (s - 1)
        for u in range(1, count + 1):
            unit = f"resnet/block{s}/unit{u:02d}"
            shapes |= {
                f"{unit}/a/group_norm/gamma": (inputs,),
                f"{unit}/a/group_norm/beta": (inputs,),
                f"{unit}/a/standardized_conv2d/kernel": (1, 1, inputs, middle),
                f"{unit}/b/group_norm/gamma": (middle,),
                f"{unit}/b/group_norm/beta": (middle,),
                f"{unit}/b/standardized_conv2d/kernel": (3, 3, middle, middle),
                f"{unit}/c/group_norm/gamma": (middle,),
                f"{unit}/c/group_norm/beta": (middle,),
                f"{unit}/c/standardized_conv2d/kernel": (1, 1, middle, 4 * middle),
            }
            if u == 1:
                name = f"{unit}/a/proj/standardized_conv2d/kernel"
                shapes[name] = (1, 1, inputs, 4 * middle)
            inputs = 4 * middle
    return shapes | {
        "resnet/group_norm/gamma": (inputs,),
        "resnet/group_norm/beta": (inputs,),
        "resnet/head/conv2d/kernel": (1, 1, inputs, classes),
        "resnet/head/conv2d/bias": (classes,),
    }


def mixer(
    *,
    depth: int,
    width: int,
    token_mlp: int,
    channel_mlp: int,
    patch: int,
    num_patches: int,
    classes: int,
) -> Shapes:
    shapes = {
        "stem/kernel": (patch, patch, 3, width),
        "stem/bias": (width,),
        "pre_head_layer_norm/scale": (width,),
        "pre_head_layer_norm/bias": (width,),
    }
    for i in range(depth):
        block = f"MixerBlock_{i}"
        shapes |= norm(f"{block}/LayerNorm_0", width)
        shapes |= dense(f"{block}/token_mixing/Dense_0", num_patches, token_mlp)
        shapes |= dense(f"{block}/token_mixing/Dense_1", token_mlp, num_patches)
        shapes |= norm(f"{block}/LayerNorm_1", width)
        shapes |= dense(f"{block}/channel_mixing/Dense_0", width, channel_mlp)
        shapes |= dense(f"{block}/channel_mixing/Dense_1", channel_mlp, width)
    return shapes | dense("head", width, classes)


def big_vision_vit(
    *,
    depth: int,
    width: int,
    mlp_dim: int,
    num_heads: int,
    patch: int,
    num_patches: int,
    classes: int,
    pool: str = "gap",
    learned: bool = True,
    pre_logits: bool = False,
) -> Shapes:
    """A ViT of big_vision; `pool` is gap, tok or map as there."""
    shapes = {
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
    }
    if learned:
        shapes["pos_embedding"] = (1, num_patches, width)
    if pool == "tok":
        shapes["cls"] = (1, 1, width)
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        shapes |= norm(f"{block}/LayerNorm_0", width)
        shapes |= heads(f"{block}/MultiHeadDotProductAttention_0", width, num_heads)
        shapes |= norm(f"{block}/LayerNorm_1", width)
        shapes |= dense(f"{block}/MlpBlock_0/Dense_0", width, mlp_dim)
        shapes |= dense(f"{block}/MlpBlock_0/Dense_1", mlp_dim, width)
    if pool == "map":
        shapes["MAPHead_0/probe"] = (1, 1, width)
        shapes |= heads("MAPHead_0/MultiHeadDotProductAttention_0", width, num_heads)
        shapes |= norm("MAPHead_0/LayerNorm_0", width)
        shapes |= dense("MAPHead_0/MlpBlock_0/Dense_0", width, mlp_dim)
        shapes |= dense("MAPHead_0/MlpBlock_0/Dense_1", mlp_dim, width)
    if pre_logits:
        shapes |= dense("pre_logits", width, width)
    return shapes | (dense("head", width, classes) if classes else {})


def bit_paper(blocks: tuple[int, ...], width: int, classes: int) -> Shapes:
    """A ResNet (v2) of big_vision's `bit_paper.py`; its norms are (1, 1, 1, c)."""
    shapes = {"root_block/conv_root/kernel": (7, 7, 3, width)}
    inputs = width
    for s, count in enumerate(blocks, 1):
        middle = width * 2 ** (s - 1)
        for u in range(1, count + 1):
            unit = f"block{s}/unit{u:02d}"
            shapes |= {
                f"{unit}/gn1/scale": (1, 1, 1, inputs),
                f"{unit}/gn1/bias": (1, 1, 1, inputs),
                f"{unit}/conv1/kernel": (1, 1, inputs, middle),
                f"{unit}/gn2/scale": (1, 1, 1, middle),
                f"{unit}/gn2/bias": (1, 1, 1, middle),
                f"{unit}/conv2/kernel": (3, 3, middle, middle),
                f"{unit}/gn3/scale": (1, 1, 1, middle),
                f"{unit}/gn3/bias": (1, 1, 1, middle),
                f"{unit}/conv3/kernel": (1, 1, middle, 4 * middle),
            }
            if u == 1:
                shapes[f"{unit}/conv_proj/kernel"] = (1, 1, inputs, 4 * middle)
            inputs = 4 * middle
    return (
        shapes
        | {
            "norm-pre-head/scale": (1, 1, 1, inputs),
            "norm-pre-head/bias": (1, 1, 1, inputs),
        }
        | dense("head", inputs, classes)
    )
