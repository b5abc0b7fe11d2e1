"""Checkpoints of other projects: what a layout is, and how its rules are applied.

A layout is a module of functions (`Layout`). Its rules say which tensor of a file is
which of our parameters; the same rules read and write, so nothing is lost on the way.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import einops
import jax
import numpy as np
from flax import traverse_util

from vit_jax.models import AnyModel, ResNet, init_params
from vit_jax.models.variants import SIZES, Size

Tensors = Mapping[str, np.ndarray]
# Options that change what is computed and that only some layouts hold, which check the
# others themselves; some of them leave no trace in the tensors.
HOLD_LATER = ("timm", "timm_eva", "huggingface", "vit5")
LATER = {
    "block": "pre_norm",
    "norm": "layernorm",
    "mlp": "plain",
    "mlp_inner_norm": False,
    "attention_inner_norm": False,
    "qkv_bias": "qkv",
    "qk_norm": "none",
    "embedding_norm": False,
    "distillation_token": False,
}
SHOWN = 10


class Rule(NamedTuple):
    """One tensor of a foreign layout and the parameters of ours that it holds.

    `read` makes our arrays from theirs by views, transposes and splits only; `write` is
    its exact inverse, and takes our arrays in the order of `ours`.
    """

    theirs: str
    ours: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    write: Callable[..., np.ndarray]


class Facts(NamedTuple):
    """What a checkpoint has beside its weights; "" or 0 for what it has not.

    Attributes:
        label_names: names of the classes, in the order of the logits; () if unknown.
        eval_crop: how images are fitted, as in `Data.eval_crop`:
            "resize_small_center_crop" or "resize".
        crop_share: side of the centre crop over the shorter side of the resized image.
        interpolation: of that resize, "bilinear" or "bicubic".
        untold: options of the model that are assumed: neither tensors nor config tell.
    """

    label_names: tuple[str, ...] = ()
    eval_crop: str = ""
    crop_share: float = 0.0
    interpolation: str = ""
    untold: tuple[str, ...] = ()


class Layout(Protocol):
    """The functions that each module of a layout has.

    `config` is what goes with the tensors: the content of config.json, or of the
    `config` entry of a safetensors file's metadata; {} if there is none. Its key
    `preprocessor_config` holds the file of that name, if there is one.

    Attributes:
        NAME: its name on the command line.
    """

    @property
    def NAME(self) -> str: ...

    def recognises(self, tensors: Tensors, config: dict[str, Any]) -> bool:
        """Whether a file is of this layout, by its names and shapes alone."""
        ...

    def canonical(self, tensors: Tensors, config: dict[str, Any]) -> Tensors:
        """The tensors under the names and shapes of `rules`.

        Undoes prefixes, stacked blocks and old spellings; drops and logs what is no
        weight, such as optimizer state. All but `recognises` get the result.
        """
        ...

    def describe(self, tensors: Tensors, config: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `create_model`, from names and shapes and the config.

        `name`, `num_classes`, `image_size` (None if it is needed and not known)
        and every option that differs from the default, numerics of the original code
        included: reading what was written must give an equal model.
        """
        ...

    def facts(self, tensors: Tensors, config: dict[str, Any]) -> Facts:
        """Facts from the config."""
        ...

    def rules(self, model: AnyModel) -> list[Rule]:
        """One rule a tensor, for that model.

        Raises:
            ValueError: the layout cannot hold the model.
        """
        ...

    def config_for(self, model: AnyModel, facts: Facts) -> dict[str, Any]:
        """The config to go with a model, {} if the layout has none.

        Written to config.json in a folder, to the metadata in a file alone. The content
        of its key `preprocessor_config` goes to a file of that name.
        """
        ...


def same(theirs: str, ours: str) -> Rule:
    """A rule for a tensor that has only another name."""
    return Rule(theirs, (ours,), lambda x: (x,), lambda x: x)


def unused(theirs: str, shape: tuple[int, ...]) -> Rule:
    """A rule for a tensor that the other project's code must have, written as zeros."""
    return Rule(theirs, (), lambda _: (), lambda: np.zeros(shape, np.float32))


