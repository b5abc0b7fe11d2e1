"""Scanned and rematerialised encoders: the same numbers, another layout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vit_jax
from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, init_params
from vit_jax.models.depth import scanned, stack_blocks, unrolled, unstack_blocks
from vit_jax.parallel.sharding import abstract, make_mesh, state_shardings
from vit_jax.storage.run_files import read_metrics
from vit_jax.training import loop
from vit_jax.training.initial_weights import initial_params
from vit_jax.training.optim import layer_factors, make_optimizer

SIZES = {"num_classes": 5, "image_size": 16, "depth": 3, "width": 32, "num_heads": 2}
# What differs from block to block, or is shared by all.
KINDS = (
    {},
    {"positions_at": "every_layer"},
    {"positions_at": "shared"},
    {"positions": "relative2d", "layer_scale_init": 0.1},
    {"attention": "axial", "pooling": "gap"},
)


def tiny(**options):
    return create_model("ViT-Ti/8", mlp_dim=64, dtype="float32", **SIZES, **options)


def random_params(model):
    """No zero head: it would hide the encoder's gradients."""
    params = init_params(unrolled(model), jax.random.key(0))
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    return params


def loss_and_gradient(model, params):
    images = jnp.linspace(-1, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)

    def loss(params):
        key = {"dropout": jax.random.key(2)}
        logits, _ = model.apply({"params": params}, images, train=True, rngs=key)
        return (logits**2).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_close(first, second, rtol=1e-6):
    """Relative to the largest of all: gradients of key biases are rounding alone."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(second))
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_allclose(a, b, atol=rtol * largest, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_scanned_model_computes_the_same(options, remat):
    plain = tiny(**options)
    scanned = tiny(scan=True, remat=remat, **options)
    params = random_params(plain)
    loss, gradient = loss_and_gradient(plain, params)
    stacked = stack_blocks(params)
    assert stacked["encoder"].keys() == {"blocks", "norm"}
    scanned_loss, scanned_gradient = loss_and_gradient(scanned, stacked)
    np.testing.assert_allclose(scanned_loss, loss, rtol=1e-6)
    assert_close(unstack_blocks(scanned_gradient), gradient)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_number_and_keeps_less(remat):
    """Dropout and stochastic depth too: what is drawn again is drawn the same."""
    options = {"dropout_rate": 0.1, "stochastic_depth_rate": 0.5}
    plain, again = tiny(**options), tiny(remat=remat, **options)
    params = random_params(plain)
    loss, gradient = loss_and_gradient(plain, params)
    again_loss, again_gradient = loss_and_gradient(again, params)
    np.testing.assert_allclose(again_loss, loss, rtol=1e-6)
    assert_close(again_gradient, gradient)

    def kept(model):
        def apply(params):
            key = {"dropout": jax.random.key(2)}
            images = jnp.zeros((2, 16, 16, 3))
            return model.apply({"params": params}, images, train=True, rngs=key)[0]

        # What the backward pass is given: residuals are the leaves of its closure.
        _, backward = jax.vjp(apply, params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(again) < 0.8 * kept(plain)


@pytest.mark.full
def test_stochastic_depth_of_a_scanned_model_grows_with_the_depth():
    """At rate 1 - 1e-6 in the last block, only that one is dropped for certain."""
    params = random_params(tiny())
    scanned = tiny(scan=True, stochastic_depth_rate=1 - 1e-6)
    outputs = []
    for key in range(8):
        logits, _ = scanned.apply(
            {"params": stack_blocks(params)},
            jnp.ones((1, 16, 16, 3)),
            train=True,
            rngs={"dropout": jax.random.key(key)},
        )
        outputs.append(np.asarray(logits))
    # The middle block is kept or dropped, with rate 1/2: attention and MLP, 4 cases.
    distinct = {tuple(np.round(x.ravel(), 3)) for x in outputs}
    assert 2 <= len(distinct) <= 4


@pytest.mark.parametrize("scan", [False, True])
def test_uniform_stochastic_depth_drops_in_every_block(scan):
    """At rate 1 - 1e-6 nothing is left of any block, at once and for every key."""
    params = random_params(tiny())
    images = jax.random.uniform(jax.random.key(5), (2, 16, 16, 3))

    def logits(**options):
        model = tiny(scan=scan, stochastic_depth_rate=1 - 1e-6, **options)
        weights = stack_blocks(params) if scan else params
        keys = {"dropout": jax.random.key(0)}
        return model.apply({"params": weights}, images, train=True, rngs=keys)[0]

    without = jax.tree.map(jnp.zeros_like, params["encoder"]["block_00"])
    params["encoder"] |= {f"block_{i:02d}": without for i in (1, 2)}
    no_blocks = {**params["encoder"], "block_00": without}
    wanted, _ = tiny().apply(
        {"params": {**params, "encoder": no_blocks}}, images, train=False
    )
    np.testing.assert_allclose(
        logits(stochastic_depth_uniform=True), wanted, rtol=1e-5, atol=1e-5
    )
    # Where the rate grows from 0, the first block stays.
    assert not np.allclose(logits(), wanted, atol=1e-2)


def test_initial_values_do_not_depend_on_the_scan():
    stacked = init_params(tiny(scan=True), jax.random.key(3))
    plain = init_params(tiny(), jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), plain)


def test_stacking_is_undone_also_in_optimizer_states():
    params = random_params(tiny())
    state = optax.adamw(1e-3).init(params)
    stacked = stack_blocks({"params": params, "opt_state": state})
    assert stacked["opt_state"][0].mu["encoder"]["blocks"]["mlp_norm"]["scale"].shape
    back = unstack_blocks(stacked)
    jax.tree.map(np.testing.assert_array_equal, back["params"], params)
    assert jax.tree.structure(back["opt_state"]) == jax.tree.structure(state)


def test_blocks_are_stacked_by_number():
    encoder = {f"block_{i:02d}": {"x": np.full(1, i)} for i in reversed(range(102))}
    stacked = stack_blocks({"encoder": encoder})
    np.testing.assert_array_equal(stacked["encoder"]["blocks"]["x"][:, 0], range(102))
    assert unstack_blocks(stacked)["encoder"].keys() == encoder.keys()


def test_wrong_use_is_refused():
    model = tiny(scan=True)
    params = init_params(model, jax.random.key(0))
    images = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match="no attention: use scan=False"):
        model.apply({"params": params}, images, train=False, return_attention=True)
    with pytest.raises(
        ValueError, match="remat is 'some': wanted one of none, full, dots"
    ):
        init_and_apply = tiny(remat="some")
        init_and_apply.init(jax.random.key(0), images, train=False)


def test_a_scanned_model_is_saved_and_loaded(tmp_path):
    """Files of other projects have blocks; `load` stacks them again if asked to."""
    model = tiny(scan=True)
    params = stack_blocks(random_params(model))
    vit_jax.save(tmp_path / "vit.npz", model, params, layout="google")
    loaded = vit_jax.load(tmp_path / "vit.npz", scan=True)
    assert loaded[0].scan
    jax.tree.map(np.testing.assert_array_equal, loaded[1], params)
    plain, blocks = vit_jax.load(tmp_path / "vit.npz")
    assert not plain.scan and "block_02" in blocks["encoder"]
    mixer = create_model("Mixer-S/16", num_classes=0)
    with pytest.raises(ValueError, match="a Mixer cannot be scanned: leave out scan"):
        scanned(mixer, {})


def test_layer_decay_of_stacked_blocks():
    params = random_params(tiny())
    plain, stacked = (layer_factors(p, 0.5) for p in (params, stack_blocks(params)))
    name = "mlp/hidden/kernel"
    expected = [plain[f"encoder/block_{i:02d}/{name}"] for i in range(3)]
    assert stacked[f"encoder/blocks/{name}"] == expected == [0.125, 0.25, 0.5]
    assert plain["head/kernel"] == stacked["head/kernel"] == 1
    assert plain["embedding/kernel"] == stacked["embedding/kernel"] == 0.0625

    def updates(params):
        optimizer = make_optimizer(
            params,
            lambda _: 1.0,
            name="sgd",
            weight_decay=0.0,
            clip_norm=0.0,
            momentum=0.0,
            b2=0.9,
            epsilon=0.0,
            momentum_dtype="float32",
            layer_decay=0.5,
            freeze=(),
        )
        return optimizer.update(params, optimizer.init(params), params)[0]

    assert_close(unstack_blocks(updates(stack_blocks(params))), updates(params))


@pytest.mark.full
def test_a_scanned_run_is_the_same_run(tiny_run_config, tmp_path):
    """Begun unrolled, continued scanned, ended unrolled: the checkpoint is restacked.

    Everything that reads the run gets blocks.
    """
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    loop.train(tiny_run_config(), whole)
    stages = (("scan=false", 2), ("scan=true", 4), ("scan=false", 6))
    for scan, steps in stages:
        # The schedule is constant, so that a shorter run is the beginning of another.
        config = tiny_run_config(f"model.{scan}", f"train.duration={steps}steps")
        loop.train(config, mixed, allow_config_change=True)
        if scan == "scan=true":
            model, params = vit_jax.load(mixed)
            assert not model.scan and "block_01" in params["encoder"]
            # A scanned model starts from a run that is read as unrolled.
            target = model.clone(scan=True)
            shapes = jax.eval_shape(partial(init_params, target), jax.random.key(5))
            mesh = make_mesh(data=1, fsdp=1, tensor=1)
            shapes = abstract(shapes, state_shardings(shapes, shapes, mesh))
            names = load_trained(mixed).label_names
            drawn = {"seed": 0, "resample": "auto"}
            started = initial_params(target, shapes, str(mixed), names, **drawn)
            assert_close(unstack_blocks(started), params, rtol=0)
    # Adam amplifies rounding where gradients are near zero.
    assert_close(load_trained(mixed).params, load_trained(whole).params, rtol=1e-4)
    averages = (load_trained(folder, ema=True).params for folder in (mixed, whole))
    assert_close(*averages, rtol=1e-4)
    rows = read_metrics(mixed / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"][-1] == 6


@pytest.fixture
def tiny_run_config():
    from vit_jax.config_file import read_config

    def config(*overrides):
        texts = (
            *("model.depth=2", "model.width=32", "model.mlp_dim=64"),
            *("data.batch_size=32", "train.duration=6steps", "train.ema_decay=0.9"),
            *("optim.schedule=constant", "optim.warmup=0steps", "eval.every=100%"),
            *("checkpoint.every=2steps", "log.every=1steps", "log.tensorboard=false"),
            *("model.dropout_rate=0", "model.stochastic_depth_rate=0", *overrides),
        )
        return read_config("configs/digits.py", [f"--config.{text}" for text in texts])

    return config
