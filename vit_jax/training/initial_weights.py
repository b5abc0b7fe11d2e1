"""Training that starts from a checkpoint: its architecture and its parameters."""

from pathlib import Path
from typing import Any

import jax
import ml_collections

from vit_jax.config import ConfigError
from vit_jax.data.labels import label_order
from vit_jax.interop.adapt import FREE, HEADS, attributes
from vit_jax.interop.trained import load_model, load_trained
from vit_jax.models import (
    AnyModel,
    VisionTransformer,
    defaults_of,
    init_params,
    model_options,
)
from vit_jax.models.depth import stack_blocks, unstack_blocks
from vit_jax.parallel.placement import stack_layers
from vit_jax.storage.paths import medium
from vit_jax.storage.run_files import load_config
from vit_jax.training.optim import path_name
from vit_jax.training.step import named_keys

# What classifies, from the last layer back; fine-tuning drops it all (appendix D.3).
# Then what only masked patch prediction needs, and no loaded run has.
HEAD = (*HEADS, "pre_logits", "mask_token", "patch_head")


def complete_model(
    config: ml_collections.ConfigDict, folder: Path
) -> ml_collections.ConfigDict:
    """The config with its model named: that of `init`, if `model.name` is empty.

    Options of the model that the config changes from their defaults stay. A run that
    goes on takes the model from its folder, and does not need `init` any more.

    Raises:
        ConfigError: neither a name nor a checkpoint is given.
        ValueError, OSError: the checkpoint cannot be loaded.
    """
    if config.model.name:
        return config
    if not config.init:
        raise ConfigError(
            "model.name is empty: name a model, as --config.model.name=ViT-B/16, or "
            "give a checkpoint with --init"
        )
    begun = folder / "config.json"
    stored = load_config(begun) if medium(begun).exists(begun) else None
    if stored is not None and stored.init == config.init:
        options = dict(stored.model)
    else:
        options = model_options(load_model(config.init))
    defaults = defaults_of(VisionTransformer) | {"name": "", "dtype": "auto"}
    overrides = {k: v for k, v in config.model.items() if v != defaults.get(k)}
    options = {k: v for k, v in options.items() if k == "name" or k not in FREE}
    options.pop("pre_logits", None)
    complete = config.copy_and_resolve_references()
    complete.model.update(options | overrides)
    return complete


def initial_params(
    model: AnyModel,
    abstract_params: dict[str, Any],
    init: str,
    label_names: tuple[str, ...],
    *,
    seed: int,
    resample: str,
) -> dict[str, Any]:
    """Takes the parameters of a checkpoint, fitted to the model's image size.

    The head is new if it is of other classes or another size. No device ever holds more
    than its part, of the checkpoint or of what is new.

    Args:
        abstract_params: those of the model that is to be trained, as shapes with
            shardings.
        init: what `load_trained` takes. What it does not tell is as in the model, where
            that is other than the default; without, a default is no choice.
        label_names: of the classes that are to be trained.
        seed: what is new is drawn as a run with this seed would.
        resample: filter for positions, as in `load`.

    Raises:
        ValueError: another architecture, or other numerics; names what differs.
        OSError: the checkpoint is not there.
    """
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params)
    usual = defaults_of(type(model))
    run = load_trained(
        init,
        told={k: v for k, v in attributes(model).items() if v != usual.get(k)},
        image_size=model.image_size,
        patch_size=getattr(model, "patch_size", None),
        resample=resample,
        mesh=jax.tree.leaves(shardings)[0].mesh,
    )
    check_attributes(run.model, model, init)
    shapes = jax.eval_shape(unstack_blocks, abstract_params)
    there, here = (
        {n: jax.tree.map(lambda x: x.shape, tree[n]) for n in HEAD if n in tree}
        for tree in (run.params, shapes)
    )
    if there != here or not same_classes(run.label_names, label_names):
        old, new = (" and ".join(names) or "nothing" for names in (there, here))
        print(f"init: {old} of {init} replaced by new {new}")
        for name in there:
            del run.params[name]
        run.params.update(draw(model, seed, {name: shardings[name] for name in here}))
    check_shapes(run.params, shapes, init)
    if getattr(model, "scan", False):
        return stack_blocks(run.params, stack_layers)
    return run.params


def draw(model: AnyModel, seed: int, shardings: dict[str, Any]) -> dict[str, Any]:
    """New parameters of a model, only those that have shardings here."""

    def chosen_params() -> dict[str, Any]:
        params = init_params(model, named_keys(seed).params)
        return {name: params[name] for name in shardings}

    return jax.jit(chosen_params, out_shardings=shardings)()


def same_classes(there: tuple[str, ...], here: tuple[str, ...]) -> bool:
    """Whether the outputs of a checkpoint are the classes of the data, in order."""
    if len(there) != len(here):
        return False
    try:
        order = label_order(here, there, "the data")
    except ValueError:
        return False
    return (order == range(len(order))).all()


def check_attributes(loaded: AnyModel, model: AnyModel, init: str) -> None:
    """Raises ValueError if the same parameters would mean something else."""
    there, here = attributes(loaded), attributes(model)
    if type(loaded) is not type(model):
        raise ValueError(
            f"init={init!r} is a {type(loaded).__name__}, and the config's model a "
            f"{type(model).__name__}: leave model.name empty to take the checkpoint's"
        )
    wrong = [
        f"{name} is {there[name]!r} there, {here.get(name)!r} here"
        for name in there
        if name not in ("num_classes", "pre_logits") and there[name] != here.get(name)
    ]
    if wrong:
        raise ValueError(
            f"init={init!r} is another model: {'; '.join(wrong)}. Set model.* as it is "
            "there, or leave model.name empty to take all of it from the checkpoint"
        )


def check_shapes(loaded: dict[str, Any], params: dict[str, Any], init: str) -> None:
    """Raises ValueError that names the parameters that do not fit."""
    there, here = (
        {path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (loaded, params)
    )
    wrong = [
        f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if wrong:
        raise ValueError(f"init={init!r} does not fit the model: " + "; ".join(wrong))
