"""Two real processes on one folder: messages between them, saving, restoring."""

import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = """
import sys
from pathlib import Path

import jax

port, me, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=me)

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from vit_jax.checkpoints.agreement import blind_processes, from_primary, gather_texts
from vit_jax.checkpoints.store import CheckpointError, Checkpoints

assert gather_texts(["", "a longer täxt"][me]) == ["", "a longer täxt"]
assert from_primary(lambda: f"of {me}") == "of 0"
try:
    from_primary(lambda: (folder / "none").read_text())
except FileNotFoundError as error:
    assert error.filename == str(folder / "none")
else:
    raise AssertionError("no error")

own = folder / f"own_{me}"
own.mkdir()
assert blind_processes(folder, 5) == [] and blind_processes(own, 0.2) == [1]

mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
cut, everywhere = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())
VALUES = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)


def state(step):
    kernel = jax.make_array_from_callback((64, 64), cut, lambda i: step * VALUES[i])
    return {"kernel": kernel}


def flip(step):
    files = (folder / "run" / str(step)).glob("state/**/d/*")
    path = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return ""


def restored(sharding):
    checkpoints = Checkpoints(folder / "run")
    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)
    found = checkpoints.restore({"kernel": shape})
    checkpoints.close()
    for shard in found.state["kernel"].addressable_shards:
        np.testing.assert_array_equal(shard.data, found.step * VALUES[shard.index])
    return found.step


checkpoints = Checkpoints(folder / "run", keep_last=3)
for step in (1, 2, 3):
    checkpoints.save(step, state(step), {})
checkpoints.wait()
checkpoints.close()
assert checkpoints.steps == [1, 2, 3]
assert restored(everywhere) == 3
from_primary(lambda: flip(3))
assert restored(cut) == 2
from_primary(lambda: flip(2) + flip(1))
try:
    restored(cut)
except CheckpointError as error:
    assert all(f"step {step}: the checksum" in str(error) for step in (1, 2))
    assert len(set(gather_texts(str(error)))) == 1
else:
    raise AssertionError("no error")
"""


def test_two_processes_agree(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(Path())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, port, str(me), str(tmp_path)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for me in (0, 1)
    ]
    try:
        texts = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(texts)
