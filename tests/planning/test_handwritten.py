"""The step written by hand, on paper: against counts by hand for a small model."""

from types import SimpleNamespace

import pytest

from vit_jax.models import create_model
from vit_jax.planning.handwritten import (
    Sizes,
    around,
    backward,
    forward,
    handwritten_step,
    kept,
    sizes_of,
    update,
)

# Two images of 32 x 32 in patches of 16: 5 tokens of 8 features each, MLP of 32.
SMALL = SimpleNamespace(
    grid=(2, 2),
    num_prefix_tokens=1,
    image_size=(32, 32),
    patch_size=16,
    width=8,
    mlp_dim=32,
    depth=3,
    num_classes=10,
    pooling="token",
    pre_logits=False,
    dropout_rate=0.0,
)
SIZES = Sizes(tokens=160, hidden=640, qkv=384, out=128, mlp=512)


def total(kernels):
    return sum(kernel.read + kernel.written for kernel in kernels)


def launches(kernels):
    return sum(kernel.launches for kernel in kernels)


def test_sizes():
    assert sizes_of(SMALL, 2) == SIZES


def test_a_block():
    """In units of the tokens, of which the hidden features are four: 30 and 53.

    Forward: norms 2 + 2, query, key and value 4, attention 4, projection 3, hidden 9,
    output 6. Backward: output 9 and 5, hidden 5 and 5, norms 4 + 4, projection 2 and 2,
    attention 2 + 7, query, key and value 4 and 4. Kernels in bfloat16 are read twice,
    their gradients are written in float32.
    """
    kernels = 384 + 128 + 2 * 512
    assert total(forward(SIZES, dropout=False)) == 30 * 160 + kernels
    assert total(backward(SIZES, dropout=False)) == 53 * 160 + 3 * kernels
    assert launches(forward(SIZES, dropout=False)) == 7
    assert launches(backward(SIZES, dropout=False)) == 14
    assert kept(SIZES) == 16 * 160


def test_dropout_costs_passes():
    """Forward: 1 for the first residual, which comes with a norm, 4 for GELU, 2 for the
    last residual.

    Backward: 2 for the masked gradient, 8 for GELU, 1 for the other masked one.
    """
    more = {
        part: total(part(SIZES, dropout=True)) - total(part(SIZES, dropout=False))
        for part in (forward, backward)
    }
    assert more == {forward: 7 * 160, backward: 11 * 160}


def test_around_and_update():
    images, patches, embedded, kernel = 6144, 12288, 128, 12288
    stem = images + patches + patches + kernel + embedded + embedded + 160
    pooled, logits, head = 64, 80, 320
    ends = 32 + pooled + (pooled + head + logits) + 2 * logits
    ends += (logits + head + pooled) + (logits + pooled + head)
    back = pooled + 32 + 160 + 160 + patches + embedded + 2 * kernel
    assert total(around(SMALL, SIZES, 2)) == stem + ends + back
    assert total(update(100)) == 400 + 7 * 400 + 600
    best = handwritten_step(SMALL, 2, 100)
    block = total(forward(SIZES, dropout=False)) + total(backward(SIZES, dropout=False))
    assert best.moved == 3 * block + stem + ends + back + 3800
    assert best.kept == 3 * 16 * 160 + patches + 200 + 800
    assert best.kernels == 3 * 21 + 12 + 4


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_of_a_model(pooling):
    """B/16 at batch 64: a layer moves 83 arrays of tokens, and its kernels."""
    model = create_model(
        "ViT-B/16",
        num_classes=1000,
        image_size=(224, 224),
        pooling=pooling,
        dtype="bfloat16",
    )
    tokens = 64 * (197 if pooling == "token" else 196) * 768 * 2
    two, three = (
        handwritten_step(model.clone(depth=depth), 64, 0).moved for depth in (2, 3)
    )
    assert three - two == 83 * tokens + 4 * 12 * 768**2 * 2
