"""Distillation: its losses by hand, what the teacher sees, and runs with a teacher."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base, digits
from vit_jax import sweep
from vit_jax.data.mix import make_mix
from vit_jax.data.pipeline import Data
from vit_jax.data.sources import make_source
from vit_jax.fleet.training import why_not
from vit_jax.interop.trained import load_trained
from vit_jax.losses import make_loss
from vit_jax.models import create_model, init_params
from vit_jax.models.pixels import normalize
from vit_jax.planning.timing import (
    compile_program,
    measure_with_input,
    repeated_training,
)
from vit_jax.training import distillation, loop
from vit_jax.training.distillation import distil, hard_loss, soft_loss
from vit_jax.training.setup import build
from vit_jax.training.step import accumulated, named_keys

CLASSES = 5
TEACHER = create_model("BiT-R26x1", num_classes=CLASSES, image_size=8, blocks=(1,))
STUDENT = create_model("ViT-mu/4", num_classes=CLASSES, image_size=8)
DISTILLED = STUDENT.clone(distillation_token=True)
SOFTMAX = make_loss(name="softmax", label_smoothing=0.0)


def logits(seed, scale=3.0):
    return scale * jax.random.normal(jax.random.key(seed), (6, CLASSES))


def test_the_soft_loss_by_hand():
    student, teacher = np.asarray(logits(0)), np.asarray(logits(1))
    p, q = (
        np.exp(x / 3) / np.exp(x / 3).sum(1, keepdims=True) for x in (student, teacher)
    )
    wanted = 9 * (q * np.log(q / p)).sum(1)
    found = soft_loss(logits(0), logits(1), 3.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(soft_loss(logits(0), logits(0), 3.0), 0, atol=1e-5)


def test_a_teacher_that_says_the_labels_is_the_cross_entropy():
    labels = jnp.array([0, 3, 1, 4, 4, 2])
    sure = 1e4 * jax.nn.one_hot(labels, CLASSES)
    wanted = SOFTMAX(logits(0), jax.nn.one_hot(labels, CLASSES))
    np.testing.assert_allclose(soft_loss(logits(0), sure, 1.0), wanted, rtol=1e-5)
    np.testing.assert_allclose(hard_loss(logits(0), sure), wanted, rtol=1e-5)
    # Hard: the decision alone counts.
    np.testing.assert_allclose(hard_loss(logits(0), 1e-6 * sure), wanted, rtol=1e-5)


def objective(
    monkeypatch, kind="hard", alpha=0.3, mixup=0.0, teacher=TEACHER, student=STUDENT
):
    monkeypatch.setattr(distillation, "load_model", lambda _: teacher)
    mix = make_mix(mixup_alpha=mixup, cutmix_alpha=0.0, per_example=False)
    options = dict(teacher="a name", kind=kind, alpha=alpha, temperature=2.0)
    return distil(student, SOFTMAX, mix, **options)


def batch():
    """Random images, and a teacher whose head is not zero, as it is at first."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    params = init_params(TEACHER, jax.random.key(1))
    shape = params["head"]["kernel"].shape
    params["head"]["kernel"] = jax.random.normal(jax.random.key(3), shape)
    labels = jnp.array([0, 3, 1, 4, 4, 2])
    return {"image": jnp.array(pixels), "label": labels, "teacher": params}


