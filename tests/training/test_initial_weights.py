"""Runs that start from a checkpoint, and the sweep of the learning rate."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from configs import digits
from configs.finetune import get_config as get_finetune_config
from vit_jax import sweep
from vit_jax.data.pipeline import Data
from vit_jax.interop import save_checkpoint
from vit_jax.interop.adapt import HEADS
from vit_jax.interop.trained import load_trained
from vit_jax.models import create_model, init_params
from vit_jax.parallel import sharding
from vit_jax.storage.run_files import load_config
from vit_jax.training import loop
from vit_jax.training.initial_weights import draw
from vit_jax.training.step import named_keys

ARCHITECTURE = dict(
    depth=1, width=32, mlp_dim=64, num_heads=2, norm_epsilon=1e-5, activation="gelu"
)


def tiny(init="", **overrides):
    """Two steps on digits; with `init` the model is left to the checkpoint."""
    config = digits.get_config()
    config.init = str(init)
    config.model.update(name="" if init else "ViT-mu/2", pooling="token")
    if init:
        for key in ("depth", "width", "mlp_dim", "num_heads"):
            if key in config.model:
                del config.model[key]
    else:
        config.model.update(ARCHITECTURE)
    config.data.batch_size = 32
    config.optim.update(warmup="0steps", learning_rate=1e-2)
    config.train.update(duration="2steps", ema_decay=0.0)
    config.eval.batch_size = 512
    config.log.tensorboard = False
    for key, value in overrides.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("origin")
    loop.train(tiny(), folder)
    return folder


def test_the_model_is_that_of_the_checkpoint(origin, tmp_path, capsys):
    config = tiny(origin, model__dropout_rate=0.3, optim__learning_rate=0.0)
    loop.train(config, tmp_path / "run")
    here, there = load_trained(tmp_path / "run"), load_trained(origin)
    assert here.model == there.model.clone(dropout_rate=0.3)
    np.testing.assert_array_equal(
        here.params["head"]["kernel"], there.params["head"]["kernel"]
    )
    saved = load_config(tmp_path / "run" / "config.json")
    assert saved.model.name == "ViT-mu/2" and saved.model.activation == "gelu"
    # The command as it was goes on with the folder, also without the checkpoint.
    config.init = str(origin)
    loop.train(config, tmp_path / "run")
    assert "replaced" not in capsys.readouterr().out


def test_twice_the_resolution(origin, tmp_path, caplog):
    caplog.set_level("INFO", "vit_jax")
    config = tiny(origin, data__image_size=(32, 24))
    loop.train(config, tmp_path)
    assert "positions resampled from 8x8 to 16x12" in caplog.text
    run = load_trained(tmp_path)
    assert run.params["positions"]["embedding"].shape == (1, 193, 32)


@pytest.mark.parametrize("names", ["abcdefghij", "9876543210"])
def test_other_classes_of_the_same_number_get_a_new_head(
    names, origin, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Data, "label_names", lambda _: tuple(names))
    loop.train(tiny(origin, optim__learning_rate=0.0), tmp_path)
    assert "replaced by new head" in capsys.readouterr().out
    assert not load_trained(tmp_path).params["head"]["kernel"].any()


def test_a_tanh_layer_goes_with_the_head(tmp_path, capsys):
    loop.train(tiny(model__pre_logits=True), tmp_path / "pre")
    loop.train(tiny(tmp_path / "pre"), tmp_path / "run")
    assert "head and pre_logits" in capsys.readouterr().out
    assert "pre_logits" not in load_trained(tmp_path / "run").params


def test_what_is_new_is_drawn_as_in_any_run():
    model = create_model("ViT-mu/2", num_classes=3, image_size=8, pre_logits=True)
    whole = init_params(model, named_keys(7).params)
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1)
    placed = sharding.state_shardings(whole, whole, mesh)
    new = draw(model, 7, {"pre_logits": placed["pre_logits"]})
    assert new.keys() == {"pre_logits"}
    assert np.abs(new["pre_logits"]["kernel"]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, new["pre_logits"], whole["pre_logits"])


def test_other_numerics_are_an_error(origin, tmp_path):
    config = tiny(model__activation="relu")
    config.init = str(origin)
    with pytest.raises(ValueError, match="activation is 'gelu' there, 'relu' here"):
        loop.train(config, tmp_path)


def test_what_the_config_says_of_the_model_stays(origin, tmp_path):
    config = tiny(origin, model__norm_epsilon=1e-3)
    with pytest.raises(ValueError, match="norm_epsilon is 1e-05 there, 0.001 here"):
        loop.train(config, tmp_path)


@pytest.fixture
def bare(origin, tmp_path):
    """The weights of a run in a file of timm's layout, which tells no numerics."""
    path, trained = tmp_path / "bare.safetensors", load_trained(origin)
    model = trained.model.clone(activation="gelu", norm_epsilon=1e-6)
    save_checkpoint(path, model, trained.params, layout="timm")
    save_file(load_file(path), path)
    return path


