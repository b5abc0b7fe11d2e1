"""Attention within a radius, against bits, and against softmax by hand."""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis.features import apply
from vit_jax.analysis.radius import everything, limited, outputs_within, within
from vit_jax.models import create_model, init_params

TINY: dict[str, Any] = {
    "depth": 2,
    "width": 16,
    "mlp_dim": 32,
    "num_heads": 2,
    "num_classes": 3,
}


# Not compiled, so that what is within can be kept.
computed: Any = inspect.unwrap(outputs_within)


def tiny(**options):
    """A ViT of 3 x 4 patches whose parameters are none of them zero, and images."""
    options = TINY | {"name": "ViT-mu/4", "image_size": (12, 16)} | options
    model = create_model(**options)
    params = init_params(model, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        x + 0.3 * jax.random.normal(key, x.shape)
        for x, key in zip(leaves, keys, strict=True)
    ]
    images = jax.random.uniform(jax.random.key(2), (2, 12, 16, 3), minval=-1)
    return model, jax.tree.unflatten(tree, noisy), images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "relative_bias", "num_registers": 2},
        {"positions": "relative_bias", "positions_at": "shared", "pooling": "gap"},
        {"pooling": "map", "block": "pairs", "positions": "rope2d"},
    ],
    ids=str,
)
def test_a_radius_of_the_whole_grid_changes_no_bit_and_a_smaller_one_does(options):
    model, params, images = tiny(**options)
    logits, out = jax.jit(apply, static_argnums=0)(model, params, images)
    far = everything(model)
    assert far == 3
    same = outputs_within(model, params, images, within(model, far, range(2)))
    np.testing.assert_array_equal(same[0], logits)
    np.testing.assert_array_equal(same[1], out["pre_logits"])
    for layer in range(2):
        less = outputs_within(model, params, images, within(model, far - 1, [layer]))
        # Nothing reads the patches of the last layer but its class token.
        unread = layer == 1 and model.pooling == "token"
        assert (abs(less[0] - logits).max() > 1e-3) != unread


def test_an_attention_within_a_radius_by_hand():
    """One layer, whose attention is taken out of the sums of its own logits."""
    model, params, images = tiny(depth=1)
    _, out = apply(model, params, images, return_attention=True)
    weights = np.asarray(out["encoder"]["block_00"]["attention_weights"], np.float64)
    block = params["encoder"]["block_00"]
    # The norm of the tokens, for their values.
    tokens = np.asarray(out["embedded"], np.float64)
    centred = tokens - tokens.mean(-1, keepdims=True)
    tokens = centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    norm = block["attention_norm"]
    tokens = tokens * norm["scale"] + norm["bias"]
    value = np.einsum("bld,dke->blke", tokens, block["attention"]["value"]["kernel"])
    value = value + block["attention"]["value"]["bias"]

    def attended(seen: np.ndarray) -> np.ndarray:
        """What the tokens get from those that they see."""
        some = weights * seen
        some = some / some.sum(-1, keepdims=True)
        mixed = np.einsum("bkql,blke->bqke", some, value)
        kernel = block["attention"]["out"]["kernel"]
        return (
            np.einsum("bqke,ked->bqd", mixed, kernel)
            + (block["attention"]["out"]["bias"])
        )

    for radius in range(4):
        seen = np.zeros((13, 13))
        seen[0], seen[:, 0] = 1, 1
        for query in range(12):
            for key in range(12):
                rows = abs(query // 4 - key // 4)
                columns = abs(query % 4 - key % 4)
                seen[1 + query, 1 + key] = rows <= radius and columns <= radius
        found = {}

        def keep(call, args, kwargs, context, found=found):
            result = call(*args, **kwargs)
            if context.module.name == "attention" and context.method_name == "__call__":
                found["attention"] = result[0]
            return result

        with nn.intercept_methods(keep):
            computed(model, params, images, np.array([radius]))
        np.testing.assert_allclose(found["attention"], attended(seen), atol=2e-5)


def test_layers_are_limited_by_depth():
    """Nothing of the far corner reaches a patch that is further than all radii."""
    model, params, images = tiny(pooling="gap", depth=3, positions="none")
    model, far = model.clone(image_size=(12, 40)), 9
    images = jax.random.uniform(jax.random.key(3), (1, 12, 40, 3), minval=-1)
    changed = images.at[:, :, -4:].add(0.5)

    def first_patch(images, radii):
        found = {}

        def keep(call, args, kwargs, context):
            result = call(*args, **kwargs)
            if context.module.name == "encoder" and context.method_name == "__call__":
                found["tokens"] = result[0]
            return result

        with nn.intercept_methods(keep):
            computed(model, params, images, jnp.array(radii))
        return found["tokens"][0, 0]

    assert everything(model) == far
    # Three steps of three reach the tenth column, and not a column less each.
    for radii, reached in [([3, 3, 3], True), ([3, 3, 2], False), ([0, far, 0], True)]:
        moved = abs(first_patch(images, radii) - first_patch(changed, radii)).max()
        assert (moved > 0) == reached, radii


def test_models_without_full_attention_are_refused():
    axial = create_model(**TINY, name="Axial-ViT-mu/4", image_size=(12, 16))
    for model, has in [
        (axial, "VisionTransformer has axial attention"),
        (create_model("BiT-R26x1", num_classes=3, image_size=(32, 32)), "ResNet has"),
    ]:
        with pytest.raises(ValueError, match=has):
            everything(model)
    with pytest.raises(ValueError, match="radius is -1 patches: wanted 0 or more"):
        within(tiny()[0], -1, [0])


def test_what_is_kept_is_compared_with_labels_or_the_model_itself():
    model, params, images = tiny(pooling="gap", positions="none")
    logits, features = outputs_within(model, params, images, within(model, 3, [0]))
    classes = np.asarray(logits).argmax(-1)
    same = limited(model, params, images, batch_size=1)
    assert (same.measure, same.whole, same.radii) == ("agreement", 1.0, [0, 1, 2])
    assert same.values.shape == (3, 3)
    others = (classes + 1) % 3
    wrong = limited(model, params, images, others)
    assert (wrong.measure, wrong.whole) == ("accuracy", 0.0)
    for row, layers in enumerate(([0], [1], [0, 1])):
        near, _ = outputs_within(model, params, images, within(model, 2, layers))
        ours = np.asarray(near).argmax(-1)
        assert same.values[row, 2] == (ours == classes).mean()
        assert wrong.values[row, 2] == (ours == others).mean()
    bare, _, _ = tiny(pooling="gap", positions="none", num_classes=0)
    _, near = outputs_within(model, params, images, within(model, 1, [1]))
    cosines = (near * features).sum(-1)
    cosines /= np.linalg.norm(near, axis=-1) * np.linalg.norm(features, axis=-1)
    kept = limited(bare, params, images)
    assert kept.measure == "similarity" and kept.whole == pytest.approx(1)
    assert kept.values[1, 1] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert kept.values[1, 1] < 0.9999


def test_a_single_patch_has_no_radius():
    model, params, images = tiny(image_size=(4, 4))
    with pytest.raises(ValueError, match="an image of several patches"):
        limited(model, params, images[:, :4, :4])
