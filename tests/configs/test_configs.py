"""Every config resolves, builds, and runs one abstract step."""

import math
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import augreg, families, pretrain, vtab
from vit_jax.config import difference, resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.data.pipeline import Data
from vit_jax.interop import save_checkpoint
from vit_jax.interop.layout import parameter_shapes
from vit_jax.models import create_model, init_params
from vit_jax.training import distillation, setup
from vit_jax.training.labels import ONE_LABEL
from vit_jax.training.optim import make_schedule
from vit_jax.training.setup import build, build_program

# Classes and training images of the data sets, which the tests do not have.
SIZES = {
    "digits": (10, 1438),
    "fashion_mnist": (10, 60_000),
    "cifar10": (10, 50_000),
    "cifar100": (100, 50_000),
    "imagenet2012": (1000, 1_281_167),
    "imagenet21k": (21_843, 14_197_122),
    "jft": (18_291, 303_000_000),
    "oxford_iiit_pet": (37, 3_680),
    "photos": (3, 300),
    "clevr": (8, 1_000),
    "smallnorb": (18, 1_000),
}
# One unit for each stage, since tracing all of a deep model takes seconds.
STEMS = {"R50+ViT-B/32": (1, 1, 1, 1), "R50+ViT-L/32": (1, 1, 1, 1)}
STEMS |= {"R50+ViT-B/16": (1, 1, 1), "R50+ViT-L/16": (1, 1, 1)}
SPECS = (
    "digits.py",
    "fashion_mnist.py",
    "cifar.py",
    "cifar.py:data=cifar100",
    "cifar.py:size=mini",
    "cifar.py:size=cpu",
    "cifar.py:size=cpu,family=hybrid",
    "cifar.py:size=cpu,family=resnet",
    "imagenet.py",
    "imagenet.py:ViT-L/32",
    "pretrain.py",
    "pretrain.py:model=ViT-B/16,data=imagenet2012",
    "bit.py",
    "plain_s16.py",
    "plain_s16.py:epochs=300,arm=original",
    "augreg.py:aug=strong2,reg=yes,wd=0.03",
    "augreg.py:model=R+ViT-Ti/16,data=imagenet21k",
    "deit3.py",
    "deit3.py:model=ViT-H/14",
    "deit3.py:model=ViT-S/16,data=imagenet21k",
    "deit3.py:model=ViT-B/16,stage=finetune",
    "vit5.py",
    "vit5.py:model=ViT-B/16,stage=finetune",
    "vtab.py:task=clevr_count,model=ViT-B/32",
    "vtab.py:task=smallnorb_azimuth,model=ViT-H/14",
    "lab.py",
    "masked_patch.py",
    "masked_patch.py:data=jft,target=downscaled,rate=0.15",
    "sam.py",
    "sam.py:model=ViT-S/32,pieces=8",
    "finetune.py:model=ViT-B/16",
    "finetune.py:model=ViT-H/14,dataset=imagenet2012,table=2",
    "finetune.py:model=ViT-L/16,dataset=oxford_iiit_pet,recipe=vit_jax",
    "finetune.py:model=R50+ViT-B/16,dataset=imagenet2012,recipe=big_vision",
    "finetune.py:model=BiT-R50x1,dataset=cifar100,recipe=bit,probe=yes",
    *(f"families.py:family={family}" for family in families.MODELS),
    "distill.py:teacher=",
    "distill.py:teacher=r50",
    "distill.py:teacher=r50,kind=soft",
    "folder.py:data=photos,size=64",
    "folder.py:data=photos,size=64,model=BiT-R26x1",
)


def test_every_config_is_tested():
    files = {path.name for path in Path("configs").glob("*.py")}
    tested = {spec.partition(":")[0] for spec in SPECS} | {"__init__.py", "base.py"}
    assert tested == files


