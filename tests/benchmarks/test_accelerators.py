"""`make accelerators`: saved rows, repeated compilations, the table."""

import pytest

from benchmarks.accelerators import __main__ as accelerators
from benchmarks.accelerators import beside, handwritten, rows
from benchmarks.accelerators.cases import CASES, Case, target_of
from benchmarks.accelerators.table import report
from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.planning import run_plan
from vit_jax.planning.deviceless import ABSENT
from vit_jax.planning.estimate import GIB

PLAN = {
    "batch_size": 4096,
    "devices": 8,
    "compile_seconds": 17.4,
    "largest_batch": 8192,
    "memory": {
        "parameters": GIB,
        "optimizer": 2 * GIB,
        "average": 0,
        "temporaries": 20 * GIB,
        "peak": 23 * GIB,
        "available": 60 * GIB,
        "fits": True,
    },
    "program": {
        "hbm_bytes": 70 * GIB,
        "kernels": {
            "__cudnn$fmhaSoftmax": 12,
            "__cudnn$fmhaSoftmaxBackward": 12,
            "__cublas$gemm": 4,
            "__triton_gemm": 5,
            "__triton": 6,
            "fusion": 99,
        },
        "collectives": [
            {"axes": ["data"], "kind": "all-reduce", "count": 8, "sent": GIB},
            {"axes": ["data"], "kind": "all-gather", "count": 1, "sent": GIB / 2},
            {"axes": ["fsdp"], "kind": "all-reduce", "count": 2, "sent": GIB / 4},
        ],
    },
}
VERSIONS = {"jax": "1.0"}
CASE = Case("imagenet.py", compiled="ViT-B/16")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A compiled case and one that is only lowered, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accelerators, "CASES", (CASE, Case("digits.py")))
    monkeypatch.setattr(accelerators, "check_compilers", lambda: None)
    monkeypatch.setattr(accelerators, "hardware", lambda: "a CPU")
    compiled = []

    def compiled_row(row):
        compiled.append(row["target"])
        facts = {"plan": PLAN, "hardware": "a CPU", "date": "2026-11-28"}
        return row | facts

    def lowered_row(case, kind):
        row = {"case": case.config, "name": case.compiled, "versions": VERSIONS}
        return row | {"target": target_of(case, kind), "program": "0a"}

    monkeypatch.setattr(accelerators, "compiled_row", compiled_row)
    monkeypatch.setattr(accelerators, "lowered_row", lowered_row)
    return compiled


def run(only=None):
    arguments = {"only": only, "device": None, "compile": None, "target": None}
    accelerators.main(type("Arguments", (), arguments))


def test_what_is_compiled_stays(here, monkeypatch):
    run()
    assert here == ["8xH100", "v5e:4x8"]
    run()
    assert len(here) == 2
    kept = rows.read(rows.RUNS)
    assert [row["case"] for row in kept] == ["imagenet.py"] * 2 + ["digits.py"] * 2
    # Another program or another compiler is compiled again.
    row = accelerators.lowered_row
    monkeypatch.setattr(
        accelerators, "lowered_row", lambda *of: row(*of) | {"program": "0b"}
    )
    run()
    assert len(here) == 4
    newer = {"program": "0b", "versions": {"jax": "1.1"}}
    monkeypatch.setattr(accelerators, "lowered_row", lambda *of: row(*of) | newer)
    run(["ViT-B/16"])
    assert len(here) == 6


def test_a_failure_is_reported_and_tried_again(here, monkeypatch):
    compiled_row = accelerators.compiled_row
    monkeypatch.setattr(
        accelerators, "compiled_row", lambda row: row | {"error": "no such kernel"}
    )
    with pytest.raises(ValueError, match="2 programs cannot be lowered or compiled"):
        run()
    assert accelerators.REPORT.read_text().count("fails: no such kernel") == 2
    monkeypatch.setattr(accelerators, "compiled_row", compiled_row)
    run()
    assert len(here) == 2 and "fails" not in accelerators.REPORT.read_text()


