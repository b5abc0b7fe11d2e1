"""Training: the step's mathematics, the run's promises."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import vit_jax
from benchmarks import exact_resume, killed_training
from vit_jax.checkpoints import integrity
from vit_jax.config import ConfigError
from vit_jax.config_file import read_config
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.interop.trained import load_trained
from vit_jax.losses import make_loss
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import normalize
from vit_jax.storage.run_files import read_metrics
from vit_jax.training import loop, step
from vit_jax.training.guard import FaultyStep, Guard

TINY = (
    "model.depth=1",
    "model.width=32",
    "model.mlp_dim=64",
    "data.batch_size=32",
    "train.duration=6steps",
    "eval.every=3steps",
    "checkpoint.every=2steps",
    "log.every=1steps",
    "log.tensorboard=false",
)


def tiny_config(*overrides: str):
    overrides = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", overrides)


def final_params(workdir):
    return jax.tree.map(np.asarray, load_trained(workdir).params)


def assert_same_bits(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


# --- the step ---


@pytest.fixture(scope="module")
def step_parts():
    model = create_model(
        "ViT-mu/4", num_classes=10, image_size=8, dropout_rate=0.1, dtype="float32"
    )
    keys = step.named_keys(0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    batch = {"image": jnp.array(pixels), "label": jnp.arange(8)}
    return model, keys, batch


def make_step(
    model,
    optimizer,
    *,
    accumulate_steps=1,
    ema_decay=0.0,
    ema_ramp=True,
    mixup_alpha=0.0,
    gradient_dtype="float32",
    guard=None,
):
    mix = make_mix(mixup_alpha=mixup_alpha, cutmix_alpha=0.0, per_example=False)
    loss_fn = make_loss(name="softmax", label_smoothing=0.0)
    train_step = step.make_train_step(
        step.classification(model, loss_fn, mix),
        optimizer,
        optax.constant_schedule(0.5),
        Guard(**({"policy": "stop", "spike": 0.0, "max_faults": 0} | (guard or {}))),
        accumulate_steps=accumulate_steps,
        ema_decay=ema_decay,
        ema_ramp=ema_ramp,
        gradient_dtype=gradient_dtype,
        sam_rho=0.0,
    )
    return jax.jit(train_step)


def new_state(model, keys, optimizer, *, ema=False):
    params = init_params(model, keys.params)
    return step.initial_state(params, optimizer, average=ema)


def test_the_first_sgd_step_is_the_gradient_worked_out_by_hand(step_parts):
    """With a zero head, p = 1/n, and the head's gradient is mean x (p - y)."""
    model, keys, batch = step_parts
    model = model.clone(dropout_rate=0.0)
    optimizer = optax.sgd(0.5)
    state = new_state(model, keys, optimizer)
    _, out = model.apply(
        {"params": state.params}, normalize(batch["image"]), train=False
    )
    after, metrics = make_step(model, optimizer)(state, batch, keys)
    error = 0.1 - jax.nn.one_hot(batch["label"], 10)
    gradient = np.einsum("bd,bn->dn", out["pre_logits"], error) / 8
    np.testing.assert_allclose(
        after.params["head"]["kernel"], -0.5 * gradient, atol=1e-6
    )
    assert metrics["loss"] == pytest.approx(np.log(10), rel=1e-6)
    # Behind a zero head nothing else has a gradient, so that is all of the norm.
    norm = np.sqrt((gradient**2).sum() + (error.mean(0) ** 2).sum())
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert after.step == 1 and metrics["learning_rate"] == 0.5


def test_accumulation_is_the_mean_gradient(step_parts):
    model, keys, batch = step_parts
    model = model.clone(dropout_rate=0.0)
    optimizer = optax.sgd(0.5)
    whole, pieces = (
        make_step(model, optimizer, accumulate_steps=n)(
            new_state(model, keys, optimizer), batch, keys
        )
        for n in (1, 4)
    )
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_dropout_differs_by_step_and_not_by_call(step_parts):
    model, keys, batch = step_parts
    optimizer = optax.sgd(0.0)
    train_step = make_step(model, optimizer, mixup_alpha=0.8)
    state = new_state(model, keys, optimizer)
    kernel = jax.random.normal(jax.random.key(1), (32, 10))
    state.params["head"]["kernel"] = kernel
    after, first = train_step(state, batch, keys)
    assert train_step(state, batch, keys)[1]["loss"] == first["loss"]
    assert train_step(after, batch, keys)[1]["loss"] != first["loss"]  # same parameters
    assert train_step(state, batch, step.named_keys(1))[1]["loss"] != first["loss"]


