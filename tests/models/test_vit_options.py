"""Options of the ViT that later architectures have, beside the same model in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from vit_jax.models import create_model, init_params, model_options
from vit_jax.models.depth import scanned
from vit_jax.models.features import features
from vit_jax.parallel.sharding import AXES, param_spec
from vit_jax.planning.flops import model_macs
from vit_jax.training.optim import path_name

SIZES = {"depth": 2, "width": 16, "mlp_dim": 24, "num_heads": 2, "num_classes": 5}
SHAPE = {"image_size": (8, 12), "dtype": "float32", "norm_epsilon": 1e-3}
DINOV3 = {"positions": "rope2d", "qkv_bias": "qv", "num_registers": 2}
EVA02 = {"positions": "learned_rope2d", "mlp": "swiglu", "mlp_inner_norm": True}
VIT5 = {
    "positions": "learned_rope2d",
    "rope_coordinates": "index",
    "rope_base": 1e4,
    "rope_layout": "pairs",
    "rope_register_base": 100.0,
    "num_registers": 4,
    "class_token_position": False,
    "qkv_bias": "none",
    "qk_norm": "rmsnorm",
    "norm": "rmsnorm",
    "layer_scale_init": 0.5,
}
OPTIONS = {
    "rmsnorm": {"norm": "rmsnorm"},
    "qk_norm": {"qk_norm": "layernorm"},
    "qk_rmsnorm": {"qk_norm": "rmsnorm"},
    "no_key_bias": {"qkv_bias": "qv"},
    "no_value_bias": {"qkv_bias": "qk"},
    "no_bias": {"qkv_bias": "none"},
    "swiglu": {"mlp": "swiglu"},
    "inner_norms": {"mlp_inner_norm": True, "attention_inner_norm": True},
    "embedding_norm": {"embedding_norm": True},
    "post_norm": {"block": "post_norm"},
    "parallel": {"block": "parallel", "layer_scale_init": 0.5, "norm": "rmsnorm"},
    "pairs": {"block": "pairs", "layer_scale_init": 0.5},
    "distillation": {"distillation_token": True, "num_registers": 1},
    "map_of_patches": {"pooling": "map", "num_registers": 2, "map_reads": "patches"},
    "map_of_all": {"pooling": "map", "num_registers": 2, "class_token": "always"},
    "dinov3": DINOV3 | {"norm_after_pooling": True, "pooling": "gap"},
    "eva02": EVA02 | {"qkv_bias": "qv", "attention_inner_norm": True},
    "relative_bias": {"positions": "relative_bias", "qkv_bias": "qv"},
    "relative_mlp": {
        "positions": "relative_mlp",
        "positions_at": "shared",
        "relative_mlp_dim": 6,
        "num_registers": 1,
        "block": "post_norm",
    },
    "mixed": {"positions": "rope2d", "rope_frequencies": "mixed", "block": "parallel"},
    "vit5": VIT5,
}


def tiny(**options):
    return create_model("ViT-mu/4", **SHAPE, **SIZES | options)


def drawn(model):
    init = functools.partial(init_params, model)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(init, jax.random.key(0)),
    )


def pixels(*shape):
    return jax.random.uniform(jax.random.key(2), (*shape, 3), minval=-1)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, params, images, train=False):
    return model.apply({"params": params}, images, train=train)


# --- The model in NumPy -----------------------------------------------------------


def norm(x, own, kind):
    if kind == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)
    return x * own["scale"] + own.get("bias", 0.0)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(x, own, model):
    hidden = x @ own["hidden"]["kernel"] + own["hidden"]["bias"]
    if model.mlp == "swiglu":
        gate = x @ own["gate"]["kernel"] + own["gate"]["bias"]
        hidden = gate / (1 + np.exp(-gate)) * hidden
    else:
        hidden = gelu(hidden)
    if "norm" in own:
        hidden = norm(hidden, own["norm"], model.norm)
    return hidden @ own["out"]["kernel"] + own["out"]["bias"]


def attention(x, own, model, queries=None):
    def part(name, x):
        found = np.einsum("ld,dke->kle", x, own[name]["kernel"])
        return found + own[name].get("bias", np.zeros((2, 8)))[:, None]

    query = part("query", x if queries is None else queries)
    key, value = part("key", x), part("value", x)
    if "query_norm" in own:
        query = norm(query, own["query_norm"], model.qk_norm)
        key = norm(key, own["key_norm"], model.qk_norm)
    if "rope" in model.positions and queries is None:
        query, key = (rotate(y, own.get("rotary"), model) for y in (query, key))
    logits = np.einsum("kqe,kle->kql", query, key) / np.sqrt(8)
    if "relative_positions" in own:
        logits = logits + offset_numbers(own["relative_positions"], model)
    scores = np.exp(logits)
    scores /= scores.sum(-1, keepdims=True)
    heads = np.einsum("kql,kle->qke", scores, value)
    if "norm" in own:
        joined = heads.reshape(len(heads), -1)
        heads = norm(joined, own["norm"], model.norm).reshape(heads.shape)
    return np.einsum("qke,ked->qd", heads, own["out"]["kernel"]) + own["out"]["bias"]


def offset_numbers(own, model):
    """What is added to the logits, query by query and key by key."""
    first, columns = model.num_prefix_tokens, model.grid[1]
    length = first + 6

    def number(query, key):
        if min(query, key) < first:
            number = 2 if max(query, key) < first else int(key < first)
            return own["prefix"][number] if "prefix" in own else np.zeros(2)
        places = (np.array(divmod(token - first, columns)) for token in (query, key))
        row, column = np.subtract(*places)
        if "offsets" in own:
            return own["offsets"][row + 1, column + 2]
        logarithms = [np.sign(x) * np.log(1 + abs(x)) for x in (row, column)]
        hidden = logarithms @ own["hidden"]["kernel"] + own["hidden"]["bias"]
        return np.maximum(hidden, 0) @ own["out"]["kernel"] + own["out"]["bias"]

    pairs = [[number(q, k) for k in range(length)] for q in range(length)]
    return np.moveaxis(np.array(pairs), -1, 0)


def rotate(x, learned, model):
    """DINOv3's angles: the centre of each patch in turns, at two frequencies."""
    if model.rope_register_base:
        return rotate_with_registers(x, model)
    x, (rows, columns) = x.copy(), model.grid
    for patch in range(rows * columns):
        row, column = divmod(patch, columns)
        y = 2 * np.pi * (2 * (row + 0.5) / rows - 1)
        z = 2 * np.pi * (2 * (column + 0.5) / columns - 1)
        for head in range(2):
            if learned is None:
                angles = np.array([y, y / 10, z, z / 10])
            else:
                along = learned["frequencies"][:, head]
                angles = y * along[0] + z * along[1]
            token = x[head, model.num_prefix_tokens + patch]
            turned = (token[:4] + 1j * token[4:]) * np.exp(1j * angles)
            token[:] = np.concatenate([turned.real, turned.imag])
    return x


