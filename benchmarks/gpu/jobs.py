"""The jobs of `make gpu`, the more valuable first; with Python alone.

Limits and memory are estimates for one H100 and 16 CPU cores, see docs/gpu.md.
"""

from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import install
from benchmarks.gpu.processes import Job

OURS, PEERS = ("install", "ours"), ("install", "peers")
# Ours with products by the kernels that XLA's autotuner picks, not by cuBLASLt alone.
TRITON = "ours Triton"
TIMM, GRAPHS = "timm default", "timm reduce-overhead"


class Machine(NamedTuple):
    """The machine of the measurements.

    Attributes:
        python, peers_python: Pythons from which the environments are made.
        work: folder for everything but results.
        driver: version of NVIDIA's driver; "" for a dry run on the CPU.
        facts: values for the rows of the installation.
        cifar: zip file or folder of CIFAR-10's images; "" for none.
    """

    python: str
    peers_python: str
    work: Path
    driver: str
    facts: dict[str, Any]
    cifar: str

    @property
    def dry(self) -> bool:
        """Whether the CPU stands in for a card."""
        return not self.driver

    def module(self, name: str, *, bare: bool = False) -> tuple[str, ...]:
        """The command of a phase; `bare` if vit_jax is not installed yet."""
        python = self.python if bare else str(self.work / "ours/bin/python")
        return python, "-m", f"benchmarks.gpu.{name}"


class Model(NamedTuple):
    """A model to be timed, and the most memory in GiB of ours and of timm's.

    The batch fills the card's multiprocessors, and leaves memory for both processes.
    """

    name: str
    batch: int
    gib: float
    peers: tuple[str, ...] = ("ours", TIMM)


MODELS = (
    # Three processes at a time.
    Model("ViT-B/16", 192, 22, ("ours", TRITON, TIMM)),
    Model("ViT-L/16", 128, 36),
    # The most kernel launches for the least arithmetic, where CUDA graphs may help.
    Model("ViT-S/16", 512, 26, ("ours", TIMM, GRAPHS)),
    Model("ViT-H/14", 48, 36),
    Model("R50+ViT-B/16", 128, 32),
)
DRY_MODELS = (Model("ViT-Ti/16", 4, 0),)


def all_jobs(machine: Machine) -> list[Job]:
    """Every job; the schedule skips rows that an earlier start has measured."""
    jobs = [*installations(machine), *checks(machine)]
    models = DRY_MODELS if machine.dry else MODELS
    jobs += [job for model in models for job in compilations(machine, model)]
    compiled = [row for job in jobs for row in job.rows]
    jobs += [timing(machine, model, tuple(compiled)) for model in models]
    jobs += resuming(machine)
    return [*jobs, *cifar(machine, tuple(row for job in jobs for row in job.rows))]


def installations(machine: Machine) -> list[Job]:
    """Phase 0."""
    jobs = []
    for which, python in (("ours", machine.python), ("peers", machine.peers_python)):
        proof = install.proof(machine.work, which, machine.driver, machine.dry)
        facts = {"python": python, "driver": machine.driver, "facts": machine.facts}
        command = machine.module("install", bare=True)
        job = Job("install", (which,), command, 400, proof=str(proof), options=facts)
        jobs.append(job)
    return jobs


def checks(machine: Machine) -> list[Job]:
    """Phase 1: a process for each attention path."""
    tokens = (4, 5) if machine.dry else (196, 197, 257, 577)
    half, steps = ("bfloat16",), 20 if machine.dry else 200
    jobs = []
    for path, dtypes in (("cudnn", half), ("xla", ("float32", *half)), ("auto", half)):
        if path == "cudnn" and machine.dry:
            continue  # It runs on NVIDIA cards only.
        names = [f"{path} {count} {d}" for count in tokens for d in dtypes]
        names += [f"{path} losses {dtype}" for dtype in dtypes]
        command, options = machine.module("checks"), {"steps": steps}
        jobs.append(
            Job(
                "checks",
                tuple(names),
                command,
                seconds=150,
                least=20,
                gib=6,
                needs=(OURS,),
                options=options,
            )
        )
    return jobs


def compilations(machine: Machine, model: Model) -> list[Job]:
    """Phase 2, and the compilation of timm for phase 3."""
    options = step_options(machine, model)
    memory = Job(
        "memory",
        (model.name,),
        machine.module("memory"),
        seconds=150,
        least=20,
        gib=model.gib,
        needs=(OURS,),
        options=options,
    )
    prepare = Job(
        "prepare",
        (model.name,),
        machine.module("speed"),
        seconds=180,
        least=30,
        gib=model.gib,
        needs=(OURS, PEERS),
        options=options,
    )
    return [memory, prepare]


def timing(machine: Machine, model: Model, after: tuple) -> Job:
    """Phase 3."""
    names = tuple(f"{model.name} {mode}" for mode in ("training", "inference"))
    return Job(
        "speed",
        names,
        machine.module("speed"),
        seconds=150,
        least=5 if machine.dry else 30,
        alone=True,
        needs=(OURS,),
        after=after,
        options=step_options(machine, model),
    )


def step_options(machine: Machine, model: Model) -> dict[str, Any]:
    """Settings of the step of a model, and of its timing."""
    return {
        "model": model.name,
        "batch": model.batch,
        "peers": model.peers,
        "image_size": 32 if machine.dry else 224,
        "dtype": "float32" if machine.dry else "bfloat16",
        "rounds": 2 if machine.dry else 5,
        "turn_seconds": 0.1 if machine.dry else 1.0,
    }


def resuming(machine: Machine) -> list[Job]:
    """Phase 4."""
    return [
        Job(
            "resume",
            (name,),
            machine.module("resume"),
            seconds=600 if machine.dry else 150,
            least=20,
            gib=4,
            needs=(OURS,),
            options={"steps": 30 if machine.dry else 150},
        )
        for name in ("deterministic", "as it comes")
    ]


def cifar(machine: Machine, after: tuple) -> list[Job]:
    """Phase 5, where there are images."""
    if not machine.cifar:
        return []
    options = {"images": machine.cifar, "size": "full", "duration": "30epochs"}
    options["overrides"] = ["--config.eval.every=1epochs", "--config.log.every=50steps"]
    if machine.dry:
        options |= {"size": "mini", "duration": "2epochs"}
        options["overrides"] = ["--config.model.depth=1", "--config.data.batch_size=8"]
    options["overrides"] += ["--config.log.tensorboard=false"]
    job = Job(
        "cifar",
        ("trained",),
        machine.module("cifar"),
        seconds=3600,
        least=5 if machine.dry else 20,
        gib=10,
        needs=(OURS,),
        after=after,
        options=options,
    )
    return [job]