def shorten(config):
    """Leaves one block, and one unit in each stage, of the larger models."""
    name = config.model.name
    if name.startswith("BiT") and "blocks" not in config.model:
        config.model.blocks = (1, 1, 1, 1)
    elif "ViT" in name and "depth" not in config.model:
        config.model.depth = 1
    if name in STEMS:
        config.model.resnet_stem = STEMS[name]


@pytest.mark.parametrize("spec", SPECS)
def test_config_builds_and_steps(spec, monkeypatch):
    monkeypatch.setattr(Data, "check_splits", lambda *_: None)
    monkeypatch.setattr(
        Data, "label_names", lambda d: tuple(map(str, range(SIZES[d.name][0])))
    )
    monkeypatch.setattr(Data, "num_examples", lambda d, _="": SIZES[d.name][1])
    monkeypatch.setattr(setup, "describe", lambda *_: {})
    monkeypatch.setattr(setup, "read_labels", lambda *_: ONE_LABEL)
    config = read_config(f"configs/{spec}", [])
    if config.objective.name == "distillation":
        teach(monkeypatch, create_model("BiT-R26x1", blocks=(1,)))
    # Evaluators of features open data of their own.
    config.fewshot.every = config.knn.every = ""
    shorten(config)
    experiment = build(config)
    lengths = experiment.lengths
    assert 0 <= lengths.warmup < lengths.total
    assert 0 < lengths.eval_every <= lengths.total
    program = experiment.program
    state = program.state
    after, metrics = jax.eval_shape(
        program.train_step, state, program.batch, program.keys
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert set(metrics) == {"loss", "accuracy", "grad_norm", "learning_rate", "fault"}


def teach(monkeypatch, teacher):
    """Lets a model be the teacher of every run, without its parameters."""
    monkeypatch.setattr(distillation, "load_model", lambda _: teacher)
    monkeypatch.setattr(distillation, "load_teacher", lambda *_: {})


def test_deit_and_its_distillation():
    """facebookresearch/deit, main.py and the paper's section 5.1 and Table 9."""
    alone = read_config("configs/distill.py:teacher=", [])
    optim = alone.optim
    assert (optim.name, optim.learning_rate, optim.weight_decay) == (
        *("adamw", 5e-4 * 1024 / 512),
        0.05,
    )
    assert (optim.warmup, optim.end_learning_rate) == ("5epochs", 1e-5)
    assert (optim.clip_norm, alone.model.stochastic_depth_rate) == (0, 0.1)
    assert (alone.mix.mixup_alpha, alone.mix.cutmix_alpha) == (0.8, 1)
    assert alone.loss.label_smoothing == 0.1
    hard = read_config("configs/distill.py:teacher=r50", [])
    same = read_config("configs/distill.py:teacher=r50,token=no", [])
    assert difference(alone, same).keys() == {"objective.name", "objective.teacher"}
    assert difference(same, hard).keys() == {"model.distillation_token"}
    assert hard.model.distillation_token
    assert (hard.objective.distillation, hard.objective.alpha) == ("hard", 0.5)
    soft = read_config("configs/distill.py:teacher=r50,kind=soft", [])
    assert not soft.model.distillation_token
    soft = soft.objective
    assert (soft.distillation, soft.temperature, soft.alpha) == ("soft", 3, 0.1)
    both = read_config("configs/distill.py:teacher=r50,kind=soft,token=yes", [])
    assert both.model.distillation_token
    for wrong in ("teacher=r50,token=maybe", "teacher=,token=yes"):
        with pytest.raises(ValueError, match="wanted token=yes or no, and a teacher"):
            read_config(f"configs/distill.py:{wrong}", [])


def test_table_3_in_steps():
    """Batch 4096, 300 epochs of 99 % of ImageNet; 93.8 k steps with all of it."""
    config = read_config("configs/imagenet.py", [])
    lengths = resolve_lengths(config, 1_281_167)
    assert lengths.warmup == 10_000 and abs(lengths.total - 93_836) <= 1


# Table 4, and the held-out parts of section B.1.1; where the final model is tested.
TABLE_4 = {
    "imagenet2012": (20_000, (0.003, 0.01, 0.03, 0.06), "99%", "validation"),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03), "98%", "test"),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03), "98%", "test"),
    "oxford_iiit_pet": (500, (0.001, 0.003, 0.01, 0.03), "90%", "test"),
    "oxford_flowers102": (500, (0.001, 0.003, 0.01, 0.03), "90%", "test"),
}