def test_what_a_file_does_not_tell_is_as_the_config_says(bare, tmp_path):
    numerics = {"pixel_mean": (0.1, 0.2, 0.3), "num_heads": 4, "activation": "relu"}
    changed = {f"model__{name}": value for name, value in numerics.items()}
    loop.train(tiny(bare, optim__learning_rate=0.0, **changed), tmp_path / "run")
    here, there = load_trained(tmp_path / "run"), load_trained(bare, **numerics)
    assert {name: getattr(here.model, name) for name in numerics} == numerics
    for name in ("embedding", "encoder"):  # the head is new: its classes have no names
        jax.tree.map(
            np.testing.assert_array_equal, here.params[name], there.params[name]
        )


def test_a_default_of_the_config_is_no_choice(bare, tmp_path):
    """The config says neither, and the file is usually of the exact GELU."""
    config = tiny(model__activation="gelu_tanh", model__norm_epsilon=1e-6)
    config.init = str(bare)
    with pytest.raises(ValueError, match="activation is 'gelu' there, 'gelu_tanh'"):
        loop.train(config, tmp_path / "run")


def test_neither_model_nor_checkpoint(tmp_path):
    config = tiny(model__name="")
    with pytest.raises(ValueError, match="name a model.*--init"):
        loop.train(config, tmp_path)
    assert not list(tmp_path.iterdir())


PROBE = get_finetune_config("ViT-B/16", "cifar10", probe="yes").optim.freeze


def moved(folder, start):
    """The largest change of each parameter of a run from where it started."""
    here, there = load_trained(folder).params, load_trained(start).params
    change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), here, there)
    return traverse_util.flatten_dict(change, sep="/")


