"""BiT ResNets and the axial ResNet: sizes, symmetries, the two forms, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import create_model, init_params
from vit_jax.models.axial_resnet import AxialAttention, LineAttention
from vit_jax.models.conv_forms import standardize
from vit_jax.models.resnet import EPSILONS, ResNetTrunk

# Section 1.3 of the paper's facts, 1000 classes. The counts of v2 are in test_flops.py.
V1_COUNTS = {
    "R50x1": 25557032,
    "R50x2": 98004072,
    "R101x1": 44549160,
    "R152x1": 60192808,
    "R152x2": 236350568,
    "R200x3": 568656040,
    "R152x4": 936563944,
}


@pytest.mark.parametrize("name", V1_COUNTS)
def test_parameter_counts_of_v1(name):
    model = create_model(f"BiT-{name}", num_classes=1000, version="v1")
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == V1_COUNTS[name]


@functools.cache
def tiny(name="BiT-R50x1", **options):
    """A ResNet of two stages and 32 features at the root, and its parameters."""
    options = {"image_size": 32, "blocks": (2, 1), "width": 32} | options
    model = create_model(name, num_classes=5, **options)
    return model, randomized(init_params(model, jax.random.key(0)))


def randomized(params):
    """Moves all parameters from where they start, zeros and ones above all."""
    generator = np.random.default_rng(7)

    def moved(leaf):
        leaf = np.asarray(leaf)
        noise = generator.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(leaf + 0.3 * noise * (leaf.std() or 1))

    return jax.tree.map(moved, params)


def drawn(*shape):
    generator = np.random.default_rng(1)
    return jnp.asarray(generator.uniform(-1, 1, shape), jnp.float32)


def initial(module, x):
    return jax.jit(module.init)(jax.random.key(0), x)["params"]


def apply(model, params, images, **kwargs):
    run = functools.partial(model.apply, train=False, **kwargs)
    return jax.jit(run)({"params": params}, images)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_trunk_commutes_with_shifts_by_its_stride(version):
    """A patch of noise on an empty image, so that no border is near it."""
    trunk = ResNetTrunk((1, 1), 32, version, **EPSILONS[version])
    assert trunk.stride == 8
    noise = drawn(1, 16, 16, 3)
    image = jnp.pad(noise, ((0, 0), (72, 72), (72, 72), (0, 0)))
    params = randomized(initial(trunk, image))
    run = jax.jit(lambda params, x: trunk.apply({"params": params}, x))
    still = np.asarray(run(params, image))
    assert still.shape == (1, 20, 20, trunk.features)
    inner = (slice(None), slice(4, -4), slice(4, -4))

    def error(rows, columns, places):
        moved = run(params, jnp.roll(image, (rows, columns), (1, 2)))
        wanted = np.roll(still, places, (1, 2))
        return float(np.abs(moved - wanted)[inner].max())

    size = float(still[inner].std())
    assert error(8, -16, (1, -2)) < 1e-4 * size
    assert error(4, 0, (1, 0)) > 0.1 * size  # half a stride is not a shift of places
    assert error(4, 0, (0, 0)) > 0.1 * size


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_standardised_kernels(version):
    std, variance = (EPSILONS[version][f"{n}_epsilon"] for n in ("std", "variance"))
    kernel = 0.1 * drawn(3, 3, 16, 8) + 0.7
    found = standardize(kernel, std, variance)
    assert found.dtype == jnp.float32
    wanted = np.asarray(kernel, np.float64)
    wanted = (wanted - wanted.mean((0, 1, 2))) / wanted.std((0, 1, 2))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    # A factor and an offset a feature are lost, but for the epsilons.
    factors, offsets = jnp.linspace(0.5, 5, 8), jnp.linspace(-1, 1, 8)
    np.testing.assert_allclose(
        standardize(factors * kernel + offsets, std, variance), found, atol=1e-3
    )
    assert (
        np.abs(
            standardize(kernel + np.eye(3)[0][:, None, None, None], std, variance)
            - found
        ).max()
        > 0.1
    )


def test_epsilons_of_the_standardisation_are_where_the_released_code_has_them():
    kernel = jnp.asarray([-1e-5, 1e-5]).reshape(1, 1, 2, 1)
    # v1: 1e-5 / (1e-5 + 1e-5); v2: 1e-5 / sqrt(1e-10 + 1e-10)
    for version, wanted in (("v1", 0.5), ("v2", 0.5**0.5)):
        rest = {k: v for k, v in EPSILONS[version].items() if k != "norm_epsilon"}
        np.testing.assert_allclose(standardize(kernel, **rest)[0, 0, 1], wanted, 1e-4)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_kernels_are_standardised_everywhere(version):
    model, params = tiny(version=version)
    images = drawn(2, 32, 32, 3)

    def stretched(path, leaf):
        name = path[-1].key, path[0].key
        return 2 * leaf + 0.5 if name == ("kernel", "resnet") else leaf

    changed = jax.tree_util.tree_map_with_path(stretched, params)
    wanted = apply(model, params, images)[0]
    np.testing.assert_allclose(apply(model, changed, images)[0], wanted, atol=2e-3)
    assert np.std(wanted) > 0.1


@pytest.mark.parametrize(
    "options", [{"version": "v1"}, {"version": "v2"}, {"axial_heads": 4}]
)
def test_an_image_does_not_depend_on_the_others_of_its_batch(options):
    model, params = tiny(**options)
    images = drawn(3, 32, 32, 3)
    others = jnp.concatenate([images[:1], images[1:, ::-1]])
    wanted, found = (apply(model, params, x)[0] for x in (images, others))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    assert np.abs(found[1:] - wanted[1:]).max() > 1e-3


def test_activations():
    model, params = tiny(image_size=(32, 48))
    logits, out = apply(model, params, drawn(2, 32, 48, 3))
    assert jax.tree.map(jnp.shape, out) == {
        "resnet": {
            "root": (2, 8, 12, 32),
            "stage_1": {"unit_01": (2, 8, 12, 128), "unit_02": (2, 8, 12, 128)},
            "stage_2": {"unit_01": (2, 4, 6, 256)},
        },
        "encoded": (2, 4, 6, 256),
        "pre_logits": (2, 256),
    }
    np.testing.assert_allclose(
        out["encoded"].mean(axis=(1, 2)), out["pre_logits"], atol=1e-5
    )
    head = params["head"]
    np.testing.assert_allclose(
        logits, out["pre_logits"] @ head["kernel"] + head["bias"], atol=1e-5
    )
    headless = create_model(
        "BiT-R50x1", num_classes=0, image_size=(32, 48), blocks=(2, 1), width=32
    )
    params = {name: params[name] for name in ("resnet", "norm")}
    representation = apply(headless, params, drawn(2, 32, 48, 3))[0]
    np.testing.assert_array_equal(representation, out["pre_logits"])


def test_the_root_block_alone():
    trunk = ResNetTrunk((), 32)
    assert (trunk.stride, trunk.features) == (4, 32)
    images = drawn(1, 32, 32, 3)
    params = initial(trunk, images)
    assert set(params) == {"root", "root_norm"}
    assert trunk.apply({"params": params}, images).shape == (1, 8, 8, 32)


def test_padding_of_the_two_forms():
    """SAME of an even side puts the odd zero last; v2 has the same on all sides."""
    images = drawn(1, 4, 4, 3).repeat(8, 1).repeat(8, 2)
    kernel = drawn(7, 7, 3, 32)
    for version, padding in (("v1", (2, 3)), ("v2", (3, 3))):
        numerics = EPSILONS[version]
        trunk = ResNetTrunk((), 32, version, **numerics)
        norm = {"scale": jnp.ones(32), "bias": jnp.zeros(32)}
        params = {"root": {"kernel": kernel}, "root_norm": norm}
        if version == "v2":
            del params["root_norm"]
        found = trunk.apply({"params": params}, images)
        x = jax.lax.conv_general_dilated(
            images,
            standardize(kernel, numerics["std_epsilon"], numerics["variance_epsilon"]),
            (2, 2),
            (padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if version == "v1":
            groups = x.reshape(1, 256, 32, 1)
            x = jax.nn.relu((groups - groups.mean(1)) / groups.std(1)).reshape(x.shape)
        # The pool, place by place; v2 sees a ring of zeros, v1 none in front.
        before = 1 if version == "v2" else 0
        x = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
        windows = [
            x[:, i : i + 15 : 2, j : j + 15 : 2] for i in range(3) for j in range(3)
        ]
        np.testing.assert_allclose(found, np.max(windows, axis=0), atol=1e-4)
        if version == "v2":
            assert (found < 0).any()  # not rectified, so that the zeros matter
            assert (found[:, 0] >= 0).all()


def test_a_new_v1_unit_is_its_shortcut():
    """The last norm's scale starts at zero; in v2 there is nothing like it."""
    images = drawn(1, 32, 32, 3)
    for version, same in (("v1", True), ("v2", False)):
        long, short = (ResNetTrunk((n,), 32, version) for n in (3, 1))
        params = initial(long, images)
        stage = {"unit_01": params["stage_1"]["unit_01"]}
        outputs = (
            jax.jit(long.apply)({"params": params}, images),
            jax.jit(short.apply)({"params": params | {"stage_1": stage}}, images),
        )
        assert np.allclose(*outputs, atol=1e-6) == same
        assert (outputs[0].min() >= 0) == same  # only v1 rectifies the sum