@pytest.mark.parametrize("model", ["ViT-B/16", "R50+ViT-B/16", "BiT-R50x1"])
@pytest.mark.parametrize("dataset", TABLE_4)
def test_table_4(dataset, model):
    steps, rates, share, split = TABLE_4[dataset]
    spec = f"configs/finetune.py:model={model},dataset={dataset}"
    config = read_config(spec, [])
    assert config.train.duration == f"{steps}steps"
    assert config.sweep.learning_rates == rates
    assert config.sweep.train_split == f"train[:{share}]"
    assert config.sweep.dev_split == f"train[{share}:]"
    assert config.eval.splits == (split,) and config.data.split == "train"
    assert (config.optim.name, config.optim.momentum) == ("sgd", 0.9)
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0, 1)
    assert config.optim.schedule == "cosine"
    assert config.data.batch_size == 512 and config.data.image_size == (384, 384)
    assert config.data.crop_resize == 448 and config.train.ema_decay == 0


@pytest.mark.parametrize(
    ("model", "side", "elsewhere"), [("ViT-L/16", 512, 384), ("ViT-H/14", 518, 378)]
)
def test_table_2_has_larger_images_and_an_average_on_imagenet_alone(
    model, side, elsewhere
):
    read = "configs/finetune.py:table=2,model={},dataset={}".format
    config = read_config(read(model, "imagenet2012"), [])
    assert config.data.image_size == (side, side)
    assert (config.train.ema_decay, config.train.ema_ramp) == (0.9999, False)
    other = read_config(read(model, "cifar10"), [])
    assert other.data.image_size == (elsewhere, elsewhere)
    assert other.train.ema_decay == 0


@pytest.mark.parametrize(
    ("dataset", "model", "steps", "sides", "warmup", "mixup"),
    [
        ("cifar10", "BiT-R50x1", 10_000, (160, 128), 500, 0.1),
        ("oxford_iiit_pet", "BiT-R50x1", 500, (448, 384), 100, 0),
        ("imagenet2012", "BiT-R50x1", 20_000, (448, 384), 500, 0.1),
        ("imagenet2012", "BiT-R152x4", 20_000, (512, 480), 500, 0.1),
    ],
)
def test_bit_hyperrule(dataset, model, steps, sides, warmup, mixup):
    spec = f"configs/finetune.py:recipe=bit,model={model},dataset={dataset}"
    config = read_config(spec, [])
    assert config.train.duration == f"{steps}steps"
    assert (config.data.crop_resize, config.data.image_size[0]) == sides
    assert config.mix.mixup_alpha == mixup and config.optim.clip_norm == 0
    assert config.optim.momentum_dtype == "float32"
    assert rates(config, 1, [warmup, 0.29 * steps, 0.31 * steps, 0.91 * steps]) == (
        pytest.approx([3e-3, 3e-3, 3e-4, 3e-6])
    )


# `DATASET_PRESETS` of google-research/vision_transformer, configs/common.py, and
# `_set_dataset` of big_vision's configs/transfer.py.
RELEASED_SPLITS = {"imagenet2012": "99%", "cifar10": "98%", "cifar100": "98%"}
RELEASED_SPLITS |= {"oxford_iiit_pet": "90%", "oxford_flowers102": "90%"}


