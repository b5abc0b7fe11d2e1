"""Schedules and optimizers against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.training.optim import layer_factors, make_schedule
from vit_jax.training.setup import build_optimizer

OPTIONS = dict(
    name="adamw",
    learning_rate=0.1,
    schedule="constant",
    warmup=0,
    cooldown=0,
    end_learning_rate=0.0,
    weight_decay=0.0,
    clip_norm=0.0,
    momentum=0.9,
    b2=0.999,
    epsilon=1e-8,
    momentum_dtype="float32",
    layer_decay=1.0,
    freeze=(),
)


def params(value=1.0):
    layer = {"kernel": jnp.full((2, 2), value), "bias": jnp.full(2, value)}
    return {
        "embedding": layer,
        "class_token": jnp.full((1, 1, 2), value),
        "distillation_token": jnp.full((1, 1, 2), value),
        "distillation_head": layer,
        "encoder": {"block_00": {"mlp": layer}, "block_01": {"mlp": layer}},
        "head": layer,
    }


def update(grads, *, steps=1, **options):
    """Parameters after some steps with the same gradient, from all ones."""
    tx, _ = build_optimizer(OPTIONS | options, params(), 10)
    current, state = params(), tx.init(params())
    for _ in range(steps):
        updates, state = tx.update(grads, state, current)
        current = optax.apply_updates(current, updates)
    return current, state


def values(schedule, warmup=4, cooldown=0, end=0.0, total=12):
    rate = make_schedule(
        learning_rate=1.0,
        schedule=schedule,
        total_steps=total,
        warmup=warmup,
        cooldown=cooldown,
        end_learning_rate=end,
    )
    return np.array([float(rate(step)) for step in range(total + 1)])


def test_warmup_rises_to_the_peak():
    np.testing.assert_allclose(values("constant")[:5], [0.25, 0.5, 0.75, 1, 1])


def test_decays_end_where_they_should():
    for name in ("linear", "cosine"):
        rates = values(name)
        assert rates.argmax() in (3, 4) and abs(rates[-1]) < 1e-7
        assert (np.diff(rates[4:]) < 0).all()
        assert abs(values(name, end=0.1)[-1] - 0.1) < 1e-6
    np.testing.assert_allclose(values("linear")[8], 0.5)
    np.testing.assert_allclose(values("cosine")[8], 0.5, atol=1e-6)
    np.testing.assert_allclose(values("cosine")[6], (1 + np.cos(np.pi / 4)) / 2)
    np.testing.assert_allclose(values("rsqrt")[12], (4 / 12) ** 0.5, rtol=1e-6)


def test_cooldown_ends_at_zero():
    rates = values("rsqrt", cooldown=4)
    assert rates[-1] == 0
    np.testing.assert_allclose(rates[:9], values("rsqrt")[:9])
    np.testing.assert_allclose(rates[10], values("rsqrt")[10] / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 8, "cooldown": 3}, "do not fit"),
        ({"end": 0.1}, "has no end value"),
    ],
)
def test_schedule_errors(options, message):
    with pytest.raises(ValueError, match=message):
        values(**{"schedule": "constant", "total": 10} | options)


def test_adamw_decays_kernels_only_and_times_the_learning_rate():
    zero = jax.tree.map(jnp.zeros_like, params())
    after, _ = update(zero, weight_decay=0.5)
    for layer in (
        after["embedding"],
        after["encoder"]["block_01"]["mlp"],
        after["head"],
    ):
        np.testing.assert_allclose(layer["kernel"], 1 - 0.1 * 0.5, rtol=1e-6)
        np.testing.assert_array_equal(layer["bias"], 1)
    np.testing.assert_array_equal(after["class_token"], 1)


def test_adamw_equals_optax():
    grads = jax.tree.map(lambda x: 0.3 * x, params())
    after, _ = update(grads, steps=5)
    tx = optax.adamw(0.1, weight_decay=0.0)
    wanted, state = params(), tx.init(params())
    for _ in range(5):
        updates, state = tx.update(grads, state, wanted)
        wanted = optax.apply_updates(wanted, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, wanted
    )


def test_sgd_with_momentum_and_l2_decay():
    grads = jax.tree.map(jnp.ones_like, params())
    after, _ = update(grads, name="sgd", steps=2)
    np.testing.assert_allclose(after["head"]["bias"], 1 - 0.1 * (1 + 1.9), rtol=1e-6)
    after, _ = update(grads, name="sgd", weight_decay=0.5)
    np.testing.assert_allclose(after["head"]["kernel"], 1 - 0.1 * 1.5, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    grads = params(100.0)
    after, _ = update(grads, name="sgd", clip_norm=1.0)
    moved = jax.tree.map(lambda x: x - 1.0, after)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.1, rtol=1e-5)


def test_layer_decay_slows_lower_layers():
    grads = jax.tree.map(jnp.ones_like, params())
    after, _ = update(grads, name="sgd", layer_decay=0.5)
    moved = jax.tree.map(lambda x: float(1 - x.ravel()[0]), after)
    assert moved["head"]["bias"] == pytest.approx(0.1, rel=1e-5)
    blocks = moved["encoder"]
    assert blocks["block_01"]["mlp"]["kernel"] == pytest.approx(0.05, rel=1e-5)
    assert blocks["block_00"]["mlp"]["kernel"] == pytest.approx(0.025, rel=1e-5)
    assert moved["embedding"]["kernel"] == pytest.approx(0.0125, rel=1e-5)
    for token in ("class_token", "distillation_token"):
        assert moved[token] == pytest.approx(0.0125, rel=1e-5)
    assert moved["distillation_head"] == moved["head"]


def test_layer_decay_of_a_hybrid_and_of_a_network_without_blocks():
    tree = params() | {"resnet": {"root": {"kernel": jnp.ones((2, 2))}}}
    factors = layer_factors(tree, 0.5)
    assert factors["resnet/root/kernel"] == factors["embedding/kernel"] == 0.125
    shared = params() | {"relative_positions": {"offsets": jnp.ones((3, 3, 2))}}
    assert layer_factors(shared, 0.5)["relative_positions/offsets"] == 0.125
    with pytest.raises(ValueError, match="layer_decay=0.5 is for models with"):
        layer_factors({"resnet": tree["resnet"], "head": tree["head"]}, 0.5)


def test_frozen_parameters_stay_and_hold_no_state():
    grads = jax.tree.map(jnp.ones_like, params())
    freeze = ("embedding", "encoder/block_00")
    after, state = update(grads, freeze=freeze, weight_decay=0.5, layer_decay=0.5)
    for layer in (after["embedding"], after["encoder"]["block_00"]["mlp"]):
        np.testing.assert_array_equal(layer["kernel"], 1)
    assert (after["head"]["kernel"] < 1).all()
    _, full = update(grads)
    assert len(jax.tree.leaves(state)) <= len(jax.tree.leaves(full)) - 2 * 4


def test_momentum_can_be_stored_in_half_precision():
    _, state = update(params(), momentum_dtype="bfloat16")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert jnp.dtype("bfloat16") in dtypes and jnp.dtype("float32") in dtypes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": ("stem",)}, "'stem', which matches no parameter"),
        ({"freeze": (".*",)}, "leaves no parameter to train"),
    ],
)
def test_optimizer_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(OPTIONS | options, params(), 10)


def test_staircase_falls_to_a_tenth_at_shares_of_the_run():
    rate = make_schedule(
        learning_rate=1.0,
        schedule="staircase",
        total_steps=100,
        warmup=10,
        milestones=(0.3, 0.6, 0.9),
    )
    steps = [0, 9, 10, 29, 30, 59, 60, 89, 90, 99]
    wanted = [0.1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3]
    np.testing.assert_allclose([rate(step) for step in steps], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "milestones"),
    [("staircase", ()), ("cosine", (0.5,)), ("staircase", (0.6, 0.3))],
)
def test_milestones_are_checked(schedule, milestones):
    options = dict(learning_rate=1.0, total_steps=10, warmup=0)
    with pytest.raises(ValueError, match="needs shares of the run such as"):
        make_schedule(schedule=schedule, milestones=milestones, **options)


def test_lamb_scales_kernels_to_their_own_norm():
    grads = jax.tree.map(jnp.ones_like, params())
    after, _ = update(grads, name="lamb")
    moved = jax.tree.map(lambda x: 1 - x, after)
    # Adam's first update is 1 in each element, as the parameters are.
    np.testing.assert_allclose(moved["head"]["kernel"], 0.1, rtol=1e-5)
    tree = {"a": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}}
    tree["zero"] = {"kernel": jnp.zeros((2, 2))}
    grads = jax.tree.map(jnp.ones_like, tree)
    tx, _ = build_optimizer(OPTIONS | dict(name="lamb", weight_decay=0.5), tree, 10)
    updates, _ = tx.update(grads, tx.init(tree), tree)
    # (1 + 0.5 * 3) in each of 4 elements, scaled to the norm 6 of the kernel.
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * 3, rtol=1e-5)
    # What has no decay, and what is zero, moves as with Adam.
    np.testing.assert_allclose(updates["a"]["bias"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["zero"]["kernel"], -0.1, rtol=1e-5)


def test_lamb_equals_optax_on_kernels():
    keys = jax.random.split(jax.random.key(0), 2)
    tree = {"head": {"kernel": jax.random.normal(keys[0], (3, 4))}}
    grads = {"head": {"kernel": jax.random.normal(keys[1], (3, 4))}}
    ours, _ = build_optimizer(OPTIONS | dict(name="lamb", weight_decay=0.1), tree, 10)
    theirs = optax.lamb(0.1, eps=1e-8, weight_decay=0.1)
    states = [tx.init(tree) for tx in (ours, theirs)]
    for _ in range(3):
        pairs = [
            tx.update(grads, state, tree)
            for tx, state in zip((ours, theirs), states, strict=True)
        ]
        (found, wanted), states = zip(*pairs, strict=True)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, wanted
        )
        tree = optax.apply_updates(tree, found)


def test_lamb_scales_stacked_blocks_one_by_one():
    kernels = jax.random.normal(jax.random.key(0), (2, 3, 4))
    kernels = kernels * jnp.array([1.0, 10.0]).reshape(2, 1, 1)
    grads = jax.random.normal(jax.random.key(1), (2, 3, 4))
    options = OPTIONS | dict(name="lamb", weight_decay=0.1)

    def step(parameters, gradients):
        tx, _ = build_optimizer(options, parameters, 10)
        return tx.update(gradients, tx.init(parameters), parameters)[0]

    def tree(stack):
        return {"encoder": {"blocks": {"mlp": {"kernel": stack}}}}

    stacked = step(tree(kernels), tree(grads))["encoder"]["blocks"]["mlp"]["kernel"]
    for i in range(2):
        alone = step({"a": {"kernel": kernels[i]}}, {"a": {"kernel": grads[i]}})
        np.testing.assert_allclose(stacked[i], alone["a"]["kernel"], rtol=1e-5)


def test_lamb_with_frozen_parameters():
    grads = jax.tree.map(jnp.ones_like, params())
    after, _ = update(grads, name="lamb", freeze=("encoder",))
    kernel = after["encoder"]["block_00"]["mlp"]["kernel"]
    np.testing.assert_array_equal(kernel, 1)
    assert (after["head"]["kernel"] < 1).all()
