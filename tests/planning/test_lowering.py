"""Programs lowered for absent NVIDIA GPUs and TPUs: what JAX refuses.

Of each config, the steps of training and evaluation at their full size; of each
command, what it runs on a device. Nothing is computed.
"""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accelerators.cases import (
    CASES,
    SCAN,
    Case,
    absent_program,
    config_of,
    evaluation_batch,
    label,
)
from configs import families
from vit_jax.analysis import equivariance, heads, profile, shuffle, translation
from vit_jax.analysis.features import total_stride
from vit_jax.checkpoints.fingerprint import examine_arrays
from vit_jax.config_file import read_config
from vit_jax.evaluation import fewshot, knn, linear_probe, predictions
from vit_jax.evaluation.features import feature_step
from vit_jax.evaluation.objectnet import make_objectnet_step
from vit_jax.evaluation.outcomes import make_outcome_step
from vit_jax.figures.model import rollout
from vit_jax.fleet.program import Inputs, make_program, program_key
from vit_jax.interop import conversion, program_export, save_checkpoint
from vit_jax.models import VisionTransformer, create_model, init_params
from vit_jax.parallel.sharding import make_mesh, on_mesh
from vit_jax.planning.deviceless import ABSENT, lower

PLATFORM = {"H100": "cuda", "v5e": "tpu"}
# Calls that XLA itself expands, and those into libraries of a platform.
ANYWHERE = r"Sharding|mhlo\.topk|mhlo\.erf"
LIBRARIES = {
    "cuda": r"__cudnn\$fmha\w+|cusolver_\w+",
    "tpu": r"Eigh|Qr|ProductOfEl\w+|tpu_custom_call",
}


def check(lowered, kind):
    """No call into libraries of another platform, none to the host, no float64."""
    text = lowered.as_text()
    own = re.compile(f"(?:{ANYWHERE}|{LIBRARIES[PLATFORM[kind]]})$")
    calls = set(re.findall(r"custom_call @([\w$.]+)", text))
    assert {call for call in calls if not own.match(call)} == set()
    assert not re.search(r"f64|callback", text)
    return text


def test_every_config_is_lowered():
    """A new file in `configs/` belongs into `benchmarks/accelerators/cases.py` too."""
    files = {path.name for path in Path("configs").glob("*.py")}
    lowered = {case.config.partition(":")[0] for case in CASES if not case.slow}
    assert lowered | {"__init__.py", "base.py"} == files
    # Cases that only `make accelerators` lowers can be read, too.
    for case in CASES:
        assert config_of(case).model.name, label(case)


def cases_and_kinds():
    """`make test` lowers every fourth case, in turn for GPUs and for TPUs."""
    cases = [case for case in CASES if not case.slow]
    for number, case in enumerate(cases):
        for place, kind in enumerate(ABSENT):
            quick = number % 4 == 0 and number // 4 % len(ABSENT) == place
            marks = () if quick else pytest.mark.full
            yield pytest.param(case, kind, marks=marks, id=f"{label(case)}-{kind}")


@pytest.mark.parametrize(("case", "kind"), list(cases_and_kinds()))
def test_steps(case, kind):
    program = absent_program(case, kind)
    assert program.mesh.abstract_device == ABSENT[kind]
    steps = (
        (program.train_step, program.state, program.batch, program.keys),
        (program.eval_step, program.state.params, evaluation_batch(program)),
    )
    train, evaluate = (check(lower(*step, mesh=program.mesh), kind) for step in steps)
    fuses = kind == "H100" and can_fuse(program.model)
    drops = getattr(program.model, "attention_dropout_rate", 0) > 0
    assert ("fmhaSoftmaxBackward" in train) == (fuses and not drops)
    assert ("fmhaSoftmax" in evaluate) == fuses


@pytest.mark.parametrize("kind", ABSENT)
def test_a_step_with_a_teacher(kind, tmp_path):
    """A distilled ViT-S/16, which a file of a tiny ResNet teaches."""
    options = {"blocks": (1,), "width": 32, "num_classes": 1000}
    teacher = create_model("BiT-R26x1", **options)
    params = init_params(teacher, jax.random.key(0))
    save_checkpoint(tmp_path / "bit.npz", teacher, params, layout="google")
    case = Case(f"distill.py:teacher={tmp_path / 'bit.npz'}", SCAN)
    program = absent_program(case, kind)
    assert program.model.distillation_token
    step = program.train_step, program.state, program.batch, program.keys
    text = check(lower(*step, mesh=program.mesh), kind)
    # Those of the teacher, forward alone: a ViT has none.
    assert text.count("stablehlo.convolution(") == 5
    assert ("fmhaSoftmaxBackward" in text) == (kind == "H100")
    # Its parameters are those of inference, in the precision of the student.
    assert program.teacher.dtype == jnp.bfloat16
    shapes = jax.tree.map(lambda x: x.shape, program.batch["teacher"])
    assert shapes == jax.tree.map(lambda x: x.shape, params)


def can_fuse(model):
    """Whether cuDNN's attention supports a model with any number of tokens."""
    return (
        isinstance(model, VisionTransformer)
        and model.dtype != jnp.float32
        and not model.positions.startswith("relative")
    )


BATCH = 64


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def features(count):
    """Shapes of features of ViT-S/16, and of labels."""
    return shaped(count, 384), shaped(count, dtype=jnp.int32)


def caller(mesh):
    """Turns a call of a jitted function into one that lowers it."""
    return lambda *call, **options: partial(lower, *call, mesh=mesh, **options)


