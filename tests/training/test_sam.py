"""Sharpness-aware minimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.training.guard import Guard
from vit_jax.training.step import (
    Objective,
    initial_state,
    make_train_step,
    named_keys,
    sharpness_aware,
)

CURVATURE = jnp.array([1.0, 4.0])


def quadratic(params, *_):
    """w'Aw / 2, whose gradient is Aw; beside it, a parameter of another shape."""
    loss = (CURVATURE * params["w"] ** 2).sum() / 2 + 3 * params["b"]
    return loss, jnp.float32(0)


def test_a_quadratic_by_hand():
    params = {"w": jnp.array([4.0, 1.0]), "b": jnp.float32(0)}
    gradient = jax.value_and_grad(quadratic, has_aux=True)
    (loss, _), grads = sharpness_aware(gradient, 0.5)(params)
    # g = (4, 4, 3) with norm sqrt(41); w + rho g / |g|, times the curvature.
    step = 0.5 * 4 / np.sqrt(41)
    np.testing.assert_allclose(grads["w"], [4 + step, 4 + 4 * step], rtol=1e-6)
    assert grads["b"] == 3 and loss == pytest.approx(10)


def test_without_radius_it_is_the_gradient_itself():
    gradient = jax.value_and_grad(quadratic, has_aux=True)
    assert sharpness_aware(gradient, 0.0) is gradient
    params = {"w": jnp.array([4.0, 1.0]), "b": jnp.float32(0)}
    plain, near = gradient(params)[1], sharpness_aware(gradient, 1e-5)(params)[1]
    np.testing.assert_allclose(near["w"], plain["w"], atol=1e-4)


def test_a_gradient_of_zero_stays_zero():
    def flat(params):
        return (params["w"] ** 2).sum(), jnp.float32(0)

    gradient = sharpness_aware(jax.value_and_grad(flat, has_aux=True), 0.5)
    assert not gradient({"w": jnp.zeros(2)})[1]["w"].any()


def make_step(objective, **options):
    settings = {"accumulate_steps": 1, "gradient_dtype": "float32", "sam_rho": 0.0}
    return make_train_step(
        objective,
        optax.sgd(1.0),
        optax.constant_schedule(1.0),
        Guard(policy="skip", spike=0.0, max_faults=5),
        ema_decay=0.0,
        ema_ramp=True,
        **(settings | options),
    )


def noisy_objective():
    """Two layers; prepared with noise, half of the hidden units dropped."""

    def prepare(batch, keys):
        images = batch["image"]
        return images + jax.random.normal(keys.mix, images.shape), batch["label"]

    def loss(params, images, labels, key):
        hidden = jnp.tanh(images @ params["first"])
        hidden = hidden * jax.random.bernoulli(key, shape=hidden.shape)
        error = (hidden @ params["second"]).astype(jnp.float32) - labels
        return (error**2).mean(), jnp.float32(0)

    return Objective(prepare, loss)


def moved(**options):
    """What one step subtracts from the parameters, as one vector."""
    keys = jax.random.split(jax.random.key(1), 4)
    params = {
        "first": jax.random.normal(keys[0], (16, 64)),
        "second": jax.random.normal(keys[1], (64, 4)),
    }
    batch = {
        "image": jax.random.normal(keys[2], (8, 16)),
        "label": jax.random.normal(keys[3], (8, 4)),
    }
    state = initial_state(params, optax.sgd(1.0), average=False)
    step = jax.jit(make_step(noisy_objective(), **options))
    after, _ = step(state, batch, named_keys(0))
    change = jax.tree.map(jnp.subtract, params, after.params)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(change)])


def test_the_second_gradient_sees_the_same_batch_and_keys():
    """With a tiny radius the step is the plain one, for all the noise."""
    plain, near, far = (moved(sam_rho=rho) for rho in (0.0, 1e-4, 0.2))
    largest = np.abs(plain).max()
    assert np.abs(plain - near).max() < 1e-3 * largest
    assert np.abs(plain - far).max() > 1e-2 * largest


def test_bfloat16_rounds_after_the_perturbation():
    """In [1, 2) its steps are 1/128: 1.003 alone is 1, and 1.003 + 0.002 the next."""

    def loss(params, *_):
        return params["w"].astype(jnp.float32) ** 2 / 2, jnp.float32(0)

    objective = Objective(lambda batch, _: (batch["image"], batch["label"]), loss)
    batch = {"image": jnp.zeros(1), "label": jnp.zeros(1)}
    state = initial_state({"w": jnp.float32(1.003)}, optax.sgd(1.0), average=False)
    # Not compiled: that may leave out the rounding.
    step = make_step(objective, gradient_dtype="bfloat16", sam_rho=0.002)
    after, _ = step(state, batch, named_keys(0))
    assert after.params["w"].dtype == jnp.float32
    assert after.params["w"] == pytest.approx(1.003 - (1 + 1 / 128), abs=1e-6)


def test_pieces_are_perturbed_each_by_its_own_gradient():
    """m-sharpness: the mean over pieces of what each of them gives alone."""

    def prepare(batch, _):
        return batch["image"], batch["label"]

    def loss(params, images, labels, _):
        error = images @ params["w"] - labels
        return (error**2).mean(), jnp.float32(0)

    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(4, 2)), "label": rng.normal(size=4)}
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), batch)
    params = {"w": jnp.array([1.0, -1.0])}
    state = initial_state(params, optax.sgd(1.0), average=False)
    step = make_step(Objective(prepare, loss), accumulate_steps=2, sam_rho=0.5)
    after, _ = step(state, batch, named_keys(0))

    def gradient(w, rows):
        x, y = batch["image"][rows], batch["label"][rows]
        return 2 * x.T @ (x @ w - y) / len(rows)

    grads = []
    for rows in (np.array([0, 2]), np.array([1, 3])):
        first = gradient(params["w"], rows)
        grads.append(gradient(params["w"] + 0.5 * first / jnp.linalg.norm(first), rows))
    expected = params["w"] - (grads[0] + grads[1]) / 2
    np.testing.assert_allclose(after.params["w"], expected, rtol=1e-5)


def test_the_guard_sees_a_fault_of_the_second_gradient():
    def loss(params, *_):
        return params["w"] + 0 * jnp.sqrt(1.2 - params["w"]), jnp.float32(0)

    objective = Objective(lambda batch, _: (batch["image"], batch["label"]), loss)
    state = initial_state({"w": jnp.float32(1)}, optax.sgd(1.0), average=False)
    batch = {"image": jnp.zeros(1), "label": jnp.zeros(1)}
    after, metrics = make_step(objective, sam_rho=0.5)(state, batch, named_keys(0))
    assert np.isfinite(metrics["loss"]) and metrics["fault"]
    assert after.params["w"] == 1 and after.step == 1 and after.skipped == 1
