"""Public checkpoints by name: their addresses, and their download.

Downloads go to $VIT_JAX_CACHE, or `vit_jax/checkpoints` in the user's cache folder, and
stay there. $HF_ENDPOINT and $HF_TOKEN mean what they mean for Hugging Face's library,
whose own cache is looked into as well.
"""

import csv
import difflib
import functools
import logging
import os
import re
import urllib.parse
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from vit_jax.interop.download import DownloadError, NotThere, download
from vit_jax.interop.files import SUFFIXES, shard_names
from vit_jax.storage.paths import SCHEME, as_path, expanded

logger = logging.getLogger(__name__)

WEB = ("https://", "http://")
STORAGE = "https://storage.googleapis.com"
BUCKETS = ("vit_models", "mixer_models", "bit_models", "big_vision")
# Folders of the bucket vit_models, whose name may be left out.
FOLDERS = ("augreg", "imagenet21k", "imagenet21k+imagenet2012", "sam", "gsam")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class Public(NamedTuple):
    """A row of `public.csv`, whose head explains the columns."""

    name: str
    model: str
    classes: str
    image_size: str
    layout: str
    size: str
    address: str
    digest: str


@functools.cache
def public() -> dict[str, Public]:
    """The rows of the table by their names."""
    text = resources.files("vit_jax.interop").joinpath("public.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = [Public(**row) for row in csv.DictReader(lines)]
    return {row.name: row for row in rows}


def table() -> str:
    """The public checkpoints, in columns for a terminal."""
    header = ("name", "model", "classes", "pixels", "layout", "size")
    rows = [header, *(row[:6] for row in public().values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + (
        "\n\nAlso: any file of these buckets (augreg/NAME, sam/NAME, bit_models/NAME, "
        "...), any model id of Hugging Face (org/name, hf:org/name@revision), and "
        "gs:// and https:// addresses."
    )


def resolve(name: str | Path) -> Path:
    """The path of a checkpoint on this machine, downloaded if need be.

    Args:
        name: a path that exists, which is returned as it is; a name of the table; a
            path in one of Google's buckets such as `augreg/<file>`; a model id of
            Hugging Face, `org/name` or `hf:org/name@revision`; or the address of a
            file, gs:// or https://. Behind each, `:img` names a part of the file and
            stays behind it. `gs://bucket/folder` is a run, and stays where it is.

    Returns:
        A file, or a folder with config.json and weights; or the folder of a run.

    Raises:
        ValueError: an address that nothing here reads, such as s3://.
        ImportError: what reads buckets is not installed.
        FileNotFoundError: none of these; names the nearest.
        NotThere: no such file or model where it should be.
        DownloadError: no network (says which file to put where), no space, or a file
            that does not fit its checksum.
    """
    text = str(name)
    weights = split_part(text)[0].endswith(SUFFIXES)
    if SCHEME.match(text) and not weights and not text.startswith(WEB):
        return as_path(text)  # a run in a bucket
    if expanded(text).exists():
        return expanded(text)
    text, part = split_part(text)
    if part and Path(text).exists():
        return Path(name)
    row = public().get(text.removesuffix(".npz"))
    address, inner = split_part(row.address if row else find_address(text))
    part = part or inner
    try:
        if address.startswith("hf:"):
            path = hugging_face(address.removeprefix("hf:"))
        else:
            path = web_file(address, row.digest if row else "")
    except DownloadError as error:
        if row or text == address:
            raise
        message = f"{text} is no path here; {error}{did_you_mean(text)}"
        raise type(error)(message) from error
    return Path(f"{path}:{part}") if part else path


def split_part(text: str) -> tuple[str, str]:
    """Splits `file.npz:img` into file and part; other colons belong to addresses."""
    endings = "|".join(map(re.escape, SUFFIXES))
    match = re.fullmatch(rf"(.+(?:{endings})):([\w.]+)", text)
    return (match[1], match[2]) if match else (text, "")


def find_address(text: str) -> str:
    """The address for a name that is neither a path nor in the table."""
    if text.startswith(("hf:", "gs://")):
        return text
    page = re.match(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?$", text)
    if page:
        return f"hf:{page[1]}"
    if text.startswith(WEB):
        return text.replace("/blob/", "/resolve/") if "huggingface.co" in text else text
    first, slash, rest = text.partition("/")
    if slash and first in (*BUCKETS, *FOLDERS):
        path = text if first in BUCKETS else f"vit_models/{text}"
        return f"gs://{path}" + ("" if rest.endswith(SUFFIXES) else ".npz")
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", text) and not text.endswith(SUFFIXES):
        return f"hf:{text}"
    raise FileNotFoundError(
        f"{text} is neither a file or folder here nor a public checkpoint"
        + (did_you_mean(text) or "; `python -m vit_jax.interop.hub` lists those")
    )


def did_you_mean(text: str) -> str:
    """The nearest names of the table, as the end of a sentence, or ""."""
    known = {name.lower(): name for name in public()}
    near = difflib.get_close_matches(text.lower(), known, n=3, cutoff=0.6)
    near = near or [name for name in known if text.lower() in name][:3]
    names = " or ".join(known[name] for name in near)
    return f"; did you mean {names}?" if near else ""


def cache_folder() -> Path:
    """Where downloads go."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    default = Path(caches, "vit_jax", "checkpoints")
    return Path(os.environ.get("VIT_JAX_CACHE") or default).expanduser().absolute()


def web_file(address: str, digest: str) -> Path:
    """The file of an address gs:// or https://."""
    if address.startswith("gs://"):
        path = address.removeprefix("gs://")
        url = f"{STORAGE}/{urllib.parse.quote(path)}"
        target = cache_folder() / path
    else:
        url = address
        parts = urllib.parse.urlsplit(url)
        target = cache_folder() / parts.netloc / urllib.parse.unquote(parts.path[1:])
    if ".." in target.parts or not target.suffix:
        raise FileNotFoundError(
            f"{address} is not the address of a file: wanted one that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    if not target.exists():
        announce(url, target)
    download(url, target, digest=digest)
    return target


def announce(url: str, target: Path) -> None:
    """Logs what is about to be downloaded."""
    logger.info(f"downloading {url} to {target}")


def hugging_face(model_id: str) -> Path:
    """The folder with weights and configs of a model on Hugging Face.

    The first download of a revision stays; `main` is not looked at again.
    """
    name, _, revision = model_id.partition("@")
    revision = revision or "main"
    folder = cache_folder() / "huggingface.co" / model_id
    for cached in (folder, library_cache(name, revision)):
        if cached is not None and is_complete(cached):
            return cached
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    base = f"{endpoint.rstrip('/')}/{name}/resolve/{revision}/"
    announce(f"{endpoint}/{name}", folder)
    get = functools.partial(
        fetch_file, base, folder, token=os.environ.get("HF_TOKEN", "")
    )
    try:
        get("config.json")
        get("preprocessor_config.json")
        if not any(get(weights) for weights in WEIGHTS):
            raise NotThere(f"{base} has none of {', '.join(WEIGHTS)}")
        for shard in shards(folder):
            if not get(shard):
                raise NotThere(f"{base} lacks {shard}, which its index names")
    except NotThere:
        raise
    except DownloadError as error:
        cause = error.args[0].split("; where there is")[0]
        raise DownloadError(
            f"{cause}; without a network, put config.json, preprocessor_config.json "
            f"and model.safetensors of {base} into {folder}"
        ) from error
    return folder


def fetch_file(base: str, folder: Path, name: str, *, token: str) -> bool:
    """Downloads a file of a model; False if the model has none of that name."""
    try:
        download(base + name, folder / name, token=token)
    except NotThere as error:
        if "HTTP 404" in str(error):
            return False
        raise NotThere(
            f"{error}: Hugging Face has no such model, or shows it only to those with "
            "an access token in HF_TOKEN"
        ) from None
    return True


def shards(folder: Path) -> list[str]:
    """Names of the files that the index of sharded weights lists, [] without one.

    Raises:
        FileError: the index is damaged, or names files elsewhere.
    """
    index = folder / WEIGHTS[1]
    return shard_names(index) if index.exists() else []


def is_complete(folder: Path) -> bool:
    """Whether a folder holds weights, all of them."""
    if not any((folder / name).exists() for name in WEIGHTS):
        return False
    return all((folder / name).exists() for name in shards(folder))


def library_cache(name: str, revision: str) -> Path | None:
    """The model's folder in the cache of Hugging Face's own library, if it is there."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = hub / f"models--{name.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.exists() else revision
    snapshot = folder / "snapshots" / commit
    # The library may have downloaded the config only.
    return snapshot if (snapshot / "config.json").exists() else None