def student_params(student=STUDENT):
    params = init_params(student, jax.random.key(2))
    for seed, head in ((3, "head"), (4, "distillation_head")):
        if head in params:
            kernel = jax.random.normal(jax.random.key(seed), (32, CLASSES))
            params[head]["kernel"] = kernel
    return params


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_loss_is_shared_between_labels_and_teacher(kind, monkeypatch):
    task, inputs = objective(monkeypatch, kind), batch()
    images, targets = task.prepare(inputs, named_keys(0))
    params = student_params()
    loss, accuracy = task.loss(params, images, targets, jax.random.key(0))
    pixels = normalize(inputs["image"])
    student, _ = STUDENT.apply({"params": params}, pixels)
    teacher, _ = TEACHER.apply({"params": inputs["teacher"]}, pixels)
    own = optax.losses.softmax_cross_entropy_with_integer_labels(
        student, inputs["label"]
    )
    if kind == "hard":
        taught = hard_loss(student, teacher)
    else:
        taught = soft_loss(student, teacher, 2.0)
    np.testing.assert_allclose(loss, (0.7 * own + 0.3 * taught).mean(), rtol=1e-5)
    assert accuracy == (student.argmax(-1) == inputs["label"]).mean()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_each_head_learns_from_its_own_teacher(kind, monkeypatch):
    """`DistillationLoss` of facebookresearch/deit, losses.py, on the outputs of
    `DistilledVisionTransformer` in training, models.py."""
    task = objective(monkeypatch, kind, student=DISTILLED)
    images, targets = task.prepare(batch(), named_keys(0))
    params = student_params(DISTILLED)
    _, out = DISTILLED.apply({"params": params}, images)
    labels, advice = targets
    own = SOFTMAX(out["class_logits"], labels)
    pupil = out["distillation_logits"]
    taught = hard_loss(pupil, advice) if kind == "hard" else soft_loss(pupil, advice, 2)
    (loss, accuracy), gradient = jax.value_and_grad(task.loss, has_aux=True)(
        params, images, targets, jax.random.key(0)
    )
    np.testing.assert_allclose(loss, (0.7 * own + 0.3 * taught).mean(), rtol=1e-5)
    # A run reports what the model will classify by: the mean.
    mean = out["class_logits"] + pupil
    assert accuracy == (mean.argmax(-1) == labels.argmax(-1)).mean()
    # The class token's head does not see the teacher: its gradient is that of labels.
    error = 0.7 * (jax.nn.softmax(out["class_logits"]) - labels).mean(0)
    found = gradient["head"]["bias"]
    np.testing.assert_allclose(found, error, rtol=1e-4, atol=1e-6)
    assert np.abs(gradient["distillation_head"]["bias"]).max() > 0.01


def test_the_student_drops_features_and_its_teacher_none(monkeypatch):
    options = dict(depth=1, width=32, num_heads=2, dropout_rate=0.5)
    model = create_model("ViT-mu/4", num_classes=CLASSES, image_size=8, **options)
    task = objective(monkeypatch, teacher=model, student=model)
    params = student_params(model)
    images, targets = task.prepare(batch() | {"teacher": params}, named_keys(0))
    wanted, _ = model.apply({"params": params}, images)
    np.testing.assert_allclose(targets[1], wanted, rtol=1e-5, atol=1e-6)
    first, second = (
        task.loss(params, images, targets, jax.random.key(seed))[0] for seed in (0, 1)
    )
    assert abs(first - second) > 1e-3


def test_the_teacher_sees_the_mixed_images(monkeypatch):
    inputs = batch()
    images, (labels, advice) = objective(monkeypatch, mixup=0.8).prepare(
        inputs, named_keys(0)
    )
    assert not np.allclose(images, normalize(inputs["image"]), atol=0.01)
    assert labels[0].max() < 1
    wanted, _ = TEACHER.apply({"params": inputs["teacher"]}, images)
    np.testing.assert_allclose(advice, wanted, rtol=1e-5, atol=1e-6)


def test_pieces_of_a_batch_have_the_same_mean(monkeypatch):
    task, params = objective(monkeypatch, "soft"), student_params()
    images, targets = task.prepare(batch(), named_keys(0))
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    whole, pieces = (
        accumulated(gradient, number)(params, images, targets, jax.random.key(0))
        for number in (1, 3)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole,
        pieces,
    )


def tiny(teacher="", **options):
    """A run of four steps on digits; with a teacher, of distillation."""
    config = digits.get_config()
    config.model.update(depth=2, width=32, mlp_dim=64, num_heads=2)
    config.data.batch_size = 64
    config.optim.update(learning_rate=1e-2, warmup="0steps")
    config.train.duration = "4steps"
    config.eval.update(batch_size=100, every="100%")
    config.checkpoint.every = "50%"
    config.log.update(tensorboard=False, every="1steps")
    if teacher:
        config.objective.update(name="distillation", teacher=str(teacher))
    for key, value in options.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


def of_the_mean(run):
    """The evaluation of a distilled model on all test digits, by its two heads."""
    source = make_source("digits", "test")
    records = [source[i] for i in range(len(source))]
    images = np.stack([run.data.eval_transform(x["image"]) for x in records])
    labels = jnp.array([x["label"] for x in records])
    _, out = run.model.apply({"params": run.params}, normalize(jnp.asarray(images)))
    mean = (out["class_logits"] + out["distillation_logits"]) / 2
    right = mean.argsort(-1)[:, ::-1] == labels[:, None]
    return {
        "loss": float(SOFTMAX(mean, jax.nn.one_hot(labels, 10)).mean()),
        "accuracy": float(right[:, 0].mean()),
        "top5": float(right[:, :5].any(-1).mean()),
        "count": len(labels),
    }


