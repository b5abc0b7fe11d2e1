"""Masked patch prediction: targets, corruption, loss, and runs that start from one."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vit_jax
from configs import base, digits
from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, init_params
from vit_jax.training import loop
from vit_jax.training.guard import Guard
from vit_jax.training.masked_patch import (
    MaskedPatch,
    colour_class,
    corruption,
    masked_patch,
)
from vit_jax.training.objectives import make_objective
from vit_jax.training.step import initial_state, make_train_step, named_keys

TARGETS = ("mean_colour", "downscaled", "pixels")


def tiny(**options):
    """A model of 16 patches of 4 pixels."""
    options = {"image_size": 16, "num_classes": 10, "dtype": "float32"} | options
    return create_model("ViT-mu/4", **options)


def random_batch(number=8):
    pixels = np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3), np.uint8)
    return {"image": jnp.array(pixels), "label": jnp.zeros(number, jnp.int32)}


def test_a_colour_class_is_the_upper_three_bits_of_each_channel():
    colours = [[0, 0, 0], [255, 255, 255], [31, 32, 255], [96.0, 95.9, 0], [255, 0, 0]]
    expected = [0, 511, 0 + 8 + 7, 3 * 64 + 2 * 8, 7 * 64]
    assert colour_class(jnp.array(colours)).tolist() == expected


def test_targets_of_known_patches():
    """Patch 0 is black; patch 1 is half 0 and half 255, its mean 127.5, level 3."""
    images = np.zeros((1, 16, 16, 3), np.uint8)
    images[0, :4, 6:8] = 255
    images[0, 4:8, :4, 2] = 64  # patch 4, one row below: blue level 2
    images = jnp.array(images)
    mean = MaskedPatch(tiny(), "mean_colour", 0.5).answers(images)
    assert mean.shape == (1, 16, 1)
    assert mean[0, :5, 0].tolist() == [0, 3 * 64 + 3 * 8 + 3, 0, 0, 2]
    cells = MaskedPatch(tiny(), "downscaled", 0.5).answers(images)
    assert cells[0, 1].tolist() == [0, 0, 511, 511] * 4
    pixels = MaskedPatch(tiny(), "pixels", 0.5).answers(images)
    assert pixels[0, 1].tolist() == ([-1.0] * 6 + [1.0] * 6) * 4


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_shares_of_the_corruption(rate):
    """So many of each image exactly; of them 80, 10 and 10 % within five sigma."""
    images, patches = 4000, 20
    number = round(rate * patches)
    keys = jax.random.split(jax.random.key(0), images)
    draw = jax.vmap(lambda key: corruption(key, patches, number))
    sources, corrupted = map(np.asarray, draw(keys))
    assert (corrupted.sum(1) == number).all()
    own = np.broadcast_to(np.arange(patches), sources.shape)
    assert (sources == own)[~corrupted].all()
    shares = corrupted.mean(0)
    assert np.abs(shares - rate).max() < 5 * np.sqrt(rate * (1 - rate) / images)
    chosen, own = sources[corrupted], own[corrupted]
    masked, kept = chosen == patches, chosen == own
    for found, share in ((masked, 0.8), (kept, 0.1), (~masked & ~kept, 0.1)):
        sigma = np.sqrt(share * (1 - share) / len(chosen))
        assert abs(found.mean() - share) < 5 * sigma
    others = np.bincount((chosen - own)[~masked & ~kept] % patches, minlength=patches)
    assert others[0] == 0 and others[1:].min() > 0.5 * others[1:].mean()


def test_corrupted_embeddings_are_those_of_their_sources():
    model = tiny(patch_outputs=512)
    params = init_params(model, jax.random.key(0))
    params["positions"]["embedding"] = jnp.zeros_like(params["positions"]["embedding"])
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    sources = jnp.tile(jnp.arange(16), (2, 1)).at[1, 3].set(16).at[1, 5].set(9)
    _, plain = model.apply({"params": params}, images, train=False)
    _, out = model.apply({"params": params}, images, train=False, patch_sources=sources)
    before, after = plain["embedded"][:, 1:], np.asarray(out["embedded"][:, 1:])
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[1, 3], params["mask_token"][0, 0])
    np.testing.assert_array_equal(after[1, 5], before[1, 9])
    others = [i for i in range(16) if i not in (3, 5)]
    np.testing.assert_array_equal(after[1, others], before[1, others])
    assert out["patches"].shape == (2, 16, 512)


def test_nothing_is_added_to_a_model_without():
    assert "mask_token" not in init_params(tiny(), jax.random.key(0))
    with pytest.raises(ValueError, match="patch_sources needs a model with"):
        tiny().init(
            jax.random.key(0),
            jnp.zeros((1, 16, 16, 3)),
            train=False,
            patch_sources=jnp.zeros((1, 16), jnp.int32),
        )


@pytest.mark.parametrize("target", TARGETS)
def test_only_corrupted_patches_count(target):
    model, _, _ = masked_patch(tiny(), target, 0.5)
    task = MaskedPatch(model, target, 0.5)
    answers = task.answers(random_batch(2)["image"])
    corrupted = jnp.zeros((2, 16), bool).at[0, 3].set(True).at[1, :2].set(True)
    outputs = jax.random.normal(jax.random.key(0), (2, 16, task.outputs))
    changed = outputs + 9 * ~corrupted[..., None] * outputs[:, ::-1]
    scores = task.scores(outputs, answers, corrupted)
    np.testing.assert_array_equal(scores, task.scores(changed, answers, corrupted))
    changed = outputs.at[0, 3].add(outputs[0, 4])
    assert task.scores(changed, answers, corrupted)[0][0] != scores[0][0]


def test_loss_and_accuracy_by_hand():
    model = tiny()
    corrupted = jnp.zeros((1, 16), bool).at[0, :2].set(True)
    task = MaskedPatch(model, "mean_colour", 0.5)
    logits = jnp.zeros((1, 16, 512)).at[0, 0, 7].set(jnp.log(512.0))
    answers = jnp.full((1, 16, 1), 7)
    loss, accuracy = task.scores(logits, answers, corrupted)
    # Patch 0: 512 / (512 + 511); patch 1: uniform, whose first class is 0 and not 7.
    expected = (np.log(1023 / 512) + np.log(512)) / 2
    assert loss[0] == pytest.approx(expected, rel=1e-5) and accuracy[0] == 0.5
    task = MaskedPatch(model, "pixels", 0.5)
    answers = jnp.ones((1, 16, 48))
    loss, accuracy = task.scores(answers.at[0, 1].add(-0.5), answers, corrupted)
    assert loss[0] == pytest.approx(0.125) and accuracy[0] == 0.5


def make_step(target="mean_colour", accumulate_steps=1, **options):
    model, objective, eval_step = masked_patch(tiny(**options), target, 0.5)
    optimizer = optax.adam(3e-3)
    step = make_train_step(
        objective,
        optimizer,
        optax.constant_schedule(3e-3),
        Guard(policy="stop", spike=0.0, max_faults=0),
        accumulate_steps=accumulate_steps,
        ema_decay=0.0,
        ema_ramp=True,
        gradient_dtype="float32",
        sam_rho=0.0,
    )

    def start(seed):
        keys = named_keys(seed)
        params = init_params(model, keys.params)
        return initial_state(params, optimizer, average=False), keys

    return step, start, eval_step


@pytest.fixture(scope="module")
def plain():
    step, start, eval_step = make_step()
    return step, jax.jit(step), start, jax.jit(eval_step)


def test_accumulation_and_scan_change_nothing(plain):
    batch = random_batch()
    results = []
    other, begin, _ = make_step(accumulate_steps=4, scan=True)
    for step, start in (plain[1:3], (jax.jit(other), begin)):
        state, keys = start(0)
        for _ in range(2):
            state, metrics = step(state, batch, keys)
        results.append((metrics["loss"], state.params["mask_token"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


@pytest.mark.full
def test_seeds_side_by_side_are_the_seeds_one_by_one(plain):
    batch = random_batch()
    step, one, start, _ = plain
    pairs = [start(0), start(1)]
    states, keys = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
    many = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))
    both, metrics = many(states, batch, keys)
    assert metrics["loss"].shape == (2,)
    alone, _ = one(pairs[1][0], batch, pairs[1][1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[1], atol=1e-5),
        alone.params,
        both.params,
    )


def test_evaluation_does_not_depend_on_the_batches(plain):
    """Each example keeps its corruption, and padding does not count."""
    *_, start, eval_step = plain
    params = start(0)[0].params
    params["patch_head"]["kernel"] = jax.random.normal(jax.random.key(0), (32, 512))
    batch = random_batch(8) | {"index": jnp.arange(8), "mask": jnp.ones(8, bool)}
    order = jnp.array([6, 1, 7, 0, 3, 2, 5, 4])
    shuffled = {name: x[order] for name, x in batch.items()}
    whole, other = eval_step(params, batch), eval_step(params, shuffled)
    for name in ("count", "loss", "accuracy"):
        assert whole[name] == pytest.approx(float(other[name]), rel=1e-5)
    low, high = (
        eval_step(params, batch | {"mask": mask})
        for mask in (jnp.arange(8) < 4, jnp.arange(8) >= 4)
    )
    assert low["count"] == 4
    assert low["loss"] + high["loss"] == pytest.approx(float(whole["loss"]), rel=1e-5)
    moved = eval_step(params, batch | {"index": jnp.arange(8) + 1})
    assert abs(moved["loss"] - whole["loss"]) > 1e-3


def config(duration="30steps", **objective):
    """Masked patches of digits of 8 x 8 pixels, 2 x 2 a patch."""
    config = digits.get_config()
    config.model.update(name="ViT-mu/4", depth=1, width=32, mlp_dim=64, num_heads=2)
    config.objective.update({"name": "masked_patch"} | objective)
    config.data.batch_size = 64
    config.optim.update(warmup="0steps", learning_rate=5e-3, schedule="constant")
    config.train.duration = duration
    config.eval.update(every="1000steps", batch_size=512)
    config.checkpoint.every = "20steps"
    config.log.tensorboard = False
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    results = loop.train(config(), folder)
    return folder, results["test"]


def test_a_run_learns(run):
    _, metrics = run
    assert metrics["count"] == 359
    # log 512 = 6.24 at first.
    assert metrics["loss"] < 3 and metrics["accuracy"] > 0.2


def test_a_run_that_goes_on_ends_with_the_same_bits(run, tmp_path):
    folder, _ = run
    shutil.copy(folder / "config.json", tmp_path)
    shutil.copytree(folder / "checkpoints" / "20", tmp_path / "checkpoints" / "20")
    loop.train(config(), tmp_path)
    assert (tmp_path / "checkpoints" / "30").exists()
    runs = [load_trained(path).params for path in (folder, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_a_loaded_run_is_its_encoder(run):
    model, params = vit_jax.load(run[0])[:2]
    assert model.num_classes == 0 and model.patch_outputs == 0
    assert set(params) == {"class_token", "embedding", "encoder", "positions"}
    _, out = model.apply({"params": params}, jnp.zeros((1, 16, 16, 3)), train=False)
    assert out["encoded"].shape == (1, 17, 32)


def test_fine_tuning_keeps_the_encoder_and_gets_a_zero_head(run, tmp_path):
    fine = config("1steps", name="classification")
    fine.init = str(run[0])
    fine.optim.learning_rate = 0.0
    loop.train(fine, tmp_path)
    here, there = load_trained(tmp_path).params, load_trained(run[0]).params
    assert not here.pop("head")["kernel"].any()
    jax.tree.map(np.testing.assert_array_equal, here, there)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("BiT-R26x1", {}, "and the model is a ResNet: take a ViT"),
        ("Mixer-S/16", {}, "and the model is a Mixer: take a ViT"),
        ("ViT-mu/2", {"target": "downscaled"}, "its side is 2 pixels"),
        ("ViT-mu/4", {"corrupt_rate": 0.01}, "share of the 16 patches, at least one"),
        ("ViT-mu/4", {"mixup_alpha": 0.2}, "to which mix.mixup_alpha could apply"),
        ("ViT-mu/4", {"label_smoothing": 0.1}, "but it is 0.1: set it to 0"),
        ("ViT-mu/4", {"round_up": True}, "loss.round_up could apply"),
    ],
)
def test_what_cannot_be_trained_so(name, options, message):
    config = base.get_config()
    sections = config.loss, config.mix, config.objective
    config.objective.name = "masked_patch"
    for key, value in options.items():
        # `name` is in two sections: here that of the objective.
        section = next(s for s in reversed(sections) if key in s)
        section[key] = value
    model = create_model(name, num_classes=10, image_size=16)
    with pytest.raises(ValueError, match=message):
        make_objective(model, config.loss, config.mix, **config.objective)
