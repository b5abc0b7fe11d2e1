"""A training step as one writes it by hand for a GPU: its bytes and kernels, on paper.

    best = handwritten_step(model, batch_size=64, parameters=86_567_656)
    best.moved, best.kept, best.kernels

The yardstick for what a compiler makes of the same step. Every kernel is one that
exists, and moves each of its arrays once:

- products in bfloat16 by cuBLASLt, whose epilogues add a bias or the residual stream,
  apply GELU and keep its argument, multiply by GELU's derivative, and sum the gradient
  of a bias (`CUBLASLT_EPILOGUE_GELU_AUX_BIAS`, `_DGELU_BGRAD`, `_BGRADB`:
  https://docs.nvidia.com/cuda/cublas/#cublasltepilogue-t);
- attention that never stores its probabilities (FlashAttention-2, arXiv 2307.08691,
  algorithms 1 and 2), with its sums of output times gradient in a kernel of its own;
- LayerNorm as one kernel each way, the backward one adding the gradient of the residual
  stream, and a second one for the sums over blocks of tokens (Apex's and Liger's);
- Adam over all parameters at once, after their norm (Apex's `multi_tensor_apply`).

Parameters, moments and gradients of parameters are float32, all else is bfloat16.
With dropout, the masks are drawn again in the backward pass and never stored. Then the
epilogues of the products cannot be used: GELU and dropout are a kernel, and so are
dropout, residual and norm (flash-attn's `dropout_layer_norm`).

Not counted: statistics of a norm and of a softmax and biases, a few bytes a token or
layer; what caches save; what products read again since they work in tiles.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

HALF, SINGLE = 2, 4


class Kernel(NamedTuple):
    """A kernel, or several of one kind.

    Attributes:
        name: what it computes.
        read, written: bytes.
        launches: number of kernels that share them.
    """

    name: str
    read: int
    written: int
    launches: int = 1


class Best(NamedTuple):
    """The costs of a step on one device.

    Attributes:
        moved: bytes that kernels read and write.
        kept: bytes of temporaries when the backward pass begins: activations that it
            needs, parameters in bfloat16, and the first gradients.
        kernels: number of launches.
    """

    moved: int
    kept: int
    kernels: int


class Sizes(NamedTuple):
    """Bytes of arrays in bfloat16 that a block handles.

    Attributes:
        tokens: of all tokens, the unit of the rest.
        hidden: within the MLP.
        qkv, out, mlp: of a block's kernels: query, key and value together; the
            projection after attention; each of the MLP's two.
    """

    tokens: int
    hidden: int
    qkv: int
    out: int
    mlp: int


def sizes_of(model: Any, batch_size: int) -> Sizes:
    """Those of a `VisionTransformer`."""
    number = math.prod(model.grid) + model.num_prefix_tokens
    rows, square = HALF * batch_size * number, HALF * model.width**2
    return Sizes(
        rows * model.width,
        rows * model.mlp_dim,
        3 * square,
        square,
        HALF * model.width * model.mlp_dim,
    )


def forward(s: Sizes, *, dropout: bool) -> Iterator[Kernel]:
    """The kernels of a block's forward pass."""
    yield Kernel("norm", s.tokens, s.tokens)
    yield Kernel("query, key, value", s.tokens + s.qkv, 3 * s.tokens)
    yield Kernel("attention", 3 * s.tokens, s.tokens)
    if dropout:
        yield Kernel("projection", s.tokens + s.out, s.tokens)
        yield Kernel("dropout, residual, norm", 2 * s.tokens, 2 * s.tokens)
        yield Kernel("hidden", s.tokens + s.mlp, s.hidden)
        yield Kernel("GELU, dropout", s.hidden, s.hidden)
        yield Kernel("output", s.hidden + s.mlp, s.tokens)
        yield Kernel("dropout, residual", 2 * s.tokens, s.tokens)
    else:
        yield Kernel("projection, residual", 2 * s.tokens + s.out, s.tokens)
        yield Kernel("norm", s.tokens, s.tokens)
        yield Kernel("hidden, GELU", s.tokens + s.mlp, 2 * s.hidden)
        yield Kernel("output, residual", s.tokens + s.hidden + s.mlp, s.tokens)