def test_a_v2_shortcut_reads_the_normed_input():
    model, params = tiny(blocks=(1,))
    images = drawn(1, 32, 32, 3)
    unit = params["resnet"]["stage_1"]["unit_01"]
    # Without the branch, what is left is the shortcut of the normed root.
    unit = unit | {"conv3": jax.tree.map(jnp.zeros_like, unit["conv3"])}
    resnet = params["resnet"] | {"stage_1": {"unit_01": unit}}
    _, out = apply(model, params | {"resnet": resnet}, images)
    trunk = out["resnet"]
    groups = trunk["root"].reshape(1, -1, 32, 1)
    variance = groups.var(1)
    x = ((groups - groups.mean(1)) / jnp.sqrt(variance + 1e-5))[..., 0]
    x = jax.nn.relu(x * unit["norm1"]["scale"] + unit["norm1"]["bias"])
    wanted = x @ standardize(jnp.asarray(unit["shortcut"]["kernel"]), 0.0, 1e-10)[0, 0]
    np.testing.assert_allclose(
        trunk["stage_1"]["unit_01"], wanted.reshape(1, 8, 8, 128), atol=1e-4
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_parameter_names_and_initial_values(version):
    model = create_model(
        "BiT-R50x1",
        num_classes=5,
        image_size=32,
        blocks=(2, 1),
        width=32,
        version=version,
        head_bias_init=-6.9,
    )
    params = init_params(model, jax.random.key(0))
    assert (
        ("norm" in params) == ("root_norm" not in params["resnet"]) == (version == "v2")
    )
    first, second = (params["resnet"]["stage_1"][f"unit_0{i}"] for i in (1, 2))
    own = {f"{kind}{i}" for kind in ("conv", "norm") for i in (1, 2, 3)}
    extra = {"shortcut", "shortcut_norm"} if version == "v1" else {"shortcut"}
    assert (set(first), set(second)) == (own | extra, own)
    # Units differ at initialisation.
    kernels = (unit["conv2"]["kernel"] for unit in (first, second))
    assert not np.allclose(*kernels)
    assert (second["norm3"]["scale"] == (version == "v2")).all()
    assert not params["head"]["kernel"].any()
    np.testing.assert_allclose(params["head"]["bias"], -6.9)


@pytest.mark.parametrize("options", [{"version": "v1"}, {}, {"axial_heads": 4}])
def test_bfloat16_keeps_parameters_and_logits_in_float32(options):
    exact_model, params = tiny(**options)
    model, _ = tiny(dtype="bfloat16", **options)
    fresh = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    images = drawn(2, 32, 32, 3)
    logits, out = apply(model, params, images)
    assert {x.dtype for x in jax.tree.leaves(out["resnet"])} == {jnp.dtype("bfloat16")}
    assert out["pre_logits"].dtype == logits.dtype == jnp.float32
    exact = apply(exact_model, params, images)[0]
    assert 0 < np.abs(logits - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("options", [{"version": "v1"}, {}, {"axial_heads": 4}])
def test_every_parameter_has_a_gradient(options):
    model, params = tiny(image_size=16, blocks=(1,), **options)

    def loss(params, images):
        logits = model.apply({"params": params}, images, train=True)[0]
        return jnp.square(logits - 1).sum()

    gradients = jax.jit(jax.grad(loss))(params, drawn(2, 16, 16, 3))
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-6, path


def test_pixels_and_image_size():
    model, params = tiny()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    other, _ = tiny(pixel_mean=mean, pixel_std=std)
    images = drawn(2, 48, 40, 3)
    seen = ((images + 1) / 2 - jnp.asarray(mean)) / jnp.asarray(std)
    np.testing.assert_allclose(
        apply(other, params, images, image_size=(48, 40))[0],
        apply(model, params, seen, image_size=(48, 40))[0],
        atol=1e-5,
    )


def test_row_attention_does_not_look_across_rows():
    layer = LineAttention(4)
    x = drawn(1, 5, 6, 32)
    params = randomized(initial(layer, x))

    def row(x):
        return jnp.square(layer.apply({"params": params}, x)[:, 2]).sum()

    gradient = np.abs(jax.jit(jax.grad(row))(x)).sum(axis=(0, 3))
    assert (gradient[2] > 1e-3).all()
    assert not np.delete(gradient, 2, axis=0).any()


def test_row_and_column_attention_see_the_whole_map():
    layer = AxialAttention(4, stride=1)
    x = drawn(1, 5, 6, 32)
    params = randomized(initial(layer, x))

    def place(x):
        return jnp.square(layer.apply({"params": params}, x)[:, 2, 3]).sum()

    assert (np.abs(jax.jit(jax.grad(place))(x)).sum(axis=(0, 3)) > 0).all()
    lengths = {k: params[k]["relative_positions"].shape for k in ("row", "column")}
    assert lengths == {"row": (11, 16), "column": (9, 16)}
    halved = AxialAttention(4, stride=2).apply({"params": params}, x)
    whole = layer.apply({"params": params}, x)
    np.testing.assert_allclose(halved[0, 1, 2], whole[0, 2:4, 4:6].mean((0, 1)), 1e-5)
    # The last row has no partner, and the mean is of those that are there.
    np.testing.assert_allclose(halved[0, 2, 0], whole[0, 4, :2].mean(0), atol=1e-5)


def test_line_attention_by_hand():
    """Three terms of the logits and two of the output, all offsets query minus key."""
    heads, width, length = 2, 16, 4
    layer = LineAttention(heads)
    x = drawn(1, 1, length, heads * width)
    drawn_params = randomized(initial(layer, x))
    params = jax.device_get(drawn_params)
    projected = np.asarray(x[0, 0]) @ params["qkv"]["kernel"]
    groups = projected.reshape(length, 32, 2)
    deviation = np.sqrt(groups.var((0, 2)) + 1e-6)
    groups = (groups - groups.mean((0, 2))[:, None]) / deviation[:, None]
    norm = params["qkv_norm"]
    qkv = groups.reshape(length, -1) * norm["scale"] + norm["bias"]
    table = params["relative_positions"]
    wanted = np.zeros((length, heads, width))
    for head in range(heads):
        own = np.split(qkv[:, head * 32 : head * 32 + 32], [8, 16], axis=1)
        for i in range(length):
            offsets = np.stack([table[i - j + length - 1] for j in range(length)])
            offset = np.split(offsets, [8, 16], axis=1)
            logits = own[1] @ own[0][i] + offset[0] @ own[0][i]
            logits = (logits + (own[1] * offset[1]).sum(1)) / 8**0.5
            weights = np.exp(logits) / np.exp(logits).sum()
            wanted[i, head] = weights @ (own[2] + offset[2])
    found = layer.apply({"params": drawn_params}, x)[0, 0]
    np.testing.assert_allclose(found, wanted.reshape(length, -1), atol=1e-4)


def test_the_axial_resnet_has_attention_for_its_3x3_convolutions():
    model, params = tiny("AxialResNet-50")
    assert model.version == "v1"
    leaves = jax.tree.leaves_with_path(params["resnet"])
    names = {key.key for path, _ in leaves for key in path}
    assert {"conv1", "conv3", "row", "column"} <= names
    assert "conv2" not in names
    logits, out = apply(model, params, drawn(2, 32, 32, 3))
    assert out["resnet"]["stage_2"]["unit_01"].shape == (2, 4, 4, 256)
    assert np.std(logits) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 48}, "multiple of 32, the groups of its norms, but it is 48"),
        ({"version": "v3"}, "unknown version 'v3': wanted one of v1, v2"),
        ({"axial_heads": 5}, "but 32 is not a multiple of 10"),
        ({"image_size": (32, 36)}, "must have shape"),
    ],
)
def test_errors_say_what_was_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        model, _ = tiny(**options)
        apply(model, {}, jnp.zeros((1, 32, 32, 3)))


def test_an_axial_resnet_takes_one_image_size():
    model, params = tiny(axial_heads=4)
    with pytest.raises(ValueError, match=r"no other image size, .*\(40, 32\)"):
        apply(model, params, drawn(1, 40, 32, 3), image_size=(40, 32))