@pytest.mark.parametrize("recipe", ["vit_jax", "big_vision"])
@pytest.mark.parametrize("dataset", RELEASED_SPLITS)
def test_released_code_trains_on_a_part_of_the_training_set(dataset, recipe):
    spec = f"configs/finetune.py:dataset={dataset},recipe={recipe}"
    config = read_config(spec, [])
    assert config.data.split == f"train[:{RELEASED_SPLITS[dataset]}]"
    other = read_config(f"configs/finetune.py:dataset=photos,recipe={recipe}", [])
    assert other.data.split == "train"


def test_dropout_of_the_released_configs():
    """google-research/vision_transformer, configs/models.py."""
    for model, rate in {
        "ViT-L/16": 0.1,
        "ViT-L/32": 0,
        "ViT-H/14": 0.1,
        "ViT-B/16": 0,
        "R50+ViT-B/16": 0.1,
        "R50+ViT-L/32": 0.1,
        "R26+ViT-S/32": 0,
    }.items():
        spec = f"configs/finetune.py:model={model},recipe=vit_jax"
        assert read_config(spec, []).model.dropout_rate == rate


def rates(config, examples, steps):
    """The learning rates of a config at some steps."""
    lengths = resolve_lengths(config, examples)
    schedule = make_schedule(
        learning_rate=config.optim.learning_rate,
        schedule=config.optim.schedule,
        total_steps=lengths.total,
        warmup=lengths.warmup,
        milestones=config.optim.milestones,
    )
    return [float(schedule(int(step))) for step in steps]


@pytest.mark.parametrize(
    ("data", "epochs", "rate_at"),
    [
        # 0.48 falls to a tenth after epochs 30, 60 and 80 of 90; 10, 23, 30, 37 of 40.
        ("imagenet2012", "", {29.9: 0.48, 30.1: 0.048, 60.1: 4.8e-3, 80.1: 4.8e-4}),
        ("jft", "", {9.9: 0.48, 10.1: 0.048, 23.1: 4.8e-3, 30.1: 4.8e-4, 37.1: 4.8e-5}),
        # Table 7: the same shares of 7 epochs.
        ("jft", "7", {1.74: 0.48, 1.76: 0.048, 6.48: 4.8e-5}),
    ],
)
def test_bit_pretraining(data, epochs, rate_at):
    arguments = f"data={data}" + (f",epochs={epochs}" if epochs else "")
    config = read_config(f"configs/bit.py:{arguments}", [])
    examples = 99 * SIZES[data][1] // 100 if data == "imagenet2012" else SIZES[data][1]
    steps = [epoch * examples / 4096 for epoch in rate_at]
    assert rates(config, examples, steps) == pytest.approx(list(rate_at.values()))
    assert (config.optim.name, config.optim.weight_decay) == ("sgd", 1e-4)


def test_a_wrong_recipe_is_named():
    with pytest.raises(ValueError, match="wanted a recipe of paper, bit, vit_jax"):
        read_config("configs/finetune.py:recipe=papers", [])


# Table 3 as it is printed, but for powers of ten.
TABLE_3 = """
ViT-B/{16,32}     | JFT-300M     | 7    | 8e-4 | linear | 0.1  | 0.0
ViT-L/32          | JFT-300M     | 7    | 6e-4 | linear | 0.1  | 0.0
ViT-L/16          | JFT-300M     | 7/14 | 4e-4 | linear | 0.1  | 0.0
ViT-H/14          | JFT-300M     | 14   | 3e-4 | linear | 0.1  | 0.0
R50x{1,2}         | JFT-300M     | 7    | 1e-3 | linear | 0.1  | 0.0
R101x1            | JFT-300M     | 7    | 8e-4 | linear | 0.1  | 0.0
R152x{1,2}        | JFT-300M     | 7    | 6e-4 | linear | 0.1  | 0.0
R50+ViT-B/{16,32} | JFT-300M     | 7    | 8e-4 | linear | 0.1  | 0.0
R50+ViT-L/32      | JFT-300M     | 7    | 2e-4 | linear | 0.1  | 0.0
R50+ViT-L/16      | JFT-300M     | 7/14 | 4e-4 | linear | 0.1  | 0.0
ViT-B/{16,32}     | ImageNet-21k | 90   | 1e-3 | linear | 0.03 | 0.1
ViT-L/{16,32}     | ImageNet-21k | 30/90 | 1e-3 | linear | 0.03 | 0.1
ViT-*             | ImageNet     | 300  | 3e-3 | cosine | 0.3  | 0.1
"""
DATA_NAMES = {
    "JFT-300M": "jft",
    "ImageNet-21k": "imagenet21k",
    "ImageNet": "imagenet2012",
}


