"""Who is compared with whom: the peers of a case, and how their processes start."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from benchmarks.commit import unpack
from benchmarks.peers.timm_worker import NAMES
from benchmarks.peers.worker import TIMM_WORKER, Worker
from configs import cifar
from vit_jax.flags import Minutes, Positive, flag
from vit_jax.models.variants import parse_name
from vit_jax.values import Range

Seconds = Annotated[float, Range(0, 600, left_open=True)]
MODES = ("train", "forward")
# Of timm's variants: `torch.compile`, and channels as the last axis in memory.
TIMM = {
    "timm": (False, False),
    "timm-channels-last": (False, True),
    "timm-compiled": (True, False),
    "timm-compiled-channels-last": (True, True),
}
CHECKOUTS = {
    "google": "google-research/vision_transformer",
    "big_vision": "google-research/big_vision",
}
PEERS = (*TIMM, *CHECKOUTS, "linen")


class Case(NamedTuple):
    """What is compared.

    Attributes:
        model: a name that `vit_jax` knows, at 224 px with 1000 classes, or `mini`: the
            model of `configs/cifar.py:size=mini`, at 32 px with 10 classes.
        dtype: `float32` or `bfloat16`, of the activations; parameters are float32.
        mode: `train`, a step with its update, or `forward`, inference.
    """

    model: str
    batch: int
    dtype: str
    mode: str

    @property
    def name(self) -> str:
        """Such as `ViT-Ti/16 batch 16 train float32`."""
        return f"{self.model} batch {self.batch} {self.mode} {self.dtype}"


class Peer(NamedTuple):
    """One of those compared.

    Attributes:
        name: `ours`, `ours:NAME` (another Python), `ours@COMMIT`, or one of `PEERS`.
        worker: the command of its process.
        code: a folder whose packages it is to use; empty for the installed ones.
    """

    name: str
    worker: tuple[str, ...]
    code: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which peers there are and how long to measure."""
    parser.add_argument(
        "--torch-python", default=sys.executable, help="one that has timm"
    )
    parser.add_argument(
        "--jax-python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="another Python, with another jax, that runs ours too; may be repeated",
    )
    for name, repository in CHECKOUTS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="PATH",
            help=f"checkout of {repository}",
        )
    parser.add_argument("--against", help="a commit whose step is a peer too")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    for name, kind, default, text in (
        ("--rounds", Positive, 7, "quiet ones that are wanted"),
        ("--seconds", Seconds, 3, "of a turn, rounded to whole steps"),
        ("--minutes", Minutes, 10, "at most for the rounds of a case"),
    ):
        parser.add_argument(
            name, type=flag(kind), default=default, help=f"{text} ({default})"
        )


def lineup(
    arguments: argparse.Namespace, others: Sequence[str], folder: Path
) -> list[Peer]:
    """Ours first, then ours elsewhere, then those of `others`.

    Args:
        arguments: of `add_arguments`.
        others: names of `PEERS`; those of a checkout are left out without its path.
        folder: where the tree of the commit goes.

    Raises:
        ValueError: no such peer, commit or checkout.
    """
    module = ("-m", "benchmarks.peers.jax_worker")
    jax_worker = (sys.executable, *module)
    peers = [Peer("ours", jax_worker)]
    for pair in arguments.jax_python:
        name, _, python = pair.partition("=")
        if not python:
            raise ValueError(f"--jax-python wants NAME=PATH, got {pair}")
        peers.append(Peer(f"ours:{name}", (python, *module)))
    if arguments.against:
        tree = unpack(arguments.against, folder / "commit")
        peers.append(Peer(f"ours@{arguments.against}", jax_worker, str(tree)))
    for name in others:
        if name in TIMM:
            peers.append(Peer(name, (arguments.torch_python, TIMM_WORKER)))
        elif name == "linen":
            peers.append(Peer(name, jax_worker))
        elif name not in CHECKOUTS:
            raise ValueError(f"no peer {name}: there are {', '.join(PEERS)}")
        elif path := getattr(arguments, name):
            if not Path(path).is_dir():
                raise ValueError(f"--{name.replace('_', '-')}: no folder {path}")
            peers.append(Peer(name, jax_worker, str(Path(path).absolute())))
    return peers


def takes_part(peer: str, case: Case) -> bool:
    """Whether a peer has the model of a case, in its dtype."""
    plain, mini = case.model.startswith("ViT-"), case.model == "mini"
    if peer in TIMM:
        has_it = mini or case.model in NAMES
        # A ViT's one convolution, of its patches, has no use for the other layout.
        return has_it and not ((plain or mini) and peer.endswith("channels-last"))
    if peer == "google":
        has_it = plain or case.model.startswith("R50+")
        return has_it and case.dtype == "float32"
    if peer == "big_vision":
        return plain
    return peer != "linen" or plain or mini


def specification(
    peer: Peer, case: Case, arguments: argparse.Namespace
) -> dict[str, Any]:
    """What the peer's process is told.

    Raises:
        ValueError: no such model.
    """
    compiled, channels_last = TIMM.get(peer.name, (False, False))
    mini = case.model == "mini"
    return case._asdict() | {
        "peer": "ours" if peer.name.startswith("ours") else peer.name,
        "code": peer.code,
        "sizes": sizes_of(case.model),
        "image_size": 32 if mini else 224,
        "num_classes": 10 if mini else 1000,
        "clip_norm": 1.0,
        "device": arguments.device,
        "compile_mode": arguments.compile_mode if compiled else "",
        "channels_last": channels_last,
    }


def sizes_of(model: str) -> dict[str, Any]:
    """Sizes of a ViT by our names of them, with `pooling`; those of a BiT are its own.

    Raises:
        ValueError: no such model.
    """
    if model != "mini":
        return parse_name(model)[1] | {"pooling": "cls"}
    config = cifar.get_config(size="mini").model
    names = ("depth", "width", "mlp_dim", "num_heads", "pooling")
    patch_size = parse_name(config.name)[1]["patch_size"]
    return {"patch_size": patch_size} | {name: config[name] for name in names}


def missing_parameters(peer: str, case: Case) -> int:
    """How many parameters less than the others a peer has by its definition.

    The class token of big_vision has no position.
    """
    return sizes_of(case.model)["width"] if peer == "big_vision" else 0


def start(peer: Peer, case: Case, arguments: argparse.Namespace) -> Worker:
    """Starts the process of a peer."""
    spec = specification(peer, case, arguments)
    return Worker(peer.name, list(peer.worker), spec)
