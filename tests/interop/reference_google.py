"""Forward passes of Google's models in plain jnp, from tensors as they are published.

Written from the equations and from what the original code computes, as references for
logits: no Flax, nothing of ours. Images are (b, height, width, 3) in [-1, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np

Tensors = dict[str, np.ndarray]


def layer_norm(x, t: Tensors, name: str):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(variance + 1e-6)
    return normed * t[f"{name}/scale"] + t[f"{name}/bias"]


def linear(x, t: Tensors, name: str):
    return x @ t[f"{name}/kernel"] + t[f"{name}/bias"]


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(x, t: Tensors, name: str):
    return linear(gelu(linear(x, t, f"{name}/Dense_0")), t, f"{name}/Dense_1")


def attention(x, memory, t: Tensors, name: str):
    def project(part, inputs):
        kernel, bias = t[f"{name}/{part}/kernel"], t[f"{name}/{part}/bias"]
        return jnp.tensordot(inputs, kernel, 1) + bias

    query, key, value = (
        project("query", x),
        project("key", memory),
        project("value", memory),
    )
    logits = jnp.einsum("bqke,blke->bkql", query, key) / np.sqrt(query.shape[-1])
    mixed = jnp.einsum("bkql,blke->bqke", jax.nn.softmax(logits), value)
    return jnp.tensordot(mixed, t[f"{name}/out/kernel"], 2) + t[f"{name}/out/bias"]


def patches(x, t: Tensors, name: str):
    """Convolution with the stride of its size: (b, tokens, width)."""
    kernel = t[f"{name}/kernel"]
    x = conv(x, kernel, kernel.shape[0], "VALID") + t[f"{name}/bias"]
    return x.reshape(len(x), -1, x.shape[-1])


def conv(x, kernel, stride: int, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=dimensions
    )


def block(x, t: Tensors, name: str, parts: tuple[int, int, int]):
    first = layer_norm(x, t, f"{name}/LayerNorm_0")
    heads = f"{name}/MultiHeadDotProductAttention_{parts[0]}"
    x = x + attention(first, first, t, heads)
    second = layer_norm(x, t, f"{name}/LayerNorm_{parts[1]}")
    return x + mlp(second, t, f"{name}/MlpBlock_{parts[2]}")


def vision_transformer(t: Tensors, images, *, depth: int):
    """ViT and hybrids of vision_transformer (`models_vit.py`)."""
    x = images
    if "conv_root/kernel" in t:
        x = stem(t, x)
    x = patches(x, t, "embedding")
    if "cls" in t:
        x = jnp.concatenate([jnp.tile(t["cls"], (len(x), 1, 1)), x], 1)
    x = x + t["Transformer/posembed_input/pos_embedding"]
    for i in range(depth):
        x = block(x, t, f"Transformer/encoderblock_{i}", (1, 2, 3))
    x = layer_norm(x, t, "Transformer/encoder_norm")
    x = x[:, 0] if "cls" in t else x.mean(1)
    if "pre_logits/kernel" in t:
        x = jnp.tanh(linear(x, t, "pre_logits"))
    return linear(x, t, "head")


def big_vision_vit(t: Tensors, images, *, depth: int, grid: int):
    """ViT of big_vision (`models/vit.py`)."""
    x = patches(images, t, "embedding")
    if "pos_embedding" in t:
        x = x + t["pos_embedding"]
    else:
        x = x + sincos(grid, x.shape[-1])
    if "cls" in t:
        x = jnp.concatenate([jnp.tile(t["cls"], (len(x), 1, 1)), x], 1)
    for i in range(depth):
        x = block(x, t, f"Transformer/encoderblock_{i}", (0, 1, 0))
    x = layer_norm(x, t, "Transformer/encoder_norm")
    if "MAPHead_0/probe" in t:
        probe = jnp.tile(t["MAPHead_0/probe"], (len(x), 1, 1))
        x = attention(probe, x, t, "MAPHead_0/MultiHeadDotProductAttention_0")
        normed = layer_norm(x, t, "MAPHead_0/LayerNorm_0")
        x = (x + mlp(normed, t, "MAPHead_0/MlpBlock_0"))[:, 0]
    else:
        x = x[:, 0] if "cls" in t else x.mean(1)
    if "pre_logits/kernel" in t:
        x = jnp.tanh(linear(x, t, "pre_logits"))
    return linear(x, t, "head") if "head/kernel" in t else x


def sincos(grid: int, width: int):
    """MoCo v3: sines and cosines of the column, then of the row."""
    omega = 1 / 10000 ** (np.arange(width // 4) / (width // 4 - 1))
    rows = np.repeat(np.arange(grid), grid)[:, None] * omega
    columns = np.tile(np.arange(grid), grid)[:, None] * omega
    waves = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(waves, 1).astype(np.float32)


def mixer(t: Tensors, images, *, depth: int):
    """`models_mixer.py`."""
    x = patches(images, t, "stem")
    for i in range(depth):
        name = f"MixerBlock_{i}"
        y = layer_norm(x, t, f"{name}/LayerNorm_0").swapaxes(1, 2)
        x = x + mlp(y, t, f"{name}/token_mixing").swapaxes(1, 2)
        y = layer_norm(x, t, f"{name}/LayerNorm_1")
        x = x + mlp(y, t, f"{name}/channel_mixing")
    return linear(layer_norm(x, t, "pre_head_layer_norm").mean(1), t, "head")


def group_norm(x, scale, bias, epsilon: float):
    groups = x.reshape(*x.shape[:3], 32, -1)
    centred = groups - groups.mean((1, 2, 4), keepdims=True)
    variance = (centred**2).mean((1, 2, 4), keepdims=True)
    return (centred / jnp.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


def units(t: Tensors, prefix: str):
    """(stage, name) of the residual units, in their order."""
    names = {"/".join(k.removeprefix(prefix).split("/")[:2]) for k in t if "unit" in k}
    keys = sorted((int(n[5]), int(n.split("unit")[1]), n) for n in names)
    return [(stage, prefix + name) for stage, _, name in keys]


def strided(stage: int, name: str) -> int:
    return 2 if stage > 1 and int(name.split("unit")[1]) == 1 else 1


def stem(t: Tensors, x):
    """ResNet v1 of `models_resnet.py`: SAME padding, epsilon beside the deviation."""

    def std_conv(x, name, stride=1):
        kernel = t[f"{name}/kernel"]
        kernel = kernel - kernel.mean((0, 1, 2))
        return conv(x, kernel / (kernel.std((0, 1, 2)) + 1e-5), stride, "SAME")

    def norm(x, name):
        return group_norm(
            x, t[f"{name}/scale"].ravel(), t[f"{name}/bias"].ravel(), 1e-6
        )

    x = jax.nn.relu(norm(std_conv(x, "conv_root", 2), "gn_root"))
    x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
    )
    for stage, name in units(t, ""):
        stride, shortcut = strided(stage, name), x
        if f"{name}/conv_proj/kernel" in t:
            shortcut = std_conv(x, f"{name}/conv_proj", stride)
            shortcut = norm(shortcut, f"{name}/gn_proj")
        y = jax.nn.relu(norm(std_conv(x, f"{name}/conv1"), f"{name}/gn1"))
        y = jax.nn.relu(norm(std_conv(y, f"{name}/conv2", stride), f"{name}/gn2"))
        y = norm(std_conv(y, f"{name}/conv3"), f"{name}/gn3")
        x = jax.nn.relu(shortcut + y)
    return x


def bit_v1(t: Tensors, images):
    """`bit.py` of big_vision."""
    return linear(stem(t, images).mean((1, 2)), t, "head")


def big_transfer(t: Tensors, images):
    """ResNet v2 of big_transfer (`bit_pytorch/models.py`): zero padding on all sides,
    of the max-pool too; epsilon beside the variance."""

    def std_conv(x, name, stride=1):
        kernel = t[f"{name}/standardized_conv2d/kernel"]
        kernel = kernel - kernel.mean((0, 1, 2))
        kernel = kernel / jnp.sqrt((kernel**2).mean((0, 1, 2)) + 1e-10)
        border = kernel.shape[0] // 2
        return conv(x, kernel, stride, [(border, border)] * 2)

    def norm_relu(x, name):
        gamma, beta = t[f"{name}/group_norm/gamma"], t[f"{name}/group_norm/beta"]
        return jax.nn.relu(group_norm(x, gamma, beta, 1e-5))

    x = std_conv(images, "resnet/root_block", 2)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
    )
    for stage, name in units(t, "resnet/"):
        stride, shortcut = strided(stage, name), x
        y = norm_relu(x, f"{name}/a")
        if f"{name}/a/proj/standardized_conv2d/kernel" in t:
            shortcut = std_conv(y, f"{name}/a/proj", stride)
        y = norm_relu(std_conv(y, f"{name}/a"), f"{name}/b")
        y = norm_relu(std_conv(y, f"{name}/b", stride), f"{name}/c")
        x = shortcut + std_conv(y, f"{name}/c")
    x = norm_relu(x, "resnet").mean((1, 2))
    head = "resnet/head/conv2d"
    return x @ t[f"{head}/kernel"][0, 0] + t[f"{head}/bias"]