def test_a_linear_probe_leaves_the_backbone(origin, tmp_path):
    loop.train(tiny(origin, optim__freeze=PROBE), tmp_path)
    changes = moved(tmp_path, origin)
    heads = {name: changes.pop(name) for name in ("head/kernel", "head/bias")}
    assert min(heads.values()) > 1e-4 and set(changes.values()) == {0}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The run of a model with a distillation token."""
    folder = tmp_path_factory.mktemp("distilled")
    loop.train(tiny(model__distillation_token=True), folder)
    return folder


def test_a_linear_probe_of_a_distilled_model_trains_both_heads(distilled, tmp_path):
    loop.train(tiny(distilled, optim__freeze=PROBE), tmp_path)
    changes = moved(tmp_path, distilled)
    names = [f"{head}/{part}" for head in HEADS for part in ("kernel", "bias")]
    heads = {name: changes.pop(name) for name in names}
    assert min(heads.values()) > 1e-4 and set(changes.values()) == {0}


def test_other_classes_give_a_distilled_model_two_new_heads(
    distilled, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Data, "label_names", lambda _: tuple("abcdefghij"))
    loop.train(tiny(distilled, optim__learning_rate=0.0), tmp_path)
    message = f"init: head and distillation_head of {distilled} replaced by new head"
    assert message in capsys.readouterr().out
    run = load_trained(tmp_path)
    assert run.model.distillation_token
    for name in HEADS:
        assert not run.params.pop(name)["kernel"].any()
    assert len(run.params) == 5
    there = load_trained(distilled).params
    jax.tree.map(
        np.testing.assert_array_equal, run.params, {n: there[n] for n in run.params}
    )


def test_a_distilled_checkpoint_is_no_plain_model(distilled, tmp_path):
    config = tiny()
    config.init = str(distilled)
    with pytest.raises(ValueError, match="distillation_token is True there, False he"):
        loop.train(config, tmp_path)


@pytest.mark.full
def test_the_sweep_takes_the_best_and_trains_on_all(tmp_path, monkeypatch):
    config = tiny(
        sweep__learning_rates=(1e-9, 3e-3),
        sweep__train_split="train[:90%]",
        sweep__dev_split="train[90%:]",
        train__duration="12steps",
    )
    accuracies, best, results = sweep.sweep(config, tmp_path)
    assert best == 3e-3 == max(accuracies, key=accuracies.get)
    assert set(results) == {"test"}
    trial, final = (
        load_trained(tmp_path / name).config for name in ("rate_0.003", "final")
    )
    assert trial.data.split == "train[:90%]" and trial.eval.splits == ("train[90%:]",)
    assert final.data.split == "train" and final.optim.learning_rate == 3e-3
    # Nothing is trained twice.
    monkeypatch.setattr(loop.Meter, "add", lambda *_: pytest.fail("trained again"))
    again = sweep.sweep(config, tmp_path)
    assert again[0] == accuracies and again[2]["test"] == results["test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval__splits": ("nothing",)}, "nothing"),
        ({"data__split": "train[:0%]"}, "train"),
        ({"train__duration": "400steps", "optim__warmup": "401steps"}, "warmup"),
    ],
)
def test_the_sweep_checks_its_final_run_before_the_trials(
    tmp_path, monkeypatch, change, message
):
    config = tiny(
        sweep__learning_rates=(1e-3, 3e-3),
        sweep__train_split="train[:90%]",
        sweep__dev_split="train[90%:]",
        **change,
    )
    monkeypatch.setattr(sweep, "train", lambda *_, **__: pytest.fail("was trained"))
    with pytest.raises(ValueError, match=message):
        sweep.sweep(config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_sweep_compares_the_averages_where_asked(tmp_path, monkeypatch):
    config = tiny(
        sweep__learning_rates=(1e-3, 3e-3),
        sweep__train_split="train[:90%]",
        sweep__dev_split="dev",
    )
    monkeypatch.setattr(sweep, "prepare", lambda *_: None)
    # The parameters are best at the smaller rate, their average at the larger one.
    ranked = {1e-3: (0.9, 0.2), 3e-3: (0.1, 0.8)}

    def train(config, *_, **__):
        pair = zip(("dev", "dev_ema"), ranked[config.optim.learning_rate], strict=True)
        return {split: {"accuracy": accuracy} for split, accuracy in pair}

    monkeypatch.setattr(sweep, "train", train)
    assert sweep.sweep(config, tmp_path)[1] == 1e-3
    config.sweep.best_weights = "ema"
    with pytest.raises(ValueError, match="sweep.best_weights=ema needs an average"):
        sweep.sweep(config, tmp_path)
    config.train.ema_decay = 0.9
    assert sweep.sweep(config, tmp_path)[:2] == ({1e-3: 0.2, 3e-3: 0.8}, 3e-3)


def test_the_sweep_needs_its_section(tmp_path):
    command = [sys.executable, "-m", "vit_jax.sweep", "--config=configs/digits.py"]
    result = subprocess.run(
        [*command, "--workdir", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and not (tmp_path / "x").exists()
    assert "error: sweep.learning_rates, sweep.train_split" in result.stderr
