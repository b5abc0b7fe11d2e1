"""Configs: every one resolves, and every wrong key is named before anything starts."""

import re

import ml_collections
import pytest

from vit_jax.config import (
    OTHER_NAMES,
    ConfigError,
    check_config,
    difference,
    parse_duration,
    resolve_lengths,
)
from vit_jax.config_file import all_keys, call_get_config, read_config
from vit_jax.storage.run_files import load_config
from vit_jax.training.sections import config_sections


@pytest.fixture
def config():
    return read_config("configs/digits.py", [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=1", "did you mean 'optim.learning_rate'"),
        ("train.learning_rate=1", "did you mean 'optim.learning_rate'"),
        ("learning_rate=1", "did you mean 'optim.learning_rate'"),
        ("modle.name=x", "did you mean 'model.name'"),
        ("optim=1", "unknown config key 'optim'"),
        ("train.epochs=3", r"'train.duration', as --config.train.duration=3epochs\?"),
        ("steps=50", "--config.train.duration=50steps"),
        ("lr=0.1", r"--config.optim.learning_rate=0\.1"),
        ("train.batch_size=8", "did you mean 'data.batch_size'"),
        ("eval.batch=8", "did you mean 'eval.batch_size'"),
        ("optim.wd=0.1", "did you mean 'optim.weight_decay'"),
        ("model=ViT-B/16", "did you mean 'model.name'"),
        ("image_size=64", "did you mean 'data.image_size'"),
        ("num_workers=4", "did you mean 'data.workers'"),
        ("seed=many", "wanted a whole number in"),
        ("optim.learning_rate=fast", "wanted a number of at least 0"),
        ("data.image_size=big", "wanted pixels"),
        (f"data.image_size={'9' * 5000}", "wanted pixels"),
        ("log.tensorboard=maybe", "wanted true or false"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        read_config("configs/digits.py", [f"--config.{override}"])


@pytest.mark.parametrize("key", ["seed.x", "seed.__abs__", "model.name.x", "seed.x.y"])
def test_a_key_within_a_value_is_no_key(key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        read_config("digits", [f"--config.{key}=1"])


def test_overrides_take_the_type_of_the_default():
    config = read_config(
        "configs/digits.py",
        [
            "--config.optim.learning_rate=1",
            "--config.data.image_size=24x32",
            "--config.data.crop_area=(0.1, 1)",
            "--config.eval.splits=val,test",
            "--config.log.tensorboard=false",
            "--config.data.name=/a=b:c",
            "--config.optim.freeze=embedding,encoder/block_0[0-3]",
        ],
    )
    assert config.optim.learning_rate == 1.0
    assert isinstance(config.optim.learning_rate, float)
    assert config.data.image_size == (24, 32)
    assert config.data.crop_area == (0.1, 1)
    assert config.eval.splits == ("val", "test")
    assert config.log.tensorboard is False
    assert config.data.name == "/a=b:c"
    assert config.optim.freeze == ("embedding", "encoder/block_0[0-3]")


def test_a_section_in_the_place_of_a_value_is_one_line(config):
    with config.ignore_type():
        config.model.name = {"a": {"b": 1}}
    with pytest.raises(ConfigError, match="model.name is .'a': .'b': 1.*: wanted text"):
        check_config(config, config_sections())


def test_config_file_errors(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_config(str(tmp_path / "none.py"), [])
    with pytest.raises(ConfigError, match="it takes no arguments"):
        read_config("configs/digits.py:model=B", [])
    for name in ("", ".", "/", "..", ".py", "x" * 300):
        with pytest.raises(ConfigError, match=f"--config={name}: there is no such"):
            read_config(name, [])


def test_a_file_that_is_no_config(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ConfigError, match=r"empty\.py does not define get_config\(\)"):
        read_config(str(tmp_path / "empty.py"), [])
    (tmp_path / "broken.py").write_text("\nx = (")
    with pytest.raises(ConfigError, match=r"broken\.py, line 2: "):
        read_config(str(tmp_path / "broken.py"), [])
    (tmp_path / "none.py").write_text("def get_config(): pass")
    with pytest.raises(ConfigError, match="get_config returned a NoneType"):
        read_config(str(tmp_path / "none.py"), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit", r"mine\.py, line 1: SystemExit$"),
        ("\ndef get_config():\n    exit(3)", r"mine\.py, line 3: SystemExit: 3$"),
        ("def get_config():\n    return {}['a']", r"mine\.py, line 2: KeyError: 'a'$"),
        ("import no_such_module", r"mine\.py, line 1: ModuleNotFoundError: No modul"),
    ],
)
def test_a_config_that_fails_or_exits_is_told_with_its_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(str(tmp_path / "mine.py"), [])


def test_a_path_may_have_commas():
    config = read_config("folder:data=/photos/a,b,size=64", [])
    assert config.data.name == "/photos/a,b"
    assert config.data.image_size == (64, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "train.duration=1e15steps",
            r"^train\.duration: '1e15steps' is 1e\+15 steps: ",
        ),
        ("train.duration=0epochs", r"^train\.duration is '0epochs': wanted a step"),
        ("optim.warmup=soon", r"^optim\.warmup: 'soon' is not a duration"),
        ("eval.every=0steps", r"^checkpoint\.keep_best needs .* \(0 steps\)"),
    ],
)
def test_durations_that_cannot_be_name_their_key(change, message):
    overrides = ["--config.checkpoint.keep_best=1", f"--config.{change}"]
    config = read_config("digits", overrides)
    with pytest.raises(ConfigError, match=message):
        resolve_lengths(config, 1000)


def test_what_others_call_a_key_leads_to_one_that_there_is():
    keys = all_keys(read_config("digits", []))
    assert set(OTHER_NAMES.values()) <= {key.removesuffix(".") for key in keys}


def test_a_key_that_nobody_reads_is_found(config):
    config.optim.lr = 0.1
    with pytest.raises(ConfigError, match=r"unknown config key 'optim\.lr'"):
        check_config(config, config_sections())


def test_a_missing_key_is_found(config):
    del config.optim["name"]
    with pytest.raises(ConfigError, match=r"lacks optim\.name"):
        check_config(config, config_sections())


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("3epochs", 30),
        ("1epoch", 10),
        ("0.5epochs", 5),
        ("7steps", 7),
        ("1e3examples", 10),
        ("1example", 1),
        ("10%", 20),
        ("0steps", 0),
    ],
)
def test_durations(text, steps):
    result = parse_duration(
        text, batch_size=100, examples_per_epoch=1000, total_steps=200
    )
    assert result == steps


