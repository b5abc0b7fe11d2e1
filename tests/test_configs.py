"""Every config resolves, builds, and runs one abstract step."""

from pathlib import Path

import jax
import pytest

from configs import families
from vit_jax import cli
from vit_jax.build import build
from vit_jax.config import resolve_lengths
from vit_jax.data.pipeline import Data

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
}
SPECS = (
    "digits.py",
    "fashion_mnist.py",
    "cifar.py",
    "cifar.py:data=cifar100",
    "cifar.py:size=mini",
    "imagenet.py",
    "imagenet.py:ViT-L/32",
    "pretrain.py",
    "pretrain.py:model=ViT-H/14,data=jft",
    "pretrain.py:model=BiT-R50x1,data=jft",
    "pretrain.py:model=ViT-L/16,data=imagenet2012",
    "plain_s16.py",
    "plain_s16.py:300",
    "finetune.py:model=ViT-B/16",
    "finetune.py:model=ViT-L/16,dataset=oxford_iiit_pet,recipe=vit_jax",
    "finetune.py:model=R50+ViT-B/16,dataset=imagenet2012,recipe=big_vision",
    "finetune.py:model=BiT-R50x1,dataset=cifar100,size=128,probe=yes",
    *(f"families.py:family={family}" for family in families.MODELS),
    "folder.py:data=photos,size=64",
    "folder.py:data=photos,size=64,model=BiT-R26x1",
)


def test_every_config_is_tested():
    files = {path.name for path in Path("configs").glob("*.py")}
    tested = {spec.partition(":")[0] for spec in SPECS} | {"__init__.py", "base.py"}
    assert tested == files


@pytest.mark.parametrize("spec", SPECS)
def test_config_builds_and_steps(spec, monkeypatch):
    monkeypatch.setattr(Data, "check_splits", lambda *_: None)
    monkeypatch.setattr(
        Data, "label_names", lambda d: tuple(map(str, range(SIZES[d.name][0])))
    )
    monkeypatch.setattr(Data, "num_examples", lambda d: SIZES[d.name][1])
    config = cli.read_config(f"configs/{spec}", [])
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


def test_table_3_in_steps():
    """Batch 4096, 300 epochs of 99 % of ImageNet; 93.8 k steps with all of it."""
    config = cli.read_config("configs/imagenet.py", [])
    lengths = resolve_lengths(config, 1_281_167)
    assert lengths.warmup == 10_000 and abs(lengths.total - 93_836) <= 1


@pytest.mark.parametrize(
    ("dataset", "steps", "rates", "train_split", "split"),
    [
        (
            "imagenet2012",
            20_000,
            (0.003, 0.01, 0.03, 0.06),
            "train[:99%]",
            "validation",
        ),
        ("cifar10", 10_000, (0.001, 0.003, 0.01, 0.03), "train[:98%]", "test"),
        ("oxford_iiit_pet", 500, (0.001, 0.003, 0.01, 0.03), "train[:90%]", "test"),
    ],
)
def test_table_4(dataset, steps, rates, train_split, split):
    """Steps and grids of Table 4, the held-out parts of section 4.1 (B.1.1)."""
    spec = f"configs/finetune.py:model=ViT-B/16,dataset={dataset}"
    config = cli.read_config(spec, [])
    assert config.train.duration == f"{steps}steps"
    assert config.sweep.learning_rates == rates
    assert config.sweep.train_split == train_split
    assert config.sweep.dev_split == train_split.replace("[:", "[").replace("]", ":]")
    assert config.eval.splits == (split,) and config.data.split == "train"
    assert (config.optim.name, config.optim.momentum) == ("sgd", 0.9)
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0, 1)
    assert config.data.batch_size == 512 and config.data.image_size == (384, 384)
    assert config.data.crop_resize == 448


def test_a_wrong_recipe_is_named():
    with pytest.raises(ValueError, match="wanted a recipe of paper, vit_jax"):
        cli.read_config("configs/finetune.py:recipe=papers", [])


@pytest.mark.parametrize(
    ("arguments", "examples", "steps", "rate", "decay"),
    [
        ("model=ViT-B/32", 14_197_122, 311_948, 1e-3, 0.03),
        ("model=ViT-L/16,epochs=30", 14_197_122, 103_983, 1e-3, 0.03),
        ("model=ViT-L/16,data=jft,epochs=7", 303_000_000, 517_822, 4e-4, 0.1),
        ("model=ViT-H/14,data=jft", 303_000_000, 1_035_645, 3e-4, 0.1),
        ("model=R50+ViT-L/32,data=jft", 303_000_000, 517_822, 2e-4, 0.1),
        ("model=BiT-R152x2,data=jft", 303_000_000, 517_822, 6e-4, 0.1),
    ],
)
def test_table_3_of_pretraining(arguments, examples, steps, rate, decay):
    config = cli.read_config(f"configs/pretrain.py:{arguments}", [])
    lengths = resolve_lengths(config, examples)
    assert (lengths.total, lengths.warmup) == (steps, 10_000)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (rate, decay)
    assert config.optim.schedule == "linear" and config.data.batch_size == 4096
    assert config.model.dropout_rate == (0.1 if "jft" not in arguments else 0)


def test_pretraining_without_a_recipe_is_an_error():
    with pytest.raises(ValueError, match="there are recipes for ViT-B, ViT-L"):
        cli.read_config("configs/pretrain.py:model=ViT-H/14", [])
    with pytest.raises(ValueError, match="wanted one of imagenet2012"):
        cli.read_config("configs/pretrain.py:data=mnist", [])