def printed_table_3():
    """{(model, data, epochs): (learning rate, decay, weight decay, dropout)}."""
    cells = {}
    for line in TABLE_3.strip().splitlines():
        names, data, epochs, rate, decay, *rest = map(str.strip, line.split("|"))
        start, _, choices = names.partition("{")
        for choice in choices.rstrip("}").split(","):
            name = start + choice
            name = name if "ViT" in name else f"BiT-{name}"
            for number in epochs.split("/"):
                row = (float(rate), decay, *map(float, rest))
                cells[name, DATA_NAMES[data], int(number)] = row
    return cells


PRINTED = printed_table_3()
# One of each family takes an abstract step.
STEPPED = {("ViT-H/14", 14), ("BiT-R101x1", 7), ("R50+ViT-L/16", 14), ("ViT-L/32", 300)}


def test_table_3_is_the_papers_cell_by_cell():
    ours = {
        (model, row.data, epochs): (
            row.learning_rate,
            row.decay,
            row.weight_decay,
            row.dropout,
        )
        for row in pretrain.TABLE_3
        for model in row.models
        for epochs in row.epochs
    }
    assert ours == PRINTED and len(ours) == 23


@pytest.mark.parametrize(
    ("model", "data", "epochs"),
    [
        (model.replace("*", size), data, epochs)
        for model, data, epochs in PRINTED
        for size in (("S/16", "L/32") if "*" in model else ("",))
    ],
)
def test_table_3_resolves_and_steps(model, data, epochs):
    spec = f"configs/pretrain.py:model={model},data={data},epochs={epochs}"
    config = read_config(spec, [])
    row = PRINTED.get((model, data, epochs)) or PRINTED["ViT-*", data, epochs]
    optim = config.optim
    assert row == (
        *(optim.learning_rate, optim.schedule, optim.weight_decay),
        config.model.dropout_rate,
    )
    assert config.data.batch_size == 4096 and config.data.image_size == (224, 224)
    assert (optim.name, optim.momentum, optim.b2) == ("adamw", 0.9, 0.999)
    assert optim.clip_norm == (1 if data == "imagenet2012" else 0)
    # google-research/vision_transformer, issues 2, 34 and 89.
    assert (config.loss.name, config.model.head_bias_init) == ("sigmoid", -10)
    assert optim.end_learning_rate == (1e-5 if optim.schedule == "linear" else 0)
    assert config.model.name == model
    assert config.model.pre_logits == ("ViT" in model)
    classes, examples = SIZES[data]
    lengths = resolve_lengths(config, examples)
    assert lengths.warmup == 10_000
    assert lengths.total == round(epochs * examples / 4096)
    create_model(**config.model, num_classes=classes)  # raises for what it cannot be
    if (model, epochs) not in STEPPED:
        return
    shorten(config)
    program = build_program(config, num_classes=classes, lengths=lengths)
    after, _ = jax.eval_shape(
        program.train_step, program.state, program.batch, program.keys
    )
    assert after.params["head"]["kernel"].shape[1] == classes


def test_runs_beside_table_3():
    """A hybrid as its ViT; and the recipes that are our reading."""
    hybrid = pretrain.find_row("R50+ViT-L/16", "imagenet21k")
    assert hybrid == pretrain.find_row("ViT-L/16", "imagenet21k")
    assert pretrain.find_row("R50+ViT-L/16", "jft").learning_rate == 4e-4
    for model, data in (("BiT-R200x3", "jft"), ("ViT-H/14", "imagenet21k")):
        assert pretrain.find_row(model, data) in pretrain.NOT_IN_TABLE_3
    config = read_config("configs/pretrain.py:model=ViT-8B/14,data=jft3b", [])
    assert config.model.depth == 32 and config.model.name == "ViT-G/14"