@pytest.mark.full
def test_a_run_with_a_convolutional_teacher_goes_on_as_it_was(tmp_path, capsys, caplog):
    convolutional = tiny()
    convolutional.model = base.get_config().model
    convolutional.model.update(name="BiT-R26x1", blocks=(1,), width=32)
    loop.train(convolutional, tmp_path / "teacher")
    options = dict(model__scan=True, train__accumulate_steps=2, mix__mixup_alpha=0.2)
    options |= dict(model__distillation_token=True)
    config = tiny(tmp_path / "teacher", **options, model__remat="full")
    with jax.log_compiles():
        results = loop.train(config, tmp_path / "student")
    assert caplog.text.count("Compiling jit(traced)") == 2  # training and evaluation
    line = f"teacher     BiT-R26x1: 24,874 parameters, of {tmp_path / 'teacher'}\n"
    assert line in capsys.readouterr().out
    run = load_trained(tmp_path / "student")
    wanted = run.params
    # What is saved is the student's alone.
    assert "encoder" in wanted and "resnet" not in wanted
    heads = wanted["head"]["kernel"], wanted["distillation_head"]["kernel"]
    assert np.abs(np.subtract(*heads)).max() > 1e-3
    assert results["test"] == pytest.approx(of_the_mean(run), rel=1e-4)
    (last,) = (tmp_path / "student" / "checkpoints").glob("*4")
    shutil.rmtree(last)
    loop.train(config, tmp_path / "student")
    found = load_trained(tmp_path / "student").params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.full
def test_alpha_0_is_the_run_without_a_teacher(digits_run, tmp_path):
    loop.train(tiny(), tmp_path / "plain")
    loop.train(tiny(digits_run, objective__alpha=0.0), tmp_path / "taught")
    loop.train(tiny(digits_run, objective__alpha=0.5), tmp_path / "half")
    plain, taught, half = (
        load_trained(tmp_path / name).params for name in ("plain", "taught", "half")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, taught
    )
    kernels = (x["head"]["kernel"] for x in (plain, half))
    assert np.abs(np.subtract(*kernels)).max() > 1e-3


@pytest.mark.full
def test_its_step_can_be_timed(digits_run):
    config = tiny(digits_run)
    model, program = repeated_training(config, 10)
    assert model.num_classes == 10 and compile_program(program)[0].program_bytes
    assert measure_with_input(config, steps=5)["both"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(teacher=""), "set objective.teacher to a run folder"),
        (
            dict(distillation="warm"),
            "objective.distillation is 'warm': wanted one of hard, soft",
        ),
        (dict(alpha=1.5), "objective.alpha is 1.5"),
        (dict(alpha=-0.1), "objective.alpha is -0.1"),
        (dict(temperature=0.0), "objective.temperature is 0.0: wanted"),
    ],
)
def test_wrong_options(options, message, digits_run, tmp_path):
    config = tiny(digits_run)
    config.objective.update(options)
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_other_classes(digits_run, tmp_path, monkeypatch):
    few = tiny(digits_run, data__classes=("0", "1", "2"))
    with pytest.raises(ValueError, match="has 10 classes, and the data 3"):
        loop.train(few, tmp_path)
    monkeypatch.setattr(Data, "label_names", lambda _: tuple("9876543210"))
    with pytest.raises(ValueError, match=r"the classes 0, 1, 2, 3, 4, \.\.\., and"):
        loop.train(tiny(digits_run), tmp_path)


def test_a_teacher_of_another_image_size_and_precision(digits_run):
    config = tiny(digits_run, data__image_size=(24, 24), model__dtype="bfloat16")
    setup = build(config)
    params = setup.teacher["teacher"]
    assert params["positions"]["embedding"].shape == (1, 37, 32)
    wanted = jax.tree.map(lambda x: x.shape, setup.program.batch["teacher"])
    assert jax.tree.map(lambda x: x.shape, params) == wanted
    assert setup.program.teacher.image_size == (24, 24)
    assert setup.program.teacher.dtype == jnp.bfloat16


def test_a_fleet_refuses_it(digits_run):
    assert "a fleet has no teacher" in why_not(tiny(digits_run))


@pytest.mark.full
def test_every_run_of_a_sweep_has_the_teacher(digits_run, tmp_path):
    config = tiny(digits_run, train__duration="2steps")
    config.sweep.update(
        learning_rates=(1e-2,), train_split="train[:90%]", dev_split="train[90%:]"
    )
    sweep.sweep(config, tmp_path)
    for name in ("rate_0.01", "final"):
        objective = load_trained(tmp_path / name).config.objective
        assert (objective.name, objective.teacher) == ("distillation", str(digits_run))
