"""The table of chips."""

import pytest

from vit_jax.planning.chips import CHIPS, GIB, find_chip, peak_flops


def test_peaks():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 156e12
    assert peak_flops("TPU v5 lite", "bfloat16") == 197e12
    assert peak_flops("TPU v5 lite", "float16") == 197e12
    assert peak_flops("cpu", "float32") is None


def test_kinds_are_of_one_chip_each():
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)
    assert all(find_chip(kind) in CHIPS.values() for kind in kinds)


@pytest.mark.parametrize("name", CHIPS)
def test_figures_are_of_the_right_order(name):
    """A slip of a power of ten, of Gbit for GB or of GHz shows here."""
    chip = CHIPS[name]
    assert chip.bfloat16 / 2 <= chip.float32 * 1.01 <= chip.bfloat16 * 1.01
    assert 10 * GIB < chip.memory < 200 * GIB
    # FLOPs that can be done while a byte comes from memory, or from a neighbour.
    assert 100 < chip.bfloat16 / chip.bandwidth < 600
    assert 300 < chip.bfloat16 / chip.links < 2600
    assert chip.source