def test_moving_average(step_parts):
    model, keys, batch = step_parts
    optimizer = optax.sgd(0.5)
    state = new_state(model, keys, optimizer, ema=True)
    after, _ = make_step(model, optimizer, ema_decay=0.9)(state, batch, keys)
    wanted = 0.9 * after.params["head"]["kernel"]  # from zero, by 1 - 1/10
    np.testing.assert_allclose(after.ema["head"]["kernel"], wanted, rtol=1e-5)
    plain = make_step(model, optimizer, ema_decay=0.9, ema_ramp=False)
    after, _ = plain(state, batch, keys)
    wanted = 0.1 * after.params["head"]["kernel"]
    np.testing.assert_allclose(after.ema["head"]["kernel"], wanted, rtol=1e-5)


def test_the_ramp_of_the_average():
    """A run of 20,000 steps with a decay of 0.9999 would end at 0.99955."""
    decays = [float(step.ramped(0.9999, jnp.int32(n))) for n in (0, 20_000, 90_000)]
    assert decays == pytest.approx([0.1, 0.99955, 0.9999], abs=1e-6)
    after = step.update_ema(jnp.float32(0), jnp.float32(1), 0.9)
    assert after == pytest.approx(0.1, rel=1e-5)


def test_bfloat16_gradients_are_near_and_update_float32(step_parts):
    model, keys, batch = step_parts
    model = model.clone(dropout_rate=0.0)
    optimizer = optax.sgd(0.5)
    state = new_state(model, keys, optimizer)
    exact, _ = make_step(model, optimizer)(state, batch, keys)
    rounded = make_step(model, optimizer, gradient_dtype="bfloat16")
    near, _ = rounded(state, batch, keys)
    difference = jax.tree.map(lambda a, b: a - b, near.params, exact.params)
    change = jax.tree.map(lambda a, b: a - b, exact.params, state.params)
    assert 0 < optax.tree.norm(difference) < 0.02 * optax.tree.norm(change)
    assert {leaf.dtype for leaf in jax.tree.leaves(near.params)} == {
        jnp.dtype("float32")
    }
    hlo = rounded.lower(state, batch, keys).as_text()
    kernel = "x".join(map(str, state.params["head"]["kernel"].shape))
    assert f"tensor<{kernel}xbf16>" in hlo


def test_the_step_overfits_a_batch(step_parts):
    model, keys, batch = step_parts
    optimizer = optax.adam(1e-2)
    step, state = make_step(model, optimizer), new_state(model, keys, optimizer)
    for _ in range(60):
        state, metrics = step(state, batch, keys)
    assert metrics["loss"] < 0.1 and metrics["accuracy"] == 1


# --- the run ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with everything random switched on, left alone from start to end."""
    workdir = tmp_path_factory.mktemp("finished")
    results = loop.train(tiny_config(*RANDOM), workdir)
    return workdir, results


RANDOM = (
    "model.dropout_rate=0.1",
    "model.stochastic_depth_rate=0.1",
    "mix.cutmix_alpha=1",
    "data.randaug_layers=1",
    "train.ema_decay=0.9",
)


def test_a_run_leaves_what_it_promises(finished):
    workdir, results = finished
    rows = read_metrics(workdir / "metrics.jsonl")
    steps = {split: [r["step"] for r in rows if r["split"] == split] for split in
             ("train", "test", "test_ema")}  # fmt: skip
    assert steps["train"][-1] == 6 and len(steps["train"]) >= 3
    assert steps["test"] == steps["test_ema"] == [3, 6]
    assert results["test"]["count"] == 359
    assert results["test"]["loss"] != results["test_ema"]["loss"]
    assert {"loss", "accuracy", "grad_norm", "learning_rate"} <= rows[0].keys()
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["dropout_rate"] == 0.1
    model, params = vit_jax.load(workdir)
    images = vit_jax.normalize(jnp.zeros((2, 16, 16, 3), jnp.uint8))
    logits, _ = model.apply({"params": params}, images, train=False)
    assert logits.shape == (2, 10)