def test_what_jax_refuses_is_a_row(monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no such rule")

    monkeypatch.setattr(accelerators.metadata, "version", lambda name: name)
    monkeypatch.setattr(accelerators, "absent_program", refuse)
    row = accelerators.lowered_row(CASE, "H100")
    assert row["error"] == "NotImplementedError: no such rule"
    assert "plan" not in row and row["target"] == "8xH100"


def test_the_program_is_known_by_its_text(monkeypatch):
    monkeypatch.setattr(accelerators.metadata, "version", lambda name: name)
    case = Case("digits.py", ("model.depth=1",), gpus=1)
    pair = [accelerators.lowered_row(case, "H100") for _ in range(2)]
    assert pair[0] == pair[1] and len(pair[0]["program"]) == 16
    other = case._replace(overrides=("model.depth=1", "model.width=32"))
    assert accelerators.lowered_row(other, "H100")["program"] != pair[0]["program"]


def test_the_table():
    row = {"case": "imagenet.py", "name": "ViT-B/16", "target": "8xH100"}
    row |= {"versions": VERSIONS, "date": "2026-11-28", "hardware": "a CPU"}
    plan = PLAN | {"program": None, "largest_batch": None}
    plan["memory"] = PLAN["memory"] | {"fits": False, "peak": 61 * GIB}
    pair = [row | {"plan": PLAN}, row | {"target": "v5e:4x8", "plan": plan}]
    text = report(pair, [])
    assert (
        "| ViT-B/16 | 8xH100 | 4,096 | 3 GiB | 20 GiB | 23 GiB of 60 GiB "
        "| 8,192 (1,024 a device) | 12 cuDNN attention, 12 cuDNN attention backward, "
        "11 Triton, 4 cuBLAS | data 1.5 GiB (8 all-reduce, 1 all-gather); "
        "fsdp 0.25 GiB (2 all-reduce) | 70 GiB | 17 s |"
    ) in text
    assert "61 GiB of 60 GiB: does not fit | – | – | – | – | 17 s |" in text
    assert "2 programs on 2026-11-28, a CPU: jax 1.0" in text


def test_two_programs_beside_each_other():
    ours = {"hbm": 3 * GIB, "peak": 2 * GIB, "seconds": 40.2}
    theirs = {"hbm": 6 * GIB, "peak": 5 * GIB, "seconds": 60.0}
    start = {"model": "ViT-B/16", "batch": 4096, "recipe": "the same", "ours": ours}
    pairs = [start | {"theirs": one} for one in (theirs, {"needed": 20 * GIB})]
    text = report([], pairs)
    same = "| ViT-B/16 | 4,096 | the same | 3 GiB |"
    assert (
        f"{same} 6 GiB | **0.50** | 2 GiB | 5 GiB | 40 s | 60 s |\n"
        f"{same} – | – | 2 GiB | 20 GiB: does not fit | 40 s | – |"
    ) in text
    assert "big_vision" not in report([], [])


def test_names_and_targets():
    names = [case.compiled for case in CASES if case.compiled]
    assert len(set(names)) == len(names) >= 12
    targets = {(target_of(case, kind)) for case in CASES for kind in ABSENT}
    assert {"8xH100", "1xH100", "v5e:4x8", "v5e:1x1"} <= targets
    with pytest.raises(ValueError, match="--only=ViT-C/16: wanted one of ViT-B/16; "):
        accelerators.chosen(["ViT-C/16"])
    assert [case.compiled for case in accelerators.chosen(["ViT-B/16"])] == ["ViT-B/16"]


def test_a_batch_with_fewer_steps_than_its_warm_up_can_be_planned(monkeypatch):
    """90 epochs of ImageNet in batches of 65,536 are 1,759 steps, not 10,000."""
    config = read_config("configs/plain_s16.py", [])
    planned = []
    monkeypatch.setattr(run_plan, "plan_run", lambda config, *_: planned.append(config))
    run_plan.plan_batch(config, 65_536, None, (1_281_167, 1000))
    lengths = resolve_lengths(planned[0], 1_281_167)
    assert lengths.warmup < lengths.total == 1759
    assert config.data.batch_size == 1024 and config.optim.warmup == "10000steps"


def test_the_table_beside_a_step_written_by_hand():
    gib = beside.GIB
    row = {
        "model": "ViT-B/16",
        "batch": 64,
        "variant": "GAP",
        "ours": {"moved": 30 * gib, "kept": 3 * gib, "kernels": 1500},
        "best": {"moved": 20 * gib, "kept": 4 * gib, "kernels": 300},
        "versions": {"jax": "1.0"},
        "hardware": "2 CPU cores",
        "date": "2026-01-02",
    }
    text = beside.section([row])
    line = "| ViT-B/16 | 64 | GAP | 30.00 | 20.00 | 1.50 | 3.00 | 4.00 | 0.75 |"
    assert f"{line} 1,500 | 300 | 5.00 |" in text
    assert "2026-01-02, 2 CPU cores: jax 1.0" in text
    assert beside.section([]) == ""


def test_the_variants_are_of_the_config():
    for overrides in handwritten.VARIANTS.values():
        flags = [f"--config.{text}" for text in overrides]
        assert read_config("configs/imagenet.py:ViT-B/16", flags).model.name
