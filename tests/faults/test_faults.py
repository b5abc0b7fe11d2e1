"""Every fault of the catalogue once, by real processes."""

import random

import pytest

from faults.bench import Bed, cannot_mount
from faults.catalogue import FAULTS


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    return Bed(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_run_ends_as_if_nothing_had_happened(bed, fault):
    if fault.needs_mount and (reason := cannot_mount()):
        pytest.skip(reason)
    assert bed.try_fault(fault, random.Random(0)).same