def test_nothing_is_compiled_once_the_steps_begin(tmp_path, caplog):
    with jax.log_compiles():
        loop.train(tiny_config(*RANDOM), tmp_path)
    assert caplog.text.count("Compiling jit(traced)") == 2  # training and evaluation
    assert caplog.text.count("Compiling jit(examine_arrays)") <= 1


@pytest.mark.parametrize("weights", ["params", "ema"])
def test_the_best_step_is_that_of_the_weights_asked_for(tmp_path, weights):
    options = ("checkpoint.every=3steps", f"checkpoint.best_weights={weights}")
    results = loop.train(tiny_config(*RANDOM, *options), tmp_path)
    split = "test" if weights == "params" else "test_ema"
    saved = integrity.read_metrics(tmp_path / "checkpoints" / "6")
    assert saved["loss"] == results[split]["loss"]


def test_an_interrupted_run_ends_with_the_same_bits(finished, tmp_path, monkeypatch):
    """SIGTERM in the middle of an epoch; the state goes on to the same end."""
    meter_add = loop.Meter.add

    def add_and_interrupt(self, step, metrics):
        meter_add(self, step, metrics)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Meter, "add", add_and_interrupt)
    with pytest.raises(loop.Interrupted, match="SIGTERM at step 3 of 6"):
        loop.train(tiny_config(*RANDOM), tmp_path)
    monkeypatch.undo()
    # What changes no number may change on the way.
    free = ("log.every=2steps", "data.num_threads=2")
    results = loop.train(tiny_config(*RANDOM, *free), tmp_path)
    assert_same_bits(final_params(tmp_path), final_params(finished[0]))
    assert results == finished[1]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "test"] == [3, 6]


def test_a_finished_run_is_not_trained_again(finished):
    workdir, results = finished
    before = final_params(workdir)
    assert loop.train(tiny_config(*RANDOM), workdir) == results
    assert_same_bits(before, final_params(workdir))


def test_another_config_is_refused_with_the_difference(finished):
    workdir, _ = finished
    changed = tiny_config(*RANDOM, "optim.learning_rate=0.5", "loss.name=sigmoid")
    with pytest.raises(ConfigError) as error:
        loop.train(changed, workdir)
    assert "loss.name: 'softmax' there, 'sigmoid' now" in str(error.value)
    assert "optim.learning_rate: 0.002 there, 0.5 now" in str(error.value)
    assert "--allow-config-change" in str(error.value)


@pytest.mark.full
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """SIGKILL for real, with worker processes; see benchmarks/exact_resume.py."""
    shorter = "--config.train.duration=45steps"
    for name in ("reference", "killed"):
        (tmp_path / name).mkdir()
    assert exact_resume.run(tmp_path / "reference", shorter) == 0
    reference = exact_resume.final_state(tmp_path / "reference")
    killed = tmp_path / "killed"
    command = [*killed_training.COMMAND, shorter, "--workdir", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: any((killed / "checkpoints").glob("[123]*/manifest.json")))
    process.kill()
    process.wait()
    assert exact_resume.run(killed, shorter) == 0
    log = Path(f"{killed}.log").read_text()
    assert "Going on from step" in log
    assert exact_resume.differences(reference, exact_resume.final_state(killed)) == []


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    command = [
        *(sys.executable, "-m", "vit_jax.train", "--config", "configs/digits.py"),
        *("--workdir", str(tmp_path), *(f"--config.{text}" for text in TINY)),
        *("--config.train.duration=100000steps", "--config.log.every=1000steps"),
        *("--config.eval.every=100000steps", "--config.checkpoint.every=50000steps"),
    ]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: "step 1000/" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    text = (tmp_path / "log").read_text()
    assert "Stopped by SIGTERM" in text
    assert "To go on: python -m vit_jax.train --config configs/digits.py" in text
    assert load_trained(tmp_path).step >= 1000


def test_a_non_finite_loss_stops_the_run(tmp_path, monkeypatch):
    """The third step gets a parameter of infinity."""
    build = loop.build

    def build_broken(config):
        experiment = build(config)
        program = experiment.program

        @jax.jit
        def step(state, batch, keys):
            head = state.params["head"]
            head["bias"] += jnp.where(state.step == 2, jnp.inf, 0)
            return program.train_step(state, batch, keys)

        return experiment._replace(program=program._replace(train_step=step))

    monkeypatch.setattr(loop, "build", build_broken)
    with pytest.raises(FaultyStep, match=r"at step 3; .*step 2 in") as error:
        loop.train(tiny_config(), tmp_path)
    assert "Try a lower optim.learning_rate" in str(error.value)
    run = load_trained(tmp_path)
    assert run.step == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


