"""What each device holds at most while a large model is loaded: `memory_worker.py DIR`.

On eight devices, with `mesh.fsdp=8`. Prints JSON: for each way to load, the most bytes
that a device held at any time, and its share of what was loaded.
"""

import gc
import json
import math
import sys
import threading
import weakref
from pathlib import Path

import jax
import numpy as np
from jax._src import array, pjit
from jax._src.interpreters import pxla

import vit_jax
from vit_jax import evaluate as evaluate_command
from vit_jax.checkpoints.store import Checkpoints
from vit_jax.config import to_dict
from vit_jax.config_file import read_config
from vit_jax.interop import save_checkpoint
from vit_jax.interop.trained import load_trained
from vit_jax.models.depth import unstack_blocks
from vit_jax.parallel import sharding
from vit_jax.training.resume import start_state
from vit_jax.training.run_folder import begin_folder
from vit_jax.training.setup import build

TINY = (
    *(
        "model.name=ViT-M/2",
        "model.depth=2",
        "model.width=128",
        "model.mlp_dim=512",
        "model.num_heads=8",
    ),
    *("mesh.data=1", "mesh.fsdp=8", "data.batch_size=32", "eval.batch_size=32"),
    *("train.duration=2steps", "train.ema_decay=0.9", "optim.warmup=0steps"),
    *("log.tensorboard=false", "model.norm_epsilon=1e-6"),
)
# Every array that Python gets hold of comes out of a function in one of these files, or
# is made between two returns from ours.
WATCHED = (array.__file__, pjit.__file__, pxla.__file__, "/vit_jax/", "/orbax/")


class Peak:
    """The most bytes that a device holds within: looks at every return from JAX."""

    def __enter__(self):
        gc.collect()
        self.bytes, self._known, self._alive = 0, {}, []
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame, event, _):
        file = frame.f_code.co_filename
        if event == "return" and any(part in file for part in WATCHED):
            arrays = jax.live_arrays()
            if (alive := list(map(id, arrays))) != self._alive:
                self._alive = alive
                self.bytes = max(self.bytes, self._held(arrays))

    def _held(self, arrays):
        """By the address of the memory: arrays can be views of the parts of others."""
        held = {}
        for one in arrays:
            if one.is_deleted():
                continue
            known, parts = self._known.get(id(one), (None, None))
            if known is None or known() is not one:  # numbers are used again
                parts = parts_of(one)
                self._known[id(one)] = weakref.ref(one), parts
            held.update(parts)
        devices = {}
        for (device, _), size in held.items():
            devices[device] = devices.get(device, 0) + size
        return max(devices.values(), default=0)


def parts_of(one):
    """Bytes by device and address."""
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        return {}
    return {
        (shard.device.id, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
        for shard in one.addressable_shards
    }


def share(tree):
    """Bytes of a tree of shapes with shardings on a device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def config_of(*overrides):
    overrides = [f"--config.{text}" for text in (*TINY, *overrides)]
    return read_config("configs/digits.py", overrides)


def save_start(workdir, config):
    """A run folder with the state before the first step."""
    experiment = build(config)
    begin_folder(workdir, config, allow_change=False)
    facts = {"next_index": 0, "label_names": experiment.label_names}
    facts |= {"config": to_dict(config)}
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(1, experiment.program.init_state(), facts)
    checkpoints.close()


def started(workdir, *overrides):
    """Peak and share of the state that a training starts from."""
    config = config_of(*overrides)
    experiment = build(config)
    checkpoints = Checkpoints(workdir / "checkpoints")
    with Peak() as peak:
        state = start_state(config, experiment, checkpoints, allow_change=False).state
    checkpoints.close()
    del state
    return peak.bytes, share(experiment.program.state)


def main(folder):
    plain, scanned = folder / "plain", folder / "scanned"
    save_start(plain, config_of())
    save_start(scanned, config_of("model.scan=true"))
    run = load_trained(plain)
    save_checkpoint(folder / "x.npz", run.model, run.params, layout="google")
    save_checkpoint(folder / "x.safetensors", run.model, run.params, layout="timm")
    params = share(build(config_of()).program.state.params)
    wanted = jax.device_get(run.params)
    del run

    found = {
        "init": started(folder / "a", f"init={plain}"),
        "init, scanned": started(folder / "b", f"init={plain}", "model.scan=true"),
        "init, larger": started(
            folder / "c", f"init={scanned}", "data.image_size=(24,24)"
        ),
        "init, npz": started(folder / "d", f"init={folder}/x.npz"),
        "init, safetensors": started(folder / "e", f"init={folder}/x.safetensors"),
        "resume, scanned": started(plain, "model.scan=true"),
        "resume, not scanned": started(scanned),
    }
    mesh = sharding.make_mesh(data=1, fsdp=8, tensor=1)
    for name, path, options in (
        ("load", plain, {}),
        ("load, average", plain, {"ema": True}),
        ("load, scanned", plain, {"scan": True}),
        ("load, not scanned", scanned, {}),
        ("load, npz", folder / "x.npz", {}),
        ("load, safetensors", folder / "x.safetensors", {"scan": True}),
        ("load, another size", plain, {"image_size": 24, "num_classes": 3}),
    ):
        with Peak() as peak:
            _, kept = vit_jax.load(path, mesh=mesh, **options)
        if "image_size" not in options:  # all have the numbers of the same start
            loaded = unstack_blocks(jax.device_get(kept))
            jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
        del kept
        found[name] = peak.bytes, params
    for name, path in (("evaluate", plain), ("evaluate, npz", folder / "x.npz")):
        flags = ["--checkpoint", str(path), "--fsdp=8", "--batch-size=32"]
        flags += ["--dataset=digits", "--split=test", "--labels-by-index"]
        flags += ["--output", str(folder / "out")]
        with Peak() as peak:
            evaluate_command.main(evaluate_command.make_parser().parse_args(flags))
        found[name] = peak.bytes, params
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
