"""`train.deterministic`: the options of the compiler, and what a run prints."""

import pytest

from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.fleet import program
from vit_jax.parallel import determinism
from vit_jax.training import loop, setup

TINY = ("model.depth=1", "model.width=32", "model.mlp_dim=64", "data.batch_size=32")


def tiny_config(*overrides):
    texts = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", texts)


def test_only_gpus_have_options():
    assert determinism.compiler_options("gpu", True)["xla_gpu_deterministic_ops"]
    usual = determinism.compiler_options("gpu", False)
    assert usual == determinism.PRODUCTS and "xla_gpu_deterministic_ops" not in usual
    for platform in ("cpu", "tpu"):
        assert determinism.compiler_options(platform, True) is None
    assert "bit-identical" in determinism.in_words("gpu", True)
    assert determinism.in_words("gpu", False).startswith("not deterministic")
    assert determinism.in_words("tpu", False) == ""


def recorded(platform, wanted):
    return {"xla_no_such_option": f"{platform} {wanted}"}


def test_the_options_reach_all_programs_of_a_run(monkeypatch):
    monkeypatch.setattr(setup, "compiler_options", recorded)
    config = tiny_config("train.deterministic=true")
    lengths = resolve_lengths(config, 1000)
    program = setup.build_program(config, num_classes=10, lengths=lengths)
    for run in (
        program.make_keys,
        program.init_state,
        program.train_step.lower(program.state, program.batch, program.keys).compile,
        lambda: setup.lower_evaluation(program, config.eval.batch_size).compile(),
    ):
        with pytest.raises(Exception, match="xla_no_such_option"):
            run()


def test_the_options_reach_a_fleet(monkeypatch):
    monkeypatch.setattr(program, "compiler_options", recorded)
    key = program.program_key(tiny_config("train.deterministic=true"))
    fleet = program.make_program(key, 10, 1, 1)
    with pytest.raises(Exception, match="xla_no_such_option"):
        fleet.draw(0)


def test_a_run_says_which_it_is(tmp_path, capsys):
    config = tiny_config("train.deterministic=true", "train.duration=1steps")
    config.optim.warmup = "0steps"
    loop.train(config, tmp_path)
    assert "deterministic: as always on CPUs" in capsys.readouterr().out