def test_a_run_goes_on_without_what_it_started_from(finished, tmp_path, monkeypatch):
    origin = tmp_path / "origin"
    config = tiny_config(f"init={origin}")
    with pytest.raises(FileNotFoundError, match="neither a file or folder here nor"):
        loop.train(config, tmp_path / "run")
    shutil.copytree(finished[0], origin)

    def interrupt(self, *_):
        self.finish()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Meter, "pause", interrupt)  # after the first checkpoint
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "run")
    monkeypatch.undo()
    shutil.rmtree(origin)
    loop.train(config, tmp_path / "run")
    assert load_trained(tmp_path / "run").step == 6


def test_broken_images_are_listed_in_the_run_folder(tmp_path):
    """One that is trained on and one that is evaluated on."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / "bad.jpg").write_bytes(b"no image")
    overrides = ("data.batch_size=8", "eval.splits=val", "data.flip=on")
    config = tiny_config(f"data.name={tmp_path / 'photos'}", *overrides)
    with pytest.raises(ValueError, match=r"bad\.jpg.*data\.on_error"):
        loop.train(config, tmp_path / "strict")
    config.data.on_error = "skip"
    results = loop.train(config, tmp_path / "run")
    assert results["val"]["count"] == 16
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert sorted(Path(name).parts[-3] for name in listed) == ["train", "val"]


def test_by_default_there_is_a_step_to_fall_back_to(tmp_path, caplog):
    loop.train(tiny_config(), tmp_path)
    (newest,) = (tmp_path / "checkpoints").glob("6")
    largest = max(newest.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert load_trained(tmp_path).step == 4
    assert "CHECKPOINT DAMAGED" in caplog.text


def test_warm_start_takes_the_parameters_and_replaces_the_head(
    finished, tmp_path, capsys, monkeypatch
):
    before = final_params(finished[0])
    config = tiny_config(f"init={finished[0]}", "optim.learning_rate=0")
    loop.train(config, tmp_path / "same")
    assert_same_bits(before, final_params(tmp_path / "same"))

    monkeypatch.setattr(Data, "label_names", lambda _: tuple("0123456789ab"))
    loop.train(config, tmp_path / "other")
    assert "replaced by new head" in capsys.readouterr().out
    after = final_params(tmp_path / "other")
    assert after["head"]["kernel"].shape == (32, 12)
    assert not after["head"]["kernel"].any()
    assert_same_bits(before["encoder"], after["encoder"])

    config = tiny_config(f"init={finished[0]}", "model.width=64")
    with pytest.raises(ValueError, match="width is 32 there, 64 here"):
        loop.train(config, tmp_path / "misfit")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=2000", "2000"),
        ("train.accumulate_steps=5", "data.batch_size=32 must be a multiple of 5"),
        ("data.name=digitz", "digitz"),
        ("eval.splits=validation", "validation"),
        ("optim.warmup=7steps", "do not fit"),
        ("checkpoint.keep_best=1", "multiple of eval.every"),
        ("checkpoint.best_weights=ema", "best_weights=ema needs an average"),
        ("checkpoint.best_weights=best", "'best': wanted one of params, ema"),
        ("data.repeated_augmentation=0", "repeated_augmentation is 0: wanted"),
        ("mesh.data=7", "number of devices"),
        ("mesh.fsdp=2", "fsdp"),
        ("model.poolin=gap", "model.pooling"),
        ("init=/no/such/run", "/no/such/run"),
        ("log.wandb=project", "log.wandb='project' needs: pip install"),
        ("checkpoint.best_metric=acuracy", "wanted one of accuracy, top5"),
    ],
)
def test_a_config_that_cannot_work_fails_before_the_first_step(
    override, message, tmp_path
):
    with pytest.raises((ValueError, OSError, ImportError), match=message):
        loop.train(tiny_config(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_ends_with_one_sentence(tmp_path):
    command = [sys.executable, "-m", "vit_jax.train", "--workdir", str(tmp_path / "x")]
    result = subprocess.run(
        [*command, "--config=configs/digits.py", "--config.optim.lr=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "error: unknown config key 'optim.lr': did you mean "
        "'optim.learning_rate', as --config.optim.learning_rate=1?"
    )
    assert "Traceback" not in result.stderr and not (tmp_path / "x").exists()
