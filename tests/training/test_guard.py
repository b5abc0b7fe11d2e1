"""Faulty steps: stopped, skipped, or rolled back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config_file import read_config
from vit_jax.interop.trained import load_trained
from vit_jax.storage.run_files import read_metrics
from vit_jax.training import loop
from vit_jax.training.guard import Faults, FaultyStep, Guard
from vit_jax.training.step import TrainState


def guard(policy="stop", spike=0.0, max_faults=2):
    return Guard(policy=policy, spike=spike, max_faults=max_faults)


def state(step, value, loss_mean=0.0):
    value = jnp.float32(value)
    return TrainState(
        jnp.int32(step), {"x": value}, (), None, jnp.float32(loss_mean), jnp.int32(0)
    )


def apply(guard, loss, *, grad_norm=1.0, loss_mean=1.0):
    metrics = {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm)}
    new, metrics = jax.jit(guard)(state(4, 1, loss_mean), state(5, 2), metrics)
    return new, bool(metrics["fault"])


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
@pytest.mark.parametrize(
    ("loss", "grad_norm", "spike", "fault"),
    [
        (1.0, 1.0, 0.0, False),
        (jnp.nan, 1.0, 0.0, True),
        (1.0, jnp.inf, 0.0, True),
        (2.9, 1.0, 3.0, False),
        (3.1, 1.0, 3.0, True),
        (1e9, 1.0, 0.0, False),
    ],
)
def test_what_is_a_fault_and_what_is_left_of_it(policy, loss, grad_norm, spike, fault):
    new, found = apply(guard(policy, spike), loss, grad_norm=grad_norm)
    assert found == fault
    kept = fault and policy == "skip"
    assert new.params["x"] == (1 if kept else 2)
    assert new.step == 5 and new.skipped == fault
    expected = 1.0 if fault else 1 + 0.01 * (loss - 1)
    np.testing.assert_allclose(new.loss_mean, expected, rtol=1e-6)


def test_the_first_loss_begins_the_mean():
    new, fault = apply(guard("stop", 2.0), 50.0, loss_mean=0.0)
    assert new.loss_mean == 50 and not fault


def rows(*faults):
    return [{"loss": float("nan") if f else 1.0, "grad_norm": 1.0, "fault": f} for f in
            faults]  # fmt: skip


def test_skips_in_a_row_are_limited():
    faults = Faults(guard("skip"), start=10, first_index=1000, batch_size=8)
    accepted = [faults.accept(11 + i, r) for i, r in enumerate(rows(1, 1, 0, 1, 1))]
    assert accepted == [False, False, True, False, False]
    assert [step for step, _ in faults.take()] == [11, 12, 14, 15]
    assert faults.take() == []
    with pytest.raises(FaultyStep, match="nan at step 16, after guard.max_faults=2"):
        faults.accept(16, rows(1)[0])


def test_a_fault_tells_where_its_batch_ends():
    faults = Faults(guard("rollback"), start=10, first_index=1000, batch_size=8)
    with pytest.raises(FaultyStep) as error:
        faults.accept(12, rows(1)[0])
    assert error.value.next_index == 1016


# --- in a run ---

TINY = (
    *("model.depth=1", "model.width=32", "model.mlp_dim=64", "data.batch_size=32"),
    *("train.duration=8steps", "eval.every=100%", "checkpoint.every=2steps"),
    *("log.every=1steps", "log.tensorboard=false"),
)


def config(*overrides):
    texts = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", texts)


def poison(monkeypatch, steps):
    """The batches of these steps, counted as first seen, give a loss of infinity."""
    build = loop.build
    seen: list[bytes] = []

    def build_poisoned(config):
        experiment = build(config)
        program = experiment.program

        def step(state, batch, keys):
            content = np.asarray(batch["image"]).tobytes()
            if content not in seen:
                seen.append(content)
            if seen.index(content) + 1 in steps:
                head = state.params["head"]
                head["bias"] = head["bias"] + jnp.inf
            return program.train_step(state, batch, keys)

        step.lower = program.train_step.lower
        return experiment._replace(program=program._replace(train_step=step))

    monkeypatch.setattr(loop, "build", build_poisoned)
    monkeypatch.setattr(loop, "rehearse", lambda *_: None)  # it has no values
    return seen


def test_rollback_goes_back_and_leaves_the_batch_out(tmp_path, monkeypatch, capsys):
    """Step 5 is bad: back to step 4, then 4 more steps with the data after it."""
    seen = poison(monkeypatch, {5})
    loop.train(config("guard.policy=rollback"), tmp_path)
    assert "ROLLBACK 1 of at most 10, since loss is" in capsys.readouterr().out
    found = read_metrics(tmp_path / "metrics.jsonl")
    steps = [row["step"] for row in found if row["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 8
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    # 8 good batches and the bad one.
    assert checkpoints.newest_facts()["next_index"] == 9 * 32
    assert 9 <= len(seen) <= 11
    params = load_trained(tmp_path).params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_rollbacks_are_limited(tmp_path, monkeypatch):
    poison(monkeypatch, {3, 4, 5, 6, 7})
    with pytest.raises(FaultyStep, match="at step 3; .* guard.policy"):
        loop.train(config("guard.policy=rollback", "guard.max_faults=2"), tmp_path)


def test_a_fault_before_the_first_checkpoint(tmp_path, monkeypatch):
    poison(monkeypatch, {1})
    loop.train(config("guard.policy=rollback"), tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert checkpoints.newest_facts()["next_index"] == 9 * 32


def test_skipped_steps_are_listed(tmp_path, monkeypatch, capsys):
    """The gradient of one batch is infinite; the state before it is kept."""
    build = loop.build

    def build_broken(config):
        experiment = build(config)
        program = experiment.program

        def step(state, batch, keys):
            if state.step == 2:
                # A mean loss this small makes any loss a spike.
                state = state.replace(loss_mean=jnp.float32(1e-6))
            return program.train_step(state, batch, keys)

        step.lower = program.train_step.lower
        return experiment._replace(program=program._replace(train_step=step))

    monkeypatch.setattr(loop, "build", build_broken)
    monkeypatch.setattr(loop, "rehearse", lambda *_: None)  # it has no values
    config_ = config("guard.policy=skip", "guard.spike=1000", "guard.max_faults=20")
    loop.train(config_, tmp_path)
    found = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "reason" in r]
    assert [row["step"] for row in found] == [3, 4, 5, 6, 7, 8]
    assert "a spike above guard.spike" in found[0]["reason"]
    assert "skipped, since loss is" in capsys.readouterr().out
