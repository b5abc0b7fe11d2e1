"""Muon against optax's own on matrices, and on every kind of kernel that we have."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh
from test_optim import OPTIONS

from vit_jax.models import create_model, init_params
from vit_jax.models.depth import stack_blocks
from vit_jax.parallel import sharding
from vit_jax.training.muon import matrix_axes
from vit_jax.training.optim import tree_paths
from vit_jax.training.setup import build_optimizer

MUON = OPTIONS | dict(name="muon", momentum=0.95)
SIZES = dict(depth=2, width=16, mlp_dim=48, num_heads=2, pre_logits=True)


def vit_params():
    model = create_model("ViT-mu/8", num_classes=5, image_size=16, **SIZES)
    return init_params(model, jax.random.key(0))


def gradients(params):
    """Random ones, of which no two leaves are alike."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return tree.unflatten([jax.random.normal(key, x.shape) for key, x in pairs])


def updates_of(params, grads, steps=2, **options):
    tx, _ = build_optimizer(MUON | options, params, 10)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
    return updates


def test_a_matrix_is_updated_as_by_optax():
    params = {"block": {"kernel": jax.random.normal(jax.random.key(0), (6, 9))}}
    grads = gradients(params)
    theirs = optax.contrib.muon(0.1, weight_decay=0.3, consistent_rms=0.2)
    state = theirs.init(params)
    for _ in range(2):
        wanted, state = theirs.update(grads, state, params)
    found = updates_of(params, grads, weight_decay=0.3)
    np.testing.assert_allclose(
        found["block"]["kernel"], wanted["block"]["kernel"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("attention/query", 1),
        ("attention/key", 1),
        ("attention/value", 1),
        ("attention/out", 2),
        ("mlp/hidden", 1),
        ("mlp/out", 1),
    ],
)
def test_the_update_of_each_kernel_of_a_block_is_one_orthogonal_matrix(name, rows):
    params = vit_params()
    updates = updates_of(params, gradients(params))
    layer, part = name.split("/")
    update = updates["encoder"]["block_01"][layer][part]["kernel"]
    matrix = np.asarray(update).reshape(np.prod(update.shape[:rows]), -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    # The learning rate, the usual size, and the longer side; the iteration of Muon
    # stops at singular values around 1.
    values /= 0.1 * 0.2 * max(matrix.shape) ** 0.5
    assert values.min() > 0.5 and values.max() < 1.3


def test_all_but_hidden_kernels_are_updated_as_by_adamw():
    params = vit_params()
    grads = gradients(params)
    ours = updates_of(params, grads, weight_decay=0.3)
    adamw = updates_of(params, grads, name="adamw", weight_decay=0.3)
    same = {
        name
        for name, a, b in zip(
            tree_paths(params), *map(jax.tree.leaves, (ours, adamw)), strict=True
        )
        if np.array_equal(a, b)
    }
    hidden = {
        name
        for name in tree_paths(params)
        if name.startswith(("encoder/block", "pre_logits")) and "kernel" in name
    }
    assert same == set(tree_paths(params)) - hidden and len(hidden) == 13
    assert {"embedding/kernel", "head/kernel", "class_token"} <= same


@pytest.mark.full
def test_stacked_blocks_are_updated_one_by_one():
    params = vit_params()
    grads = gradients(params)
    found = updates_of(stack_blocks(params), stack_blocks(grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6),
        found,
        stack_blocks(updates_of(params, grads)),
    )


def test_what_pairs_of_attentions_and_two_heads_are():
    name = "encoder/block_00/second_attention/{}/kernel"
    for part in ("query", "key", "value"):
        assert matrix_axes(name.format(part), 3) == ((0,), (1, 2))
    assert matrix_axes(name.format("out"), 3) == ((0, 1), (2,))
    assert matrix_axes("map_head/mlp/out/kernel", 2) == ((0,), (1,))
    for head in ("head", "distillation_head", "patch_head"):
        assert matrix_axes(f"{head}/kernel", 2) is None


def test_convolutions_are_matrices_from_all_inputs_to_the_outputs():
    assert matrix_axes("resnet/stage_1/unit_01/conv2/kernel", 4) == ((0, 1, 2), (3,))
    assert matrix_axes("resnet/root/kernel", 4) is None


def test_the_mlp_of_relative_positions_is_left_to_adam():
    for place in ("", "encoder/block_00/attention/", "encoder/blocks/attention/"):
        assert matrix_axes(f"{place}relative_positions/out/kernel", 2) is None


def test_with_frozen_parameters():
    params = vit_params()
    updates = updates_of(params, gradients(params), freeze=("encoder/block_00",))
    assert not np.any(updates["encoder"]["block_00"]["mlp"]["out"]["kernel"])
    assert np.all(updates["encoder"]["block_01"]["mlp"]["out"]["kernel"])


@pytest.mark.parametrize("axes", [dict(fsdp=4), dict(fsdp=2, tensor=2)])
def test_its_momentum_is_divided_as_the_parameters_are(axes):
    sizes = SIZES | dict(width=64, mlp_dim=128, scan=True)
    model = create_model("ViT-mu/8", num_classes=5, image_size=16, **sizes)
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    tx, _ = build_optimizer(MUON, params, 10)
    state = jax.eval_shape(tx.init, params)
    shape = {name: axes.get(name, 1) for name in sharding.AXES}
    mesh = AbstractMesh(tuple(shape.values()), sharding.AXES)
    placed = sharding.state_shardings(state, params, mesh)
    places = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree.leaves_with_path(placed)
    }
    divided = set()
    for path, leaf in jax.tree.leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if matrix_axes(name, leaf.ndim) is not None:
            (place,) = (places[key] for key in places if key.endswith(f"/mu/{name}"))
            assert place == sharding.param_spec(name, leaf.shape, mesh)
            divided |= set(place)
    assert divided >= set(axes)


def test_momentum_can_be_stored_in_half_precision():
    params = vit_params()
    tx, _ = build_optimizer(MUON | dict(momentum_dtype="bfloat16"), params, 10)
    state = tx.init(params)
    kernels = [x for x in jax.tree.leaves(state) if x.shape == (16, 48)]
    assert len(kernels) == 2 and {x.dtype for x in kernels} == {jnp.dtype("bfloat16")}