def rotate_with_registers(x, model):
    """ViT-5's angles: the numbers of row and column, of the four registers too."""
    x = x.copy()
    for token in range(x.shape[1]):
        place, columns, base = token, 2, 100
        if token == 4:  # the class token
            continue
        if token > 4:
            place, columns, base = token - 5, model.grid[1], 10_000
        row, column = divmod(place, columns)
        slow = base**-0.5
        angles = np.array([row, row * slow, column, column * slow])
        turned = (x[:, token, ::2] + 1j * x[:, token, 1::2]) * np.exp(1j * angles)
        x[:, token, ::2], x[:, token, 1::2] = turned.real, turned.imag
    return x


def block(x, own, model):
    def scaled(y, name):
        return y * own.get(name, {"layer_scale": 1.0})["layer_scale"]

    if model.block == "parallel":
        y = norm(x, own["norm"], model.norm)
        y = attention(y, own["attention"], model) + mlp(y, own["mlp"], model)
        return x + scaled(y, "branch")
    for part, function in (("attention", attention), ("mlp", mlp)):
        total = 0
        for name in [part, f"second_{part}"] if model.block == "pairs" else [part]:
            if model.block == "post_norm":
                y = function(x, own[name], model)
                y = norm(y, own[f"{name}_norm"], model.norm)
            else:
                y = norm(x, own[f"{name}_norm"], model.norm)
                y = function(y, own[name], model)
            total = total + scaled(y, f"{name}_branch")
        x = x + total
    return x


