"""Memory that a computation on a CPU frees is there for the next one."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from vit_jax.parallel import host_memory

# Page faults of a program that takes 64 MiB for its own, run again and again.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from vit_jax.parallel.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
x = jnp.ones((4096, 16))
step = jax.jit(lambda x: ((x @ x.T) @ x).sum())
for _ in range(2):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(word: str) -> int:
    command = [sys.executable, "-c", PROGRAM, word]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return int(subprocess.check_output(command, env=environment, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing happens there")
def test_what_a_step_frees_the_next_one_takes():
    """A page of 4 KiB is a fault: such an array has 16,384."""
    assert page_faults("keep") < page_faults("as it is") / 10


@pytest.mark.parametrize(
    ("platforms", "plugins", "libtpu", "wanted"),
    [
        ("cpu", ["cuda"], True, True),
        ("cuda,cpu", [], False, False),
        (None, [], False, True),
        (None, ["cuda"], False, False),
        (None, [], True, False),
    ],
)
def test_only_where_no_accelerator_is(monkeypatch, platforms, plugins, libtpu, wanted):
    find = {"libtpu": object()} if libtpu else {}
    monkeypatch.setattr(
        host_memory.importlib.metadata, "entry_points", lambda **_: plugins
    )
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", find.get)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", platforms)
        assert host_memory.only_cpus() == wanted
    finally:
        jax.config.update("jax_platforms", before)