def test_pretraining_without_a_recipe_is_an_error():
    with pytest.raises(ValueError, match="there are recipes for ViT-B/16, ViT-B/32"):
        read_config("configs/pretrain.py:model=ViT-Ti/14", [])
    with pytest.raises(ValueError, match="wanted one of jft, imagenet21k, imagenet201"):
        read_config("configs/pretrain.py:data=mnist", [])
    with pytest.raises(ValueError, match="recipes for ViT-\\*"):
        read_config("configs/imagenet.py:BiT-R50x1", [])


# arXiv 2106.10270, section 3.3: operations, magnitude, alpha of MixUp.
PRESETS = """
none 0 0 0, light1 2 0 0, light2 2 10 0.2, medium1 2 15 0.2, medium2 2 15 0.5,
strong1 2 20 0.5, strong2 2 20 0.8
"""


@pytest.mark.parametrize("preset", PRESETS.split(","))
@pytest.mark.parametrize("data", ["imagenet2012", "imagenet21k"])
def test_augreg(preset, data):
    name, *numbers = preset.split()
    for reg, wd in (("no", "0.1"), ("yes", "0.03")):
        spec = f"configs/augreg.py:data={data},aug={name},reg={reg},wd={wd},epochs=30"
        config = read_config(spec, [])
        values = (
            *(config.data.randaug_layers, config.data.randaug_magnitude),
            config.mix.mixup_alpha,
        )
        assert values == tuple(map(float, numbers))
        rate = 0.1 if reg == "yes" else 0
        assert config.model.dropout_rate == config.model.stochastic_depth_rate == rate
        assert config.optim.weight_decay == float(wd)
        assert config.train.duration == "30epochs" and config.optim.clip_norm == 1
        assert config.model.pre_logits == (data == "imagenet2012")


def test_augreg_defaults_are_those_of_big_vision():
    choices = {"ViT-Ti/16": "light1", "ViT-S/32": "medium1", "ViT-L/16": "medium2"}
    assert choices.items() <= augreg.DEFAULT_PRESETS["imagenet2012"].items()
    choices = {"ViT-Ti/16": "none", "ViT-S/16": "light1", "ViT-B/16": "light2"}
    assert choices.items() <= augreg.DEFAULT_PRESETS["imagenet21k"].items()
    with pytest.raises(ValueError, match="aug= one of none, light1"):
        read_config("configs/augreg.py:model=ViT-H/14", [])


def test_plain_s16_and_what_its_arms_change():
    """arXiv 2205.01580; big_vision's vit_s16_i1k.py."""
    config = read_config("configs/plain_s16.py", [])
    model, optim = config.model, config.optim
    assert (model.name, model.pooling) == ("ViT-S/16", "gap")
    assert model.positions == "sincos2d"
    assert model.pre_logits and config.loss.name == "softmax"
    assert (optim.learning_rate, optim.weight_decay, optim.clip_norm) == (1e-3, 0.1, 1)
    assert (config.data.randaug_layers, config.data.randaug_magnitude) == (2, 10)
    assert config.mix.mixup_alpha == 0.2 and config.data.batch_size == 1024
    assert not model.class_token_position
    steps = {90: 111_477, 150: 185_794, 300: 371_588}
    for epochs, total in steps.items():
        config = read_config(f"configs/plain_s16.py:{epochs}", [])
        lengths = resolve_lengths(config, round(0.99 * 1_281_167))
        assert abs(lengths.total - total) <= 1

    def changed(arm):
        other = read_config(f"configs/plain_s16.py:epochs=300,arm={arm}", [])
        return set(difference(config, other))

    aug = {"data.randaug_layers", "mix.mixup_alpha"}
    rest = {"model.positions", "data.batch_size", "model.pooling"}
    assert changed("improved") == set() and changed("no_aug") == aug
    assert changed("learned") == {"model.positions"}
    assert changed("batch_4096") == {"data.batch_size"}
    assert changed("token") == {"model.pooling"}
    assert changed("linear_head") == {"model.pre_logits"}
    assert changed("original_aug") == rest and changed("original") == aug | rest


