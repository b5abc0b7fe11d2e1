"""Flags: one convention, old spellings with a word, the nearest one for a wrong one."""

import argparse
import subprocess
import sys

import pytest

from vit_jax import cli
from vit_jax.__main__ import COMMANDS
from vit_jax.command_list import first_line
from vit_jax.config_file import read_config


def parser_of(**options):
    parser = cli.command_parser("vit_jax.some", "Some text.")
    cli.add_checkpoint_argument(parser, **options)
    parser.add_argument("--allow-config-change", action="store_true")
    return parser


def parse(*words, config=False, **options):
    parser = parser_of(**options)
    if config:
        cli.add_config_arguments(parser)
    return cli.parse(parser, list(words))


def test_the_first_word_is_the_checkpoint_where_the_flag_is_missing(capsys):
    options = {"words": "images", "most": 9}
    found = parse("run", "a.jpg", "b.jpg", **options)
    assert (found.checkpoint, found.images) == ("run", ["a.jpg", "b.jpg"])
    assert "use --checkpoint run" in capsys.readouterr().err
    found = parse("--checkpoint", "run", "a.jpg", **options)
    assert (found.checkpoint, found.images) == ("run", ["a.jpg"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: --checkpoint"),
        (["run", "one", "two"], "unknown arguments: two"),
        (["run", "--allow-config-changes"], "did you mean --allow-config-change?"),
        (["run", "--zzz"], "--help lists those that there are"),
        (["run", "--config.seed=1"], "unknown argument --config.seed"),
    ],
)
def test_wrong_words(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*words, words="folder", most=1)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_old_spellings_are_taken_with_a_word(capsys):
    assert parse("run", "--allow_config_change").allow_config_change
    assert "use --allow-config-change\n" in capsys.readouterr().err


def test_init_is_a_short_form(capsys):
    words = ("--checkpoint=x", "--config=digits", "--init=y", "--config.seed=1")
    found = parse(*words, config=True)
    assert found.overrides == ["--config.seed=1", "--config.init=y"]
    assert capsys.readouterr().err == ""


def parse_model(*words):
    parser = parser_of()
    cli.add_model_options(parser)
    return cli.parse(parser, ["--checkpoint=x", *words])


def test_options_of_the_model_have_their_types():
    assert parse_model().model_options == {}
    found = parse_model(
        "--model.pixel_mean=0.485,0.456,0.406",
        "--model.num_heads=6",
        "--model.activation=gelu",
        "--model.class_token_position=false",
    )
    assert found.model_options == {
        "pixel_mean": (0.485, 0.456, 0.406),
        "num_heads": 6,
        "activation": "gelu",
        "class_token_position": False,
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--model.pixel_meen=1", "no model has this option; did you mean pixel_mean?"),
        (
            "--model.num_heads=six",
            "--model.num_heads=six: wanted a whole number",
        ),
        ("--model.activation", "wanted --model.activation=value, without a space"),
    ],
)
def test_wrong_options_of_the_model(word, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_model(word)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_commands_without_a_model_take_no_options_of_one(capsys):
    with pytest.raises(SystemExit):
        parse("run", "--model.num_heads=6")
    assert "unknown argument --model.num_heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--optim.lr=1", "did you mean --config.optim.lr=1?"),
        ("--epochs=3", "did you mean --config.train.duration=3epochs?"),
        ("--batch-size", "did you mean --config.data.batch_size?"),
        ("--config.seed", "wanted --config.seed=value, without a space"),
    ],
)
def test_keys_without_config_are_hinted_at(word, hint, capsys):
    with pytest.raises(SystemExit):
        parse("--checkpoint=x", "--config=digits", word, "1", config=True)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("384", (384, 384)), ("384x512", (384, 512))]
)
def test_image_sizes(text, size):
    assert cli.image_size(text) == size


@pytest.mark.parametrize("text", ["0", "12x", "axb", "1x2x3"])
def test_wrong_image_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="wanted pixels"):
        cli.image_size(text)


@pytest.mark.parametrize("name", ["digits", "digits.py", "configs/digits.py"])
def test_configs_are_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_config(name, []).data.name == "digits"


def test_a_config_elsewhere_imports_those_of_the_library(tmp_path):
    (tmp_path / "sibling.py").write_text("RATE = 7.0\n")
    (tmp_path / "mine.py").write_text(
        "from configs import digits, sibling\n\n\ndef get_config():\n"
        "    config = digits.get_config()\n"
        "    config.optim.learning_rate = sibling.RATE\n    return config\n"
    )
    assert read_config(str(tmp_path / "mine.py"), []).optim.learning_rate == 7


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True
    )


def test_the_list_names_every_command_and_runs_each():
    listed = run("vit_jax").stdout
    for name in COMMANDS:
        assert f"  {name} " in listed and first_line(f"vit_jax.{name}") in listed
    assert "vit_jax.interop.hub" in run("vit_jax", "interop.hub", "--help").stdout
    wrong = run("vit_jax", "trian")
    assert wrong.returncode == 1 and "did you mean train" in wrong.stderr


@pytest.mark.parametrize(
    ("package", "line"),
    [("experiments", "Table 8, Fig. 10"), ("benchmarks", "speed_vs_peers")],
)
def test_lists_of_experiments_and_benchmarks(package, line):
    assert line in run(package).stdout