def rearranged(
    theirs: str, ours: str | tuple[str, ...], pattern: str, **sizes: int
) -> Rule:
    """A rule for a tensor with the same numbers in another order.

    Args:
        ours: if it is a tuple, its parameters are cut along the first axis of the
            pattern's right side, such as query, key and value along n in
            `"(n k e) d -> n d k e"`.
        pattern: of einops, from theirs to ours.
        **sizes: lengths of axes that the shape of theirs does not give.
    """
    left, right = pattern.split(" -> ")
    several = not isinstance(ours, str)
    # einops refuses sizes of axes that are not in the pattern; these are in both sides.
    read_array = functools.partial(einops.rearrange, pattern=pattern, **sizes)
    back = f"{right} -> {left}"

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = read_array(x)
        return tuple(x) if several else (x,)

    def write(*parts: np.ndarray) -> np.ndarray:
        x = np.stack(parts) if several else parts[0]
        return einops.rearrange(x, back, **sizes)

    return Rule(theirs, ours if several else (ours,), read, write)


def torch_dense(theirs: str, ours: str) -> list[Rule]:
    """A torch `Linear`: weight (out, in) and bias."""
    return [
        rearranged(f"{theirs}.weight", f"{ours}/kernel", "o i -> i o"),
        same(f"{theirs}.bias", f"{ours}/bias"),
    ]


def torch_convolution(theirs: str, ours: str) -> Rule:
    """The weight of a torch `Conv2d`, (out, in, height, width)."""
    return rearranged(f"{theirs}.weight", f"{ours}/kernel", "o i h w -> h w i o")


def torch_norm(theirs: str, ours: str) -> list[Rule]:
    """A torch LayerNorm or GroupNorm: weight and bias."""
    return [
        same(f"{theirs}.weight", f"{ours}/scale"),
        same(f"{theirs}.bias", f"{ours}/bias"),
    ]


def vit_arguments(size: Size, patch_size: int) -> dict[str, Any]:
    """`name` of a ViT and, for a size without a name, the options that make it up."""
    return named("ViT", SIZES, size, patch_size)


def named(
    family: str, sizes: Mapping[str, Any], size: Any, patch_size: int
) -> dict[str, Any]:
    """As `vit_arguments`, for a family and the table of its sizes."""
    for name, known in sizes.items():
        if known == size:
            return {"name": f"{family}-{name}/{patch_size}"}
    return {"name": f"{family}-{next(iter(sizes))}/{patch_size}", **size._asdict()}


def square_image(num_patches: int, patch_size: int) -> tuple[int, int] | None:
    """(height, width) of a square image with that many patches, None if none has."""
    side = math.isqrt(num_patches)
    return (side * patch_size, side * patch_size) if side**2 == num_patches else None


def usual_image(side: int) -> tuple[int, int]:
    """The image size where no file has it: 224 pixels, or what patches fit into."""
    size = max(224 // side, 1) * side
    return size, size


def check_options(model: AnyModel, layout: str, **allowed: tuple[Any, ...]) -> None:
    """Raises ValueError if a layout cannot hold the value of a model's attribute."""
    for name, values in allowed.items():
        value = getattr(model, name)
        if value not in values:
            raise ValueError(
                f"the {layout} layout cannot hold a model with {name}={value!r}: its "
                f"code has {' or '.join(map(repr, values))}"
            )


def check_later(model: AnyModel, layout: str, *held: str) -> None:
    """As `check_options`, of the options `LATER` but those that the layout holds."""
    plain = {name: (x,) for name, x in LATER.items() if name not in held}
    check_options(model, layout, **plain)


def read_params(layout: Layout, model: AnyModel, tensors: Tensors) -> dict[str, Any]:
    """Our parameter tree, in float32 numpy arrays, from canonical tensors.

    Raises:
        ValueError: tensors are missing, surplus or misshapen (all are named, with both
            shapes), are no finite numbers, or the layout cannot hold the model.
    """
    shapes = parameter_shapes(model)
    rules = checked_rules(layout, model, shapes)
    params, problems = {}, []
    for rule in rules:
        if rule.theirs not in tensors:
            problems.append(f"{rule.theirs} is missing, {expected_shape(rule, shapes)}")
            continue
        parts = fitting(rule, tensors[rule.theirs], shapes)
        if parts is None:
            shape = tensors[rule.theirs].shape
            problems.append(f"{rule.theirs} is {shape}, {expected_shape(rule, shapes)}")
            continue
        params.update(zip(rule.ours, parts, strict=True))
        if rule.ours:
            check_numbers(rule.theirs, tensors[rule.theirs])
    known = {rule.theirs for rule in rules}
    surplus = [name for name in tensors if name not in known]
    problems += [f"{name} {tensors[name].shape} is surplus" for name in surplus]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"the tensors are not those of this model in the {layout.NAME} layout: "
            f"{'; '.join(problems[:SHOWN])}{more}"
        )
    return traverse_util.unflatten_dict(params, sep="/")