@pytest.mark.parametrize("text", ["", "10", "ten steps", "5minutes", "-1steps"])
def test_wrong_durations(text):
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text, batch_size=1, examples_per_epoch=1)


def test_a_saved_config_comes_back_the_same(config, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert difference(load_config(path), config) == {}
    assert load_config(path).data.image_size == config.data.image_size
    config.optim.learning_rate = 7.0
    assert difference(load_config(path), config) == {"optim.learning_rate": (2e-3, 7.0)}


def test_load_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="wanted the folder of a training run"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable"):
        load_config(tmp_path / "config.json")


def test_base_config_is_a_plain_config_dict(config):
    assert isinstance(config, ml_collections.ConfigDict)
    check_config(config, config_sections())


def test_commas_and_equal_signs_in_the_arguments_of_a_config():
    def get_config(data="", size=""):
        return ml_collections.ConfigDict({"data": data, "size": size})

    for text, wanted in (
        ("data=a,b/c=d,size=3", ("a,b/c=d", "3")),
        ("/photos/x=1,y", ("/photos/x=1,y", "")),
        ("size=3,data=~/x, y", ("~/x, y", "3")),
    ):
        config = call_get_config(get_config, text, "")
        assert (config.data, config["size"]) == wanted
    with pytest.raises(ConfigError, match="sise.*it takes data, size"):
        call_get_config(get_config, "data=x,sise=3", "")