def calls_of(model, mesh):
    """The programs of predict, evaluate, the evaluators and the analyses, by name."""
    key = jax.random.key(0)
    params = jax.eval_shape(partial(init_params, model), key)
    photos = shaped(BATCH, *model.image_size, 3, dtype=jnp.uint8)
    pixels = shaped(BATCH, *model.image_size, 3)
    rows = dict.fromkeys(("label", "index"), shaped(BATCH, dtype=jnp.int32))
    rows |= {"image": photos, "mask": shaped(BATCH, dtype=jnp.bool_)}
    classes = np.arange(model.num_classes)
    outcomes = make_outcome_step(model, classes, name="softmax", label_smoothing=0.0)
    hits = make_objectnet_step(model, np.ones((113, len(classes)), bool))
    few, many = features(5_000), features(10_000)
    weights = {"kernel": shaped(384, 1000), "bias": shaped(1000)}
    used = shaped(5_000, dtype=jnp.bool_)
    call = caller(mesh)
    forward = partial(call, predictions.forward_step, model, params, photos)
    return {
        "init": call(jax.jit(partial(init_params, model)), key),
        "predict": forward(loss_name="softmax", attention=False),
        "predict_attention": forward(loss_name="sigmoid", attention=True),
        "evaluate": call(outcomes, params, rows),
        "features": call(feature_step(model, mesh), params, rows),
        "objectnet": call(jax.jit(on_mesh(hits, mesh)), params, rows),
        "fewshot": call(
            fewshot.fewshot_accuracy, *few, *many, num_classes=1000, l2=1024.0
        ),
        "knn": call(knn.knn_accuracy, *few, *many, num_classes=1000),
        "linear_probe": call(linear_probe.fit, weights, *few, used, 1e-3),
        "convert": call(conversion.outputs, model, params, pixels),
        "fingerprint": call(examine_arrays, params["head"]),
        "shuffle": call(shuffle.shuffle_blocks, pixels, g=4, key=key),
        "shift": call(translation.shift, pixels, 3, 5),
        "rollout": call(rollout, model, params, photos),
        **analyses_of(model, params, pixels, call),
    }


def analyses_of(model, params, pixels, call):
    """Derivatives of both modes, and attention: what `vit_jax.analysis` compiles."""
    key, moves = jax.random.key(0), np.array([(total_stride(model), 0)])
    return {
        "attention": call(heads.measure_attention, model, params, pixels),
        "field": call(profile.last_layer_field, model, params, pixels, key),
        "moves": call(equivariance.equivariance_errors, model, params, pixels, moves),
        "lie": call(equivariance.lie_derivatives, model, params, pixels),
    }


def mesh_of_one(kind):
    return make_mesh(data=1, fsdp=1, tensor=1, devices=[ABSENT[kind]])


@pytest.mark.full
@pytest.mark.parametrize("kind", ABSENT)
def test_commands(kind):
    """At the size of ViT-S/16 with its class token: 197 tokens."""
    mesh = mesh_of_one(kind)
    model = create_model("ViT-S/16", num_classes=1000, dtype="bfloat16")
    for name, call in calls_of(model, mesh).items():
        assert check(call(), kind), name


@pytest.mark.full
@pytest.mark.parametrize("kind", ABSENT)
@pytest.mark.parametrize("family", ["hybrid", "axial_vit"])
def test_analyses_of_other_families(family, kind):
    mesh = mesh_of_one(kind)
    options = dict(num_classes=10, image_size=32, dtype="bfloat16")
    model = create_model(**families.MODELS[family] | options)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    pixels = shaped(BATCH, 32, 32, 3)
    for name, call in analyses_of(model, params, pixels, caller(mesh)).items():
        assert check(call(), kind), name


@pytest.mark.full
@pytest.mark.parametrize("kind", ABSENT)
def test_a_fleet(kind):
    """16 runs of the laboratory side by side, and their averages' evaluation."""
    config = read_config("configs/lab.py:scale=small", ["--config.train.ema_decay=0.9"])
    runs, steps = 16, 50
    program = make_program(program_key(config), 6, runs, steps, ABSENT[kind])
    numbers = shaped(runs, dtype=jnp.int32)
    states = jax.tree.map(
        lambda x: shaped(runs, *x.shape, dtype=x.dtype), program.state
    )
    keys = jax.eval_shape(jax.vmap(program.make_keys), numbers)
    size = config.data.batch_size, *config.data.image_size, 3
    batch = {
        "image": shaped(steps, runs, *size, dtype=jnp.uint8),
        "label": shaped(steps, runs, size[0], dtype=jnp.int32),
    }
    inputs = Inputs(batch, shaped(steps, runs))
    held_out = {"image": shaped(*size, dtype=jnp.uint8)}
    held_out["label"] = shaped(size[0], dtype=jnp.int32)
    held_out["mask"] = shaped(size[0], dtype=jnp.bool_)
    for call in (
        (program.draw, 0),
        (program.start, program.state.params),
        (program.make_keys, 0),
        (program.run, states, inputs, keys, shaped(runs), steps),
        (program.evaluate, states.ema, held_out),
    ):
        check(lower(*call, mesh=program.mesh), kind)


@pytest.mark.parametrize("family", ["axial_vit"])
def test_exports(family):
    """For GPUs, TPUs and CPUs at once, with any number of images."""
    options = dict(num_classes=10, image_size=32, dtype="bfloat16", depth=2)
    model = create_model(**families.MODELS[family] | options)
    params = init_params(model, jax.random.key(0))
    run = SimpleNamespace(model=model, params=params, loss={"name": "softmax"})
    compute = program_export.make_program(run, logits=False)
    content = program_export.stablehlo_program(
        compute, (32, 32), program_export.PLATFORMS
    )
    program = jax.export.deserialize(bytearray(content))
    assert program.platforms == ("cpu", "cuda", "tpu")