def check_numbers(name: str, tensor: np.ndarray) -> None:
    """Raises ValueError for a tensor that no weights can be.

    Integers are quantised weights, whose scales no layout here has.
    """
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"{name} is {tensor.dtype}: wanted floating point, which quantised weights "
            "are again where they were made"
        )
    wrong = tensor.size - int(np.isfinite(tensor).sum())
    if wrong:
        raise ValueError(
            f"{name} holds {wrong} numbers of {tensor.size} that are NaN or infinite: "
            "the file is damaged, or its training diverged; take an earlier one"
        )


def write_tensors(
    layout: Layout, model: AnyModel, params: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The tensors of a model in a layout: float32, contiguous.

    Raises:
        ValueError: the layout cannot hold the model.
    """
    rules = checked_rules(layout, model, parameter_shapes(model))
    flat = traverse_util.flatten_dict(params, sep="/")
    return {
        rule.theirs: np.ascontiguousarray(
            rule.write(*(np.asarray(flat[name], np.float32) for name in rule.ours))
        )
        for rule in rules
    }


@functools.lru_cache(maxsize=8)
def parameter_shapes(model: AnyModel) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by path; computes and allocates nothing."""
    tree = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def checked_rules(
    layout: Layout, model: AnyModel, shapes: dict[str, tuple[int, ...]]
) -> list[Rule]:
    """The rules of a model, which must name each parameter once and no other.

    Raises:
        ValueError: they do not.
    """
    if layout.NAME not in HOLD_LATER and hasattr(model, "qkv_bias"):
        check_later(model, layout.NAME)
    if isinstance(model, ResNet):
        # They leave no trace in the tensors.
        check_options(model, layout.NAME, conv_padding=("zeros",), antialias=(False,))
    rules = layout.rules(model)
    ours = [path for rule in rules for path in rule.ours]
    left = sorted(shapes.keys() - set(ours))
    if left:
        raise ValueError(
            f"the {layout.NAME} layout has no place for {', '.join(left[:3])}"
            + (f" and {len(left) - 3} more parameters" if len(left) > 3 else "")
        )
    if len(ours) != len(shapes) or len({rule.theirs for rule in rules}) != len(rules):
        odd = sorted(set(ours) - shapes.keys()) or "a name twice"
        raise AssertionError(f"rules of {layout.NAME} beside the model: {odd}")
    return rules


def fitting(
    rule: Rule, tensor: np.ndarray, shapes: dict[str, tuple[int, ...]]
) -> tuple[np.ndarray, ...] | None:
    """Our parameters from their tensor, None if it has another shape."""
    try:
        parts = rule.read(tensor)
    except (einops.EinopsError, ValueError, IndexError):
        return None
    right = [part.shape for part in parts] == [shapes[path] for path in rule.ours]
    return parts if right else None


def expected_shape(rule: Rule, shapes: dict[str, tuple[int, ...]]) -> str:
    """The shape of their tensor that would fit, for an error."""
    zeros = (np.zeros(shapes[path], np.float32) for path in rule.ours)
    return f"wanted {rule.write(*zeros).shape}"