# Google's code draws boxes by `sample_distorted_bounding_box` and has RandAugment's
# accidents; others, and our own recipes, have neither.
@pytest.mark.parametrize(
    "spec, crop, variant",
    [
        *[
            (spec, "inception", "tensorflow")
            for spec in (
                "imagenet.py",
                "pretrain.py",
                "bit.py",
                "plain_s16.py",
                "augreg.py",
                "sam.py",
                "masked_patch.py",
                "finetune.py:model=ViT-B/16,recipe=vit_jax",
                "finetune.py:model=ViT-B/16,recipe=big_vision,dataset=imagenet2012",
            )
        ],
        ("deit3.py", "random_resized_crop", "tensorflow"),
        ("deit3.py:stage=finetune", "random_resized_crop", "intended"),
        ("cifar.py", "random_resized_crop", "intended"),
        ("digits.py", "random_resized_crop", "tensorflow"),
        ("lab.py", "random_resized_crop", "tensorflow"),
    ],
)
def test_sampler_of_the_crop_and_variant_of_randaugment(spec, crop, variant):
    data = read_config(f"configs/{spec}", []).data
    assert (data.crop, data.randaug_variant) == (crop, variant)


# facebookresearch/deit, README_revenge.md: learning rate, pixels, stochastic depth of
# 800 epochs of ImageNet; pixels, epochs, stochastic depth of ImageNet-21k.
DEIT = {
    "ViT-S/16": (4e-3, 224, 0.05, 224, 240, 0.05),
    "ViT-B/16": (3e-3, 192, 0.2, 224, 240, 0.1),
    "ViT-L/16": (3e-3, 192, 0.45, 224, 240, 0.3),
    "ViT-H/14": (3e-3, 154, 0.6, 126, 90, 0.5),  # 160 and 128 in whole patches
}


@pytest.mark.parametrize("model", DEIT)
def test_deit3(model):
    rate, pixels, drop, pixels_21k, epochs_21k, drop_21k = DEIT[model]
    config = read_config(f"configs/deit3.py:model={model}", [])
    assert (config.optim.name, config.optim.learning_rate) == ("lamb", rate)
    assert config.data.image_size == (pixels, pixels)
    assert config.model.stochastic_depth_rate == drop
    assert config.train.duration == "800epochs"
    assert config.loss.name == "sigmoid" and config.loss.round_up
    assert config.model.initialization == "trunc_normal"
    assert (config.data.split, config.eval.splits) == ("train", ("validation",))
    assert (config.mix.mixup_alpha, config.mix.cutmix_alpha) == (0.8, 1.0)
    assert config.data.three_augment and config.data.color_jitter == 0.3
    assert config.data.batch_size == 2048
    assert config.data.crop == "random_resized_crop"
    assert config.data.repeated_augmentation == 3
    config = read_config(f"configs/deit3.py:model={model},data=imagenet21k", [])
    assert config.data.image_size == (pixels_21k, pixels_21k)
    assert config.train.duration == f"{epochs_21k}epochs"
    assert config.model.stochastic_depth_rate == drop_21k
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 0.02)
    assert config.data.repeated_augmentation == 1  # --no-repeated-aug
    assert config.data.crop == "padded_random_crop" and config.mix.mixup_alpha == 0
    config = read_config(f"configs/deit3.py:model={model},stage=finetune", [])
    assert config.data.repeated_augmentation == 1
    assert (config.loss.name, config.loss.label_smoothing) == ("softmax", 0.1)
    assert config.resample == "bicubic_plain"


