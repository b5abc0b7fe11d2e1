"""Models of other JAX projects, and the training step that all of them are given.

`google` is google-research/vision_transformer, `big_vision` is google-research/
big_vision; of both only the files of the models are imported, from a checkout whose
folder is on `sys.path`. Their trainers differ in optimizers and in what they log, so
each model gets the same step: mean softmax loss, clipping at the global norm, AdamW.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers.linen import PlainViT

# Images (b, height, width, 3) to logits (b, n).
Logits = Callable[[Any, jax.Array], jax.Array]


def linen(spec: dict[str, Any]) -> tuple[Any, Logits]:
    """`linen.py`: the module, and its logits as a function of the variables."""
    model = PlainViT(spec["num_classes"], **spec["sizes"], dtype=spec["dtype"])
    return model, model.apply


def google(spec: dict[str, Any]) -> tuple[Any, Logits]:
    """`models_vit.py` of google-research/vision_transformer, float32 alone.

    Its encoder passes no dtype on to its blocks.
    """
    from ml_collections import ConfigDict

    from vit_jax import models_vit

    sizes = spec["sizes"]
    resnet = None
    if stages := sizes.get("resnet_stem"):
        resnet = ConfigDict({"num_layers": stages, "width_factor": 1})
    model = models_vit.VisionTransformer(
        num_classes=spec["num_classes"],
        # A patch of a hybrid is a feature of its ResNet, which has a stride of 16.
        patches=ConfigDict({"size": (1, 1) if resnet else (sizes["patch_size"],) * 2}),
        transformer={
            "num_layers": sizes["depth"],
            "mlp_dim": sizes["mlp_dim"],
            "num_heads": sizes["num_heads"],
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
        },
        hidden_size=sizes["width"],
        resnet=resnet,
        classifier={"cls": "token", "gap": "gap"}[sizes["pooling"]],
    )
    return model, lambda variables, x: model.apply(variables, x, train=False)


def big_vision(spec: dict[str, Any]) -> tuple[Any, Logits]:
    """`models/vit.py` of big_vision."""
    if not importlib.util.find_spec("tensorflow"):
        stand_in_for_tensorflow()
    from big_vision.models import vit

    sizes = spec["sizes"]
    p = sizes["patch_size"]
    model = vit.Model(
        spec["num_classes"],
        patch_size=(p, p),
        width=sizes["width"],
        depth=sizes["depth"],
        mlp_dim=sizes["mlp_dim"],
        num_heads=sizes["num_heads"],
        pool_type={"cls": "tok", "gap": "gap"}[sizes["pooling"]],
        dtype_mm=spec["dtype"],
    )
    return model, lambda variables, x: model.apply(variables, x)[0]


def stand_in_for_tensorflow() -> None:
    """Empty modules by which big_vision's `utils.py` can be imported.

    It imports TensorFlow for files in buckets only, which no model reads.
    """
    import flax.io  # noqa: F401  It would take the empty modules for TensorFlow.

    names = ("tensorflow", "tensorflow.io", "tensorflow.io.gfile")
    sys.modules.update({name: ModuleType(name) for name in names})


MODELS = {"linen": linen, "google": google, "big_vision": big_vision}


def make_program(
    spec: dict[str, Any], batch: dict[str, jax.Array]
) -> tuple[Callable[..., Any], Any]:
    """A jitted `(state, batch) -> (state, number)` of a peer, and its first state.

    Args:
        spec: `peer`, `mode` (`train` or `forward`), `num_classes`, `sizes`, `dtype`,
            `clip_norm`.
        batch: `image` (b h w 3, uint8) and `label` (b, int32).

    Returns:
        The program and `(params, optimizer state)`, or `(params,)` for `forward`.
    """
    model, logits = MODELS[spec["peer"]](spec)
    optimizer = optax.chain(
        optax.clip_by_global_norm(spec["clip_norm"]),
        optax.adamw(1e-3, weight_decay=0.1),
    )

    def scaled(images):
        return images.astype(jnp.float32) / 127.5 - 1.0

    def scores(params, batch):
        return logits({"params": params}, scaled(batch["image"])).astype(jnp.float32)

    def forward(state, batch):
        return state, scores(state[0], batch).mean()

    def train(state, batch):
        def mean_loss(params):
            losses = optax.softmax_cross_entropy_with_integer_labels
            return losses(scores(params, batch), batch["label"]).mean()

        params, opt_state = state
        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    @jax.jit
    def init(key):
        images = scaled(batch["image"][:1])
        options = {"train": False} if spec["peer"] == "google" else {}
        return model.init(key, images, **options)["params"]

    params = init(jax.random.key(0))
    if spec["mode"] == "forward":
        return jax.jit(forward, donate_argnums=0), (params,)
    return jax.jit(train, donate_argnums=0), (params, jax.jit(optimizer.init)(params))