def logits_by_hand(model, params, image):
    patches = image.reshape(2, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(6, -1)
    x = patches @ params["embedding"]["kernel"].reshape(-1, 16)
    x = x + params["embedding"].get("bias", 0.0)
    names = ("class_token", "distillation_token")
    x = np.concatenate([*(params[n][0] for n in names if n in params), x])
    if "positions" in params:
        table = params["positions"]["embedding"][0]
        x[len(x) - len(table) :] += table
    if "registers" in params:
        x = np.concatenate([params["registers"][0], x])
    if model.embedding_norm:
        x = norm(x, params["embedding_norm"], model.norm)
    for i in range(model.depth):
        own = params["encoder"][f"block_{i:02d}"]
        if shared := params.get("relative_positions"):
            own["attention"]["relative_positions"] = shared
        x = block(x, own, model)
    if not model.norm_after_pooling:
        x = norm(x, params["encoder"]["norm"], model.norm)
    first = model.num_registers
    pooled = x[first]
    if model.pooling == "gap":
        pooled = x[model.num_prefix_tokens :].mean(0)
    if model.pooling == "map":
        own = params["map_head"]
        read = x if model.map_reads == "all" else x[model.num_prefix_tokens :]
        pooled = attention(read, own["attention"], model, own["probe"][0])[0]
        y = norm(pooled, own["norm"], model.norm)
        pooled = pooled + mlp(y, own["mlp"], model.clone(mlp="plain"))
    if model.norm_after_pooling:
        pooled = norm(pooled, params["pool_norm"], model.norm)
    logits = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    if model.distillation_token:
        head = params["distillation_head"]
        logits = (logits + x[first + 1] @ head["kernel"] + head["bias"]) / 2
    return logits


# --- Tests ------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_those_of_numpy(name):
    model = tiny(**OPTIONS[name])
    params, images = drawn(model), pixels(2, 8, 12)
    found, _ = run(model, params, images)
    params, images = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, images))
    wanted = [logits_by_hand(model, params, image) for image in images]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_is_made_again_from_its_options(name):
    model = tiny(**OPTIONS[name])
    options = model_options(model)
    assert OPTIONS[name].items() <= options.items()
    same = {"num_classes": 5, "image_size": (8, 12), "dtype": "float32"}
    assert create_model(**options, **same) == model


