"""Training runs for GPUs and TPUs that cover each config file, model and option.

The test suite lowers them for both, `benchmarks/accelerators` also compiles some of
them in full. A run has the config's own batch size on a realistic number of devices;
every change of the config is in `overrides`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from configs import families
from vit_jax.config import resolve_lengths
from vit_jax.config_file import read_config
from vit_jax.parallel.sharding import batch_sharding
from vit_jax.planning.deviceless import ABSENT
from vit_jax.planning.run_plan import data_facts
from vit_jax.training.setup import Program, build_program

# A loop over layers is traced and compiled in a fraction of the time.
SCAN = ("model.scan=true",)
DOTS = (*SCAN, "model.remat=dots")
FULL = (*SCAN, "model.remat=full")
FSDP = ("mesh.data=1", "mesh.fsdp=-1")
# For models without other position embeddings.
LEARNED = ("model.positions=learned",)
# Training examples and classes of data sets that `vit_jax.plan` does not know.
FACTS = {
    "digits": (1_438, 10),
    "fashion_mnist": (60_000, 10),
    "oxford_iiit_pet": (3_680, 37),
    "clevr": (1_000, 8),
    "smallnorb": (1_000, 18),
    "photos": (30_000, 100),
}


class Case(NamedTuple):
    """A training run.

    Attributes:
        config: file in `configs/`, and its arguments.
        overrides: changes, without the prefix `--config.`.
        gpus: number of GPUs.
        tpus: rows and columns of chips of the TPU slice.
        slow: whether it is left out of the tests, since tracing takes long.
        compiled: name in the table if it is compiled, else "".
    """

    config: str
    overrides: tuple[str, ...] = ()
    gpus: int = 8
    tpus: tuple[int, int] = (4, 8)
    slow: bool = False
    compiled: str = ""


def one(config: str, *overrides: str, **options: Any) -> Case:
    """A run on one device."""
    return Case(config, overrides, gpus=1, tpus=(1, 1), **options)


PRETRAINING = (
    Case("imagenet.py:ViT-B/16", compiled="ViT-B/16"),
    Case("imagenet.py:ViT-L/16", DOTS, compiled="ViT-L/16"),
    Case("imagenet.py:ViT-S/32", SCAN, slow=True),
    Case("pretrain.py:model=ViT-b/32,data=jft", SCAN, slow=True),
    Case("pretrain.py:model=ViT-H/14,data=jft", FULL, compiled="ViT-H/14"),
    Case("pretrain.py:model=ViT-g/14,data=jft3b", FSDP, compiled="ViT-g/14, fsdp"),
    Case(
        "pretrain.py:model=ViT-8B/14,data=jft3b",
        (*FSDP, "mesh.tensor=4"),
        gpus=64,
        tpus=(16, 16),
    ),
    Case(
        "pretrain.py:model=R50+ViT-B/16,data=jft",
        SCAN,
        slow=True,
        compiled="R50+ViT-B/16",
    ),
    Case("pretrain.py:model=R50+ViT-L/32,data=imagenet21k", SCAN, slow=True),
    Case("pretrain.py:model=BiT-R50x2,data=jft", slow=True),
    Case("pretrain.py:model=BiT-R200x3,data=jft", slow=True),
    Case("bit.py:model=BiT-R50x1", compiled="BiT-R50x1, SGD"),
    Case("bit.py:model=BiT-R152x4,data=jft", slow=True),
    Case("masked_patch.py:model=ViT-B/16", SCAN, compiled="ViT-B/16, masked patches"),
    Case("masked_patch.py:model=ViT-S/16,target=downscaled", SCAN, slow=True),
    Case("masked_patch.py:model=ViT-S/16,data=jft,target=pixels,rate=0.15", SCAN),
    Case("sam.py:model=ViT-B/16,pieces=8", SCAN, compiled="ViT-B/16, SAM"),
    Case("plain_s16.py", slow=True, compiled="ViT-S/16, GAP"),
    Case("plain_s16.py:arm=original,epochs=300", SCAN, slow=True),
    Case("augreg.py:model=R+ViT-Ti/16,data=imagenet21k", SCAN),
    Case("augreg.py:model=ViT-B/16,aug=strong2,reg=yes", SCAN, slow=True),
    Case("augreg.py:model=R26+ViT-S/32", SCAN, slow=True),
    Case("deit3.py:model=ViT-S/16", SCAN, slow=True),
    Case("deit3.py:model=ViT-B/16,data=imagenet21k", SCAN, slow=True),
    Case("deit3.py:model=ViT-L/16", SCAN, compiled="ViT-L/16, DeiT III"),
    Case("deit3.py:model=ViT-H/14", FULL),
    Case("deit3.py:model=ViT-B/16,stage=finetune,size=384", SCAN),
    Case("deit3.py:model=ViT-H/14,stage=from21k", DOTS, slow=True),
    Case("vit5.py:model=ViT-B/16", SCAN),
    Case("vit5.py:model=ViT-L/16,stage=finetune,size=384", DOTS, slow=True),
    Case("distill.py:teacher=", SCAN),
)
FINE_TUNING = (
    Case("finetune.py:model=ViT-B/16", SCAN, compiled="ViT-B/16, 384 px"),
    Case("finetune.py:model=ViT-H/14,dataset=imagenet2012,table=2", FULL),
    Case("finetune.py:model=ViT-L/16,recipe=vit_jax", DOTS, slow=True),
    Case("finetune.py:model=R50+ViT-B/16,recipe=big_vision", SCAN, slow=True),
    Case("finetune.py:model=BiT-R50x1,recipe=bit,probe=yes", slow=True),
    Case("vtab.py:task=clevr_count,model=ViT-B/32", SCAN),
    Case("vtab.py:task=smallnorb_azimuth,model=ViT-H/14", FULL, slow=True),
)
SMALL = (
    one("cifar.py", *SCAN),
    one("cifar.py:data=cifar100,size=mini", "model.remat=full"),
    one("digits.py"),
    one("fashion_mnist.py"),
    one("folder.py:data=photos,size=224,model=ViT-S/16", *SCAN),
    one("folder.py:data=photos,size=64,model=BiT-R26x1", slow=True),
    one("lab.py:family=vit,scale=small", slow=True),
    one("lab.py:family=hybrid,scale=small", *SCAN, slow=True),
    one("lab.py:family=resnet,scale=small"),
    *(
        one(f"families.py:family={family}", slow=family == "vit")
        for family in families.MODELS
    ),
)
# Options that no config sets, with ViT-S/16 on ImageNet.
OPTIONS = (
    Case(
        "plain_s16.py",
        ("model.pooling=map", "model.num_registers=4", *SCAN),
        compiled="ViT-S/16, MAP, registers",
    ),
    Case(
        "imagenet.py:ViT-S/16",
        ("model.pooling=token_gap", "model.num_registers=3", *SCAN),
    ),
    Case("imagenet.py:Axial-ViT-B/16", SCAN, compiled="Axial-ViT-B/16"),
    Case("imagenet.py:ViT-S/16", ("model.positions=relative", *SCAN)),
    Case("imagenet.py:ViT-S/16", ("model.positions=relative2d", *DOTS)),
    Case(
        "plain_s16.py",
        (
            "model.dtype=float16",
            "model.positions=learned2d",
            "model.positions_at=every_layer",
            *FULL,
        ),
    ),
    Case("plain_s16.py", ("model.dtype=float32", "train.ema_decay=0.9999", *SCAN)),
    Case(
        "imagenet.py:ViT-S/16",
        ("model.attention_dropout_rate=0.1", "train.accumulate_steps=4", *SCAN),
    ),
    Case("plain_s16.py", ("train.gradient_dtype=bfloat16", "mesh.tensor=2", *SCAN)),
    Case(
        "plain_s16.py:arm=linear_head", ("model.name=Mixer-B/16", *LEARNED), slow=True
    ),
    Case("bit.py:model=BiT-R50x1", ("model.name=AxialResNet-50",), slow=True),
)
CASES = PRETRAINING + FINE_TUNING + SMALL + OPTIONS


def label(case: Case) -> str:
    """The config and overrides of a case as text."""
    return " ".join((case.config, *case.overrides))


def config_of(case: Case) -> Any:
    """The resolved config of a case."""
    flags = [f"--config.{override}" for override in case.overrides]
    return read_config(f"configs/{case.config}", flags)


def facts_of(config: Any) -> tuple[int, int]:
    """Numbers of training examples and classes, without the data where known."""
    return FACTS.get(config.data.name) or data_facts(config, None, None)


def target_of(case: Case, kind: str) -> str:
    """The devices of a case, as `8xH100` or `v5e:4x8`; `kind` is a key of `ABSENT`."""
    if ABSENT[kind].platform == "gpu":
        return f"{case.gpus}x{kind}"
    rows, columns = case.tpus
    return f"{kind}:{rows}x{columns}"


def absent_program(case: Case, kind: str) -> Program:
    """The program of a case, to be lowered for devices of other machines.

    For GPUs it is the program of one GPU with its share of the batch, since JAX lowers
    cuDNN's attention over several GPUs only on a machine that has them.
    """
    config = config_of(case)
    examples, classes = facts_of(config)
    lengths = resolve_lengths(config, examples)
    count = math.prod(case.tpus)
    if ABSENT[kind].platform == "gpu":
        count = 1
        config.mesh.update(data=1, fsdp=1, tensor=1)
        config.data.batch_size //= case.gpus
    devices = [ABSENT[kind]] * count
    return build_program(config, num_classes=classes, lengths=lengths, devices=devices)


def evaluation_batch(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of the evaluation step."""
    batch, placement = program.batch, batch_sharding(program.mesh)
    shape = batch["label"].shape
    return batch | {
        "mask": jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=placement),
        "index": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placement),
    }