def backward(s: Sizes, *, dropout: bool) -> Iterator[Kernel]:
    """The kernels of a block's backward pass; gradients of kernels are float32."""
    # With dropout a gradient passes the mask before the products that take it.
    masked = s.tokens if dropout else 0
    if dropout:
        yield Kernel("dropout", s.tokens, s.tokens)
        yield Kernel("output, gradient", s.tokens + s.mlp, s.hidden)
        yield Kernel("dropout, GELU, biases", 2 * s.hidden, s.hidden)
    else:
        yield Kernel("output, GELU", s.tokens + s.mlp + s.hidden, s.hidden)
    yield Kernel("output, kernel and bias", s.tokens + s.hidden, 2 * s.mlp)
    yield Kernel("hidden", s.hidden + s.mlp, s.tokens)
    yield Kernel("hidden, kernel", s.tokens + s.hidden, 2 * s.mlp)
    yield Kernel("norm, residual", 3 * s.tokens, s.tokens + masked, launches=2)
    yield Kernel("projection", s.tokens + s.out, s.tokens)
    yield Kernel("projection, kernel and bias", 2 * s.tokens, 2 * s.out)
    yield Kernel("attention, sums", 2 * s.tokens, 0)
    yield Kernel("attention", 4 * s.tokens, 3 * s.tokens)
    yield Kernel("query, key, value", 3 * s.tokens + s.qkv, s.tokens)
    yield Kernel("query, key, value, kernels, biases", 4 * s.tokens, 2 * s.qkv)
    yield Kernel("norm, residual", 3 * s.tokens, s.tokens, launches=2)


def kept(s: Sizes) -> int:
    """Bytes that a block's backward pass needs of its forward pass.

    The residual stream before each norm, both norms' results, query, key, value, the
    result of attention; GELU's argument and result. With dropout the latter is masked.
    """
    return 8 * s.tokens + 2 * s.hidden


def around(model: Any, s: Sizes, batch_size: int) -> Iterator[Kernel]:
    """What is before the blocks and behind them, in both passes."""
    pixels = batch_size * math.prod(model.image_size) * 3
    patches = HALF * pixels
    tokens = HALF * batch_size * math.prod(model.grid) * model.width
    kernel = HALF * model.patch_size**2 * 3 * model.width
    yield Kernel("pixels to patches", pixels, patches)
    yield Kernel("embedding", patches + kernel, tokens)
    yield Kernel("positions", tokens, s.tokens)
    # Of the class token alone, or of all for their mean.
    read = HALF * batch_size * model.width if model.pooling == "token" else s.tokens
    pooled = SINGLE * batch_size * model.width
    logits = SINGLE * batch_size * model.num_classes
    head = SINGLE * model.width * model.num_classes
    yield Kernel("last norm, pooling", read, pooled)
    if model.pre_logits:
        square = HALF * model.width**2
        yield Kernel("pre-logits", pooled + square, pooled, launches=2)
        yield Kernel("pre-logits, tanh", 2 * pooled, pooled)
        yield Kernel("pre-logits", pooled + square, pooled)
        yield Kernel("pre-logits, kernel and bias", 2 * pooled, 2 * square)
    yield Kernel("head", pooled + head, logits)
    yield Kernel("loss", logits, logits)
    yield Kernel("head", logits + head, pooled)
    yield Kernel("head, kernel and bias", logits + pooled, head)
    yield Kernel("last norm", pooled + read, s.tokens, launches=2)
    yield Kernel("positions", s.tokens, 0)
    yield Kernel("embedding, kernel and bias", patches + tokens, 2 * kernel)


def update(parameters: int) -> Iterator[Kernel]:
    """From gradients to parameters, for the next step in bfloat16 too."""
    size = SINGLE * parameters
    yield Kernel("norm of the gradients", size, 0, launches=2)
    yield Kernel("Adam", 4 * size, 3 * size)
    yield Kernel("parameters to bfloat16", size, size // 2)


def handwritten_step(model: Any, batch_size: int, parameters: int) -> Best:
    """The costs of a training step of a plain ViT, nothing computed twice.

    Args:
        model: a `VisionTransformer` of pre-norm blocks with full attention.
        batch_size: of one device.
        parameters: how many the model has.
    """
    s, dropout = sizes_of(model, batch_size), model.dropout_rate > 0
    block = [*forward(s, dropout=dropout), *backward(s, dropout=dropout)]
    kernels = [*model.depth * block, *around(model, s, batch_size)]
    kernels += update(parameters)
    patches = HALF * batch_size * math.prod(model.image_size) * 3
    gradients = s.tokens + s.hidden
    return Best(
        sum(kernel.read + kernel.written for kernel in kernels),
        model.depth * kept(s) + patches + HALF * parameters + gradients,
        sum(kernel.launches for kernel in kernels),
    )
