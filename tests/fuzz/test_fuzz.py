"""A few cases for every reader of foreign bytes, always the same; see `make fuzz`."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.reader import run
from fuzz.readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_a_value_or_a_sentence(name: str) -> None:
    reader = READERS[name]

    @settings(
        max_examples=reader.examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.cases())
    def holds(case: object) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(reader, case, Path(folder))

    holds()
