"""Checkpoints of other projects, in and out: `load_checkpoint`, `save_checkpoint`."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from vit_jax.interop import (
    adapt,
    big_vision,
    files,
    google,
    huggingface,
    model_card,
    timm,
    timm_eva,
    torchvision,
    vit5,
)
from vit_jax.interop.layout import (
    Facts,
    Layout,
    Tensors,
    parameter_shapes,
    read_params,
    write_tensors,
)
from vit_jax.interop.model_card import UNKNOWN, Origin
from vit_jax.models import AnyModel, create_model, model_options
from vit_jax.models.depth import unrolled, unstack_blocks
from vit_jax.parallel import sharding
from vit_jax.parallel.placement import place_params
from vit_jax.storage import output

logger = logging.getLogger(__name__)

__all__ = ["LAYOUTS", "Facts", "Loaded", "load_checkpoint", "save_checkpoint"]

# In the order of trial; at most one may recognise a file.
LAYOUTS: tuple[Layout, ...] = (
    google,
    big_vision,
    timm,
    timm_eva,
    huggingface,
    torchvision,
    vit5,
)
IN_NPZ = (google, big_vision)  # the others are written as .safetensors, or a folder
NAMED = 5  # tensors in an error
# How the code of a layout resamples positions, if not as the paper's.
RESAMPLING = {
    "timm": "bicubic",
    "timm_eva": "bicubic",
    "huggingface": "bicubic_plain",
    "vit5": "bicubic_plain",
}
NO_FACTS = Facts()


class Loaded(NamedTuple):
    """A checkpoint, ready for use.

    Attributes:
        model, params: for `model.apply({"params": params}, ...)`; float32 arrays, of
            NumPy (perhaps views of the file) unless a mesh was given.
        facts: label names and preprocessing, as far as the checkpoint has them.
        description: one line about the model in the file, before any change of it.
    """

    model: AnyModel
    params: dict[str, Any]
    facts: Facts
    description: str


def load_checkpoint(
    path: str | Path,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    resample: str = "auto",
    dtype: DTypeLike = "auto",
    layout: str = "auto",
    mesh: jax.sharding.Mesh | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> Loaded:
    """Loads a checkpoint of any layout; the architecture is found from its content.

    Args:
        path: .npz (with a subtree, `file.npz:img`), .safetensors, .pth, or a folder.
        num_classes: another number gives a new zero head, 0 none; None keeps the
            file's. A head that is lost is logged.
        image_size: (height, width) in pixels, or the side of a square; positions are
            resampled, which is logged. Needed where the positions in the file are not
            those of a square and its config has no size.
        patch_size: in pixels; patches are resized (FlexiViT), which is logged.
        resample: of positions: a name of `resample_grid`; "auto" is what the code of
            the checkpoint's project does.
        dtype: of the computation, as in `create_model`.
        layout: the name of a layout; "auto" finds it.
        mesh: from `sharding.make_mesh`, to put the parameters on; None leaves them on
            the host.
        told: attributes of the model that count only where the file does not tell them.
        **options: attributes of the model, such as `dropout_rate`, or `norm_epsilon`
            and `pixel_mean`, which many files do not have: what is assumed is logged.

    Raises:
        ValueError: the file cannot be read, no layout fits it, or tensors are missing,
            surplus or misshapen.
    """
    if mesh is not None:
        sharding.check_axes(mesh)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    tensors, config = files.read_tensors(path)
    module = find_layout(tensors, config, layout, path)
    with naming(path):
        tensors, arguments = read_architecture(module, tensors, config, path)
        facts = module.facts(tensors, config)
    options = {name: x for name, x in told.items() if name in facts.untold} | options
    arguments["image_size"] = arguments["image_size"] or image_size
    if arguments["image_size"] is None:
        raise ValueError(
            f"the positions in {path} are not those of a square image: give "
            "image_size=(height, width)"
        )
    model = create_model(dtype=dtype, **(arguments | options))
    with naming(path):
        params = read_params(module, model, tensors)
    report_untold(path, model, [x for x in facts.untold if x not in options])
    description = f"{module.NAME} layout: {describe(model)}"
    if num_classes is not None and num_classes != model.num_classes:
        keep = options.get("pre_logits", False)
        model, params = adapt.replace_head(
            model, params, num_classes, keep_pre_logits=keep
        )
        facts = facts._replace(label_names=())
    if mesh is not None:
        params = place_params(params, mesh)
    if resample == "auto":
        resample = usual_resampling(module.NAME, config, Path(path))
    model, params = adapt.resize(model, params, image_size, patch_size, resample)
    if mesh is not None:
        params = place_params(params, mesh)
    return Loaded(model, params, facts, description)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Puts a path before an error about its content that does not name it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise files.FileError(f"{path}: {error}") from error


def read_architecture(
    module: Layout, tensors: dict[str, np.ndarray], config: dict[str, Any], path: Any
) -> tuple[Tensors, dict[str, Any]]:
    """Canonical tensors, and the arguments of `create_model` for them.

    Raises:
        ValueError: a tensor that they follow from is missing or misshapen.
    """
    try:
        canonical = module.canonical(tensors, config)
        return canonical, module.describe(canonical, config)
    except (KeyError, IndexError) as error:
        tensor = error.args[0] if isinstance(error, KeyError) else "a tensor"
        raise ValueError(
            f"the {module.NAME} layout finds no architecture in {path}: {tensor} is "
            "missing or misshapen"
        ) from error


def usual_resampling(layout: str, config: Mapping[str, Any], path: Path) -> str:
    """What the checkpoint's own code resamples by; FlexiViT's by name."""
    if config.get("architecture", path.name).startswith("flexivit"):
        return "linear_plain" if layout == "timm" else "linear"
    return RESAMPLING.get(layout, "bilinear")


def report_untold(path: Any, model: AnyModel, names: Sequence[str]) -> None:
    """Warns of what the file does not tell, with the values that are assumed."""
    assumed = {name: getattr(model, name) for name in names if hasattr(model, name)}
    if not assumed:
        return
    values = ", ".join(f"{name}={value!r}" for name, value in assumed.items())
    name, value = list(assumed.items())[-1]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    logger.warning(
        f"{path} does not tell some options, which are assumed: {values}; give what is "
        f"wrong by hand, as {name}={value!r} to vit_jax.load, --model.{name}={text} to "
        f"a command, --config.model.{name}={text} to vit_jax.train"
    )


def find_layout(
    tensors: dict[str, np.ndarray], config: dict[str, Any], layout: str, path: Any
) -> Layout:
    """The layout of that name, or for "auto" the one that recognises the tensors.

    Raises:
        ValueError: there is no such layout, or not exactly one that does.
    """
    if layout != "auto":
        return named_layout(layout)
    candidates = [module for module in LAYOUTS if module.recognises(tensors, config)]
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(list(tensors)[:NAMED])
    if candidates:
        both = " and ".join(module.NAME for module in candidates)
        raise ValueError(
            f"{path} could be of the layouts {both}: name one, as in "
            f"layout={candidates[0].NAME!r}; its first tensors are {names}"
        )
    known = ", ".join(module.NAME for module in LAYOUTS)
    named = config.get("architecture")
    beside = f" and its config's architecture {named!r}" if named else ""
    raise ValueError(
        f"{path} has none of the known layouts ({known}): its first tensors are {names}"
        f"{beside}"
    )


def named_layout(name: str) -> Layout:
    modules = {module.NAME: module for module in LAYOUTS}
    if name not in modules:
        raise ValueError(f"unknown layout {name!r}: wanted one of {', '.join(modules)}")
    return modules[name]


def save_checkpoint(
    path: str | Path,
    model: AnyModel,
    params: dict[str, Any],
    *,
    layout: str,
    facts: Facts = NO_FACTS,
    origin: Origin = UNKNOWN,
) -> dict[str, Any]:
    """Writes a model in a layout; nothing half-written is left behind.

    Args:
        path: .npz for google and big_vision; for the others .safetensors, or a folder,
            which gets model.safetensors, config.json and a model card, README.md.
        model, params: its blocks may be stacked.
        facts: label names and preprocessing, where the layout has a place for them.
        origin: for the model card.

    Returns:
        Attributes of the model that are not in the file, with their values; a warning
        names them.

    Raises:
        ValueError: the layout cannot hold the model, or the path is of another kind.
        OutputError: the path cannot be written, or is in the folder of a run.
    """
    path = Path(path)
    module = check_path(layout, path)
    output.check(path, is_folder=path.suffix not in (".npz", ".safetensors"))
    model, params = unrolled(model), unstack_blocks(params)
    tensors = write_tensors(module, model, params)
    config = module.config_for(model, facts)
    lost = lost_attributes(module, model, tensors, config)
    if path.suffix == ".npz":
        files.write_npz(path, tensors)
    elif path.suffix == ".safetensors":
        files.write_safetensors(path, tensors, config)
    else:
        name, line = path.resolve().name, describe(model)
        text = model_card.card(name, model, line, layout, facts, lost, origin)
        with output.filling(path) as new:
            files.write_folder(new, tensors, config)
            if model_card.is_wanted(path, text):
                output.write(new / model_card.NAME, text)
    return lost


def check_path(layout: str, path: Path) -> Layout:
    """The layout of a name, if it is written to paths of this kind.

    Raises:
        ValueError: it is not, or there is no such layout.
    """
    module = named_layout(layout)
    if module in IN_NPZ:
        kinds, fits = ".npz", path.suffix == ".npz"
    else:
        kinds = ".safetensors or a folder"
        is_folder = not path.name.endswith(files.SUFFIXES) and not path.is_file()
        fits = path.suffix == ".safetensors" or is_folder
    if not fits:
        raise ValueError(f"the {layout} layout is written to {kinds}, not to {path}")
    return module


def lost_attributes(
    module: Layout, model: AnyModel, tensors: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Logs and returns attributes that a layout does not store, with their values."""
    read = module.describe(tensors, config)
    options: dict[str, Any] = read | {
        "image_size": read["image_size"] or model.image_size
    }
    reader = create_model(dtype="float32", **options)
    ours, theirs = adapt.attributes(model), adapt.attributes(reader)
    theirs["image_size"] = read["image_size"]
    lost = {
        name: value
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    }
    if lost:
        logger.warning(
            f"the {module.NAME} layout cannot store "
            + ", ".join(
                f"{name}={value!r} (its code has {theirs[name]!r})"
                for name, value in lost.items()
            )
            + "; give it when loading"
        )
    return lost


def describe(model: AnyModel) -> str:
    """One line: name, image size, classes, numerics, options other than the name's."""
    height, width = model.image_size
    count = sum(math.prod(shape) for shape in parameter_shapes(model).values())
    options = model_options(model)
    parts = [
        f"{options.pop('name')} at {height}x{width} px",
        f"{model.num_classes} classes" if model.num_classes else "no head",
        f"{count:,} parameters",
    ]
    for name in ("activation", "norm_epsilon"):
        if hasattr(model, name):
            parts.append(f"{name}={getattr(model, name)}")
            options.pop(name, None)
    changed = [f"{name}={x}" for name, x in options.items() if name not in adapt.FREE]
    return ", ".join(parts) + (f"; with {', '.join(changed)}" if changed else "")
