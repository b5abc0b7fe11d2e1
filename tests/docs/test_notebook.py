"""The notebook: its cells run on a small checkpoint, and its outputs are fit to keep.

The cells are executed as plain code, in order and in one namespace, so that the tests
need no Jupyter. Only the cell tagged `parameters` is replaced.
"""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path("docs/notebooks/look_inside.ipynb")


@pytest.fixture(scope="module")
def cells():
    """Its code cells."""
    notebook = json.loads(NOTEBOOK.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell) -> bool:
    return "parameters" in cell["metadata"].get("tags", ())


def test_its_cells_run_on_another_checkpoint(
    cells, digits_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert [is_parameters(cell) for cell in cells].count(True) == 1
    names = {"CHECKPOINT": str(digits_run), "SIZE": None, "COUNT": 6}
    for cell in cells:
        source = "".join(cell["source"])
        if is_parameters(cell):
            own = {}
            exec(source, own)
            assert names.keys() == own.keys() - {"__builtins__"}
        else:
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    printed = capsys.readouterr().out
    assert "2 layers" in printed and "10 classes" in printed
    # A number for each part: shuffled, biases with and without training, each layer.
    assert re.search(r"2 x 2 blocks shuffled: \d\.\d", printed)
    assert re.search(r"attention_ratio/mean +[\d.]+ +[\d.]+\n", printed)
    # Attention that sees itself only changes the first layer's.
    (first,) = re.findall(r"layer 0 +(-?[\d.]+)", printed)
    assert float(first) < 1
    for name in ("rollout", "distances", "positions"):
        assert (tmp_path / f"{name}.png").stat().st_size


def test_its_outputs_are_whole_and_small(cells):
    assert NOTEBOOK.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = [output["output_type"] for output in outputs]
    assert "error" not in kinds
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    text = "".join(
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in outputs
    )
    # Neither a place on the machine that ran it, nor an address within its memory.
    assert not re.search(r"(?<!\w)/(tmp|home|root|work|usr|opt)/|0x[0-9a-f]{6}", text)