# wangf3014/ViT-5, README.md: learning rate, pixels, epochs, stochastic depth of the
# pre-training and of the fine-tuning; parameters of its models at those pixels.
VIT5 = {
    "ViT-S/16": (4e-3, 224, 800, 0.05, 0.05, 22_039_144),
    "ViT-B/16": (3e-3, 192, 800, 0.2, 0.25, 86_503_144),
    "ViT-L/16": (3e-3, 192, 400, 0.35, 0.5, 304_204_776),
}


@pytest.mark.parametrize("model", VIT5)
def test_vit5(model):
    rate, pixels, epochs, drop, drop_finetune, parameters = VIT5[model]
    config = read_config(f"configs/vit5.py:model={model}", [])
    assert (config.optim.name, config.optim.learning_rate) == ("lamb", rate)
    assert (config.optim.weight_decay, config.optim.warmup) == (0.05, "5epochs")
    assert (config.data.batch_size, config.data.image_size) == (2048, (pixels, pixels))
    assert config.data.three_augment and config.data.color_jitter == 0.3
    assert config.data.repeated_augmentation == 3
    assert (config.mix.mixup_alpha, config.mix.cutmix_alpha) == (0.8, 1)
    assert (config.loss.name, config.loss.label_smoothing) == ("sigmoid", 0)
    assert config.model.stochastic_depth_rate == drop
    assert config.train.duration == f"{epochs}epochs"
    assert (config.train.ema_decay, config.train.ema_ramp) == (0.99996, False)
    vit = create_model(
        **config.model, num_classes=1000, image_size=config.data.image_size
    )
    shapes = parameter_shapes(vit)
    assert sum(map(math.prod, shapes.values())) == parameters
    config = read_config(f"configs/vit5.py:model={model},stage=finetune", [])
    assert (config.optim.name, config.optim.learning_rate) == ("adamw", 1e-5)
    assert (config.optim.weight_decay, config.data.batch_size) == (0.1, 512)
    assert (config.train.duration, config.data.image_size) == ("20epochs", (224, 224))
    assert (config.loss.name, config.loss.label_smoothing) == ("softmax", 0.1)
    assert config.data.repeated_augmentation == 1 and not config.data.three_augment
    assert (config.data.randaug_layers, config.data.randaug_magnitude) == (2, 9)
    assert config.model.stochastic_depth_rate == drop_finetune
    assert config.resample == "bicubic_plain" and not config.train.ema_decay


def test_vit5_is_the_model_of_its_authors_checkpoints(tmp_path):
    config = read_config("configs/vit5.py", [])
    vit = create_model(**config.model, depth=1, num_classes=2, image_size=224)
    shapes = jax.eval_shape(partial(init_params, vit), jax.random.key(0))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    path = tmp_path / "vit5.safetensors"
    assert save_checkpoint(path, vit, params, layout="vit5") == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vit5.py:model=ViT-H/14", "wanted a model of ViT-S/16, ViT-B/16, ViT-L/16"),
        ("vit5.py:stage=from21k", "a stage of pretrain, finetune"),
        ("deit3.py:model=ViT-Ti/16", "wanted a model of ViT-S/16"),
        ("deit3.py:stage=finetune,data=imagenet21k", "last two on imagenet2012"),
        ("plain_s16.py:arm=gap", "wanted one of improved, no_aug"),
        ("cifar.py:size=tiny", "wanted full, cpu or mini"),
        ("cifar.py:size=mini,family=hybrid", "wanted vit, or with size=cpu also"),
        ("bit.py:model=ViT-B/16", "wanted a model such as BiT-R50x1"),
        ("finetune.py:table=6", "table=2 or 5"),
        ("vtab.py:task=cars", f"wanted one of {', '.join(vtab.TASKS)}"),
    ],
)
def test_wrong_arguments_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        read_config(f"configs/{spec}", [])