@pytest.mark.parametrize(
    "name",
    ["eva02", "dinov3", "mixed", "pairs", "relative_bias", "relative_mlp", "vit5"],
)
def test_scanned_and_rematerialised_blocks_give_the_same(name):
    model = tiny(**OPTIONS[name])
    params, images = drawn(model), pixels(2, 8, 12)

    def gradient(model, params):
        return jax.jit(jax.grad(lambda p: (run(model, p, images)[0] ** 2).sum()))(
            params
        )

    stacked_model, stacked = scanned(model.clone(remat="full"), params)
    expected = scanned(model, gradient(model, params))[1]
    found, wanted = map(jax.tree.leaves, (gradient(stacked_model, stacked), expected))
    largest = max(np.abs(leaf).max() for leaf in wanted)
    for one, other in zip(found, wanted, strict=True):
        # That of a key's bias is zero, and here nothing but rounding.
        scale = max(np.abs(other).max(), 1e-4 * largest)
        np.testing.assert_allclose(one, other, atol=1e-3 * scale, rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["eva02", "mixed", "pairs", "parallel", "relative_bias", "vit5"]
)
def test_heads_and_hidden_units_are_divided_over_devices(name):
    params = drawn(tiny(**OPTIONS[name]))
    mesh = AbstractMesh((1, 1, 2), AXES)
    found = {
        path_name(path).removeprefix("encoder/block_01/"): tuple(
            param_spec(path_name(path), leaf.shape, mesh)
        )
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    wanted = {"attention/query/kernel": (None, "tensor", None)}
    if name == "pairs":
        wanted["second_attention/out/kernel"] = ("tensor", None, None)
        wanted["second_mlp/out/kernel"] = ("tensor", None)
    if name == "mixed":
        wanted["attention/rotary/frequencies"] = (None, "tensor", None)
    if name == "relative_bias":
        offsets = "attention/relative_positions/offsets"
        wanted[offsets] = (None, None, "tensor")
    if name == "eva02":
        wanted["mlp/gate/kernel"] = (None, "tensor")
        wanted["mlp/gate/bias"] = wanted["mlp/norm/scale"] = ("tensor",)
        wanted["attention/norm/scale"] = (None,)
    if name == "vit5":
        wanted["attention/query_norm/scale"] = (None,)
    assert wanted.items() <= found.items()


@pytest.mark.parametrize("name", ["eva02", "dinov3", "vit5"])
def test_another_image_size(name):
    model = tiny(**OPTIONS[name])
    params, images = drawn(model), pixels(2, 16, 12)
    logits, _ = model.apply({"params": params}, images, image_size=(16, 12))
    assert np.isfinite(logits).all()
    larger = features(
        model.clone(image_size=(16, 12), positions="rope2d"), params, images
    )
    assert larger.layers["encoded"].patches.shape == (2, 4, 3, 16)


def test_both_heads_of_a_distilled_model_are_there():
    model = tiny(**OPTIONS["distillation"])
    params, images = drawn(model), pixels(2, 8, 12)
    logits, out = run(model, params, images)
    both = out["class_logits"], out["distillation_logits"]
    np.testing.assert_allclose(logits, sum(both) / 2, rtol=1e-5)
    head = params["distillation_head"]
    wanted = out["encoded"][:, 2] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(both[1], wanted, rtol=1e-4, atol=1e-5)
    assert params["positions"]["embedding"].shape == (1, 8, 16)
    representation, bare = run(model.clone(num_classes=0), params, images)
    wanted = (bare["encoded"][:, 1] + bare["encoded"][:, 2]) / 2
    np.testing.assert_allclose(representation, wanted, rtol=1e-6)


def test_a_gate_is_a_third_matrix_in_the_arithmetic():
    plain, gated = (model_macs(tiny(mlp=kind)) for kind in ("plain", "swiglu"))
    assert gated - plain == 2 * 7 * 16 * 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batchnorm"}, "norm is 'batchnorm': wanted one of layernorm"),
        ({"qk_norm": "l2"}, "qk_norm is 'l2'"),
        ({"qkv_bias": "vq"}, "qkv_bias is 'vq': wanted one of qkv, qk"),
        ({"mlp": "geglu"}, "mlp is 'geglu': wanted one of plain, swiglu"),
        ({"block": "deep"}, "block is 'deep': wanted one of pre_norm"),
        ({"map_reads": "registers"}, "map_reads is 'registers'"),
        ({"block": "post_norm", "layer_scale_init": 0.1}, "set layer_scale_init to 0"),
        ({"distillation_token": True, "pooling": "gap"}, "use pooling='token'"),
        ({"distillation_token": True, "pre_logits": True}, "pre_logits=False"),
        (VIT5 | {"num_registers": 3}, "num_registers must be 1, 4, 9 and so on, not 3"),
        (VIT5 | {"num_registers": 0}, "num_registers must be 1, 4, 9 and so on, not 0"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(tiny(**options))
