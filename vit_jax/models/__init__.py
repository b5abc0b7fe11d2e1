"""Models by name."""

import dataclasses
import difflib
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vit_jax.models.attention import with_plain_attention
from vit_jax.models.depth import stack_blocks, unrolled
from vit_jax.models.layers import trunc_normal
from vit_jax.models.mixer import Mixer
from vit_jax.models.resnet import ResNet, epsilons
from vit_jax.models.timm_names import read_name
from vit_jax.models.variants import names, parse_name
from vit_jax.models.vit import VisionTransformer

AnyModel = VisionTransformer | ResNet | Mixer
FAMILIES = {"vit": VisionTransformer, "resnet": ResNet, "mixer": Mixer}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
ARGUMENTS = ("num_classes", "image_size", "dtype")  # what `create_model` names itself
# Attributes that are no options: those, Flax's own and what is in a model's name.
NO_OPTIONS = (*ARGUMENTS, "parent", "name", "patch_size")


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    dtype: DTypeLike = "auto",
    **options: Any,
) -> AnyModel:
    """Creates a model by name, such as `ViT-B/16`, `R50+ViT-B/16` or `BiT-R50x1`.

    Args:
        name: one of `vit_jax/models/variants.py`, or timm's name of such a model,
            `vit_tiny_patch16_224`, which stands for timm's numerics too.
        num_classes: outputs of the head; 0 for no head.
        image_size: in pixels, one number for a square or (height, width); None is that
            of timm's name, or 224.
        dtype: of the matrix products: float32, bfloat16 or float16, by name or as
            NumPy and JAX have them, or "auto" (bfloat16 on GPU and TPU, float32 on
            CPU).
        **options: the other attributes of the model's class; the name's own depth,
            width and so on can be overridden too. An option that only other families
            have may be given with its default there, and does nothing. Neither does
            VisionTransformer's default of one that the name decides: "full" as the
            attention of Axial-ViT, 1e-6 as the norm_epsilon of a BiT ResNet.

    Raises:
        ValueError: unknown name or dtype, or an option of another family only.
        TypeError: an option of no family; names the nearest.
    """
    family, sizes, usual_size = read_name(name)
    if image_size is None:
        image_size = usual_size
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    model = FAMILIES[family]
    if (
        family == "resnet"
        and options.get("version", sizes["version"]) != sizes["version"]
    ):
        sizes |= epsilons(options["version"])
    return model(
        num_classes=num_classes,
        image_size=tuple(image_size),
        dtype=compute_dtype(dtype),
        **(sizes | own_options(name, model, sizes, options)),
    )


def compute_dtype(dtype: DTypeLike) -> Any:
    """The JAX type that is meant; "auto" is that of the default device.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    if isinstance(dtype, str) and dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    try:
        return DTYPES[jnp.dtype(dtype).name]
    except (TypeError, KeyError):
        known = ", ".join(DTYPES)
        raise ValueError(f"unknown dtype {dtype!r}: wanted auto, {known}") from None


def init_params(model: AnyModel, key: jax.Array) -> dict[str, Any]:
    """Draws new parameters: a nested dict of float32 arrays.

    Those of a scanned model are the same numbers, stacked.

    Raises:
        ValueError: an initialization that is not defined for the model.
    """
    images = jnp.zeros((1, *model.image_size, 3), jnp.float32)
    # No parameter depends on the attention, which may be that of another machine.
    plain = with_plain_attention(unrolled(model))

    def draw(key: jax.Array, images: jax.Array) -> dict[str, Any]:
        params = plain.init(key, images, train=False)["params"]
        kind = getattr(model, "initialization", "xavier")
        if kind == "trunc_normal":
            params = trunc_normal(params, key)
        elif kind != "xavier":
            # Here, as few runs need it.
            from vit_jax.models.initialization import structured

            params = structured(model, params, key)
        return params

    params = jax.jit(draw)(key, images)
    return stack_blocks(params) if getattr(model, "scan", False) else params


def model_options(model: AnyModel) -> dict[str, Any]:
    """The name nearest to a model, and the options in which it differs from that name.

    With the same num_classes, image_size and dtype, `create_model(**options)` is then
    the model itself. All values are plain: numbers, text, tuples, None.

    Raises:
        ValueError: `create_model` cannot make it: a BiT ResNet of version v2 that has
            the norm_epsilon of VisionTransformer.
    """
    family = next(key for key, value in FAMILIES.items() if type(model) is value)

    def differences(name: str) -> dict[str, Any]:
        options = {}
        if family == "resnet" and parse_name(name)[1]["version"] != model.version:
            options["version"] = model.version  # other epsilons come with it
        named = create_model(name, num_classes=0, **options)
        return options | {
            option: getattr(model, option)
            for option in defaults_of(type(model))
            if getattr(model, option) != getattr(named, option)
            and option != "patch_outputs"  # the training objective adds that head
        }

    def distance(name: str) -> tuple[bool, int]:
        found = differences(name)
        # Attention in the place of convolutions is more than any other difference.
        return "axial_heads" in found, len(found)

    choices = names(family, getattr(model, "patch_size", 0))
    name = min(choices, key=distance)
    options = {"name": name} | differences(name)
    same = {name: getattr(model, name) for name in ("num_classes", "image_size")}
    if create_model(**options, **same, dtype=jnp.dtype(model.dtype).name) != model:
        raise ValueError(
            f"create_model takes the options {options} for defaults, and makes another "
            f"model of them: change norm_epsilon, which is {model.norm_epsilon}"
        )
    return options


def own_options(
    name: str, model: type[AnyModel], sizes: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The options that a model is built with; `create_model` has the rules."""
    own = {}
    for option, value in options.items():
        # Lists, as JSON has them, would make equal models differ.
        value = tuple(value) if isinstance(value, list) else value
        if option in defaults_of(model):
            usual = is_default(VisionTransformer, option, value)
            if not (usual and option in sizes):
                own[option] = value
        elif not does_nothing(option, value):
            raise option_error(name, model, option, value)
    return own


def does_nothing(option: str, value: Any) -> bool:
    """Whether an option asks a family without it for what that family does anyway."""
    if option == "pooling" and value == "gap":
        return True
    return any(is_default(family, option, value) for family in FAMILIES.values())


def is_default(family: type[AnyModel], option: str, value: Any) -> bool:
    return option in defaults_of(family) and defaults_of(family)[option] == value


def option_error(
    name: str, model: type[AnyModel], option: str, value: Any
) -> Exception:
    """What is wrong with an option that the family of a model does not have."""
    own = [*defaults_of(model), *ARGUMENTS]
    if option == "patch_size":
        return ValueError(
            f"the patch size is in the model's name, {name}: write another name "
            f"instead of patch_size={value}"
        )
    if any(option in defaults_of(family) for family in FAMILIES.values()):
        return ValueError(
            f"{name} has no option {option!r}, which is {value!r} here: leave it "
            f"out; the options of a {model.__name__} are "
            f"{', '.join(defaults_of(model))}"
        )
    nearest = difflib.get_close_matches(option, own, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"wanted {', '.join(own)}"
    return TypeError(f"unknown option {option!r}: {hint}")


@functools.cache
def defaults_of(model: type[AnyModel]) -> dict[str, Any]:
    """The options of a family and their defaults, `MISSING` if a name gives them."""
    return {
        field.name: field.default
        for field in dataclasses.fields(model)
        if field.name not in NO_OPTIONS
    }
