"""Google's .npz layouts: names, shapes and logits against references of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import published_layouts as published
import pytest
import reference_google as reference

from vit_jax.interop import big_vision, google, load_checkpoint, save_checkpoint
from vit_jax.interop.layout import checked_rules, parameter_shapes
from vit_jax.models import create_model

TINY = dict(depth=2, width=24, mlp_dim=40, num_heads=3, classes=5)
TINY_VIT = TINY | dict(patch=4, num_patches=9)
TINY_MIXER = dict(depth=2, width=24, token_mlp=10, channel_mlp=40, classes=5)
VIT = functools.partial(reference.vision_transformer, depth=2)
BIG_VISION_VIT = functools.partial(reference.big_vision_vit, depth=2, grid=3)


def images(height, width=0, seed=1):
    rng = np.random.default_rng(seed)
    shape = (2, height, width or height, 3)
    return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


def check_logits(loaded, original, tensors, x):
    """Compares with the original's function of tensors and images."""
    wanted = jax.jit(original)(tensors, x)
    apply = jax.jit(functools.partial(loaded.model.apply, train=False))
    logits, _ = apply({"params": loaded.params}, x)
    assert np.std(wanted) > 0.05, "a reference that hardly depends on its input"
    np.testing.assert_allclose(logits, wanted, atol=1e-4, rtol=0)


def write(tmp_path, tensors, name="x.npz"):
    np.savez(tmp_path / name, **tensors)
    return tmp_path / name


def check_round_trip(loaded, tensors, path, layout):
    """Writing gives the tensors back bit for bit, and reading them the model."""
    assert save_checkpoint(path, loaded.model, loaded.params, layout=layout) == {}
    with np.load(path) as archive:
        assert set(archive.files) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(archive[name], tensor, err_msg=name)
    again = load_checkpoint(path, layout=layout)
    assert again.model == loaded.model
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


@pytest.mark.parametrize("class_token", [True, False])
def test_google_vit(tmp_path, class_token):
    options = dict(class_token=class_token, pre_logits=class_token)
    shapes = published.google_vit(**TINY_VIT, **options)
    tensors = published.random_tensors(shapes)
    path = write(tmp_path, tensors)
    loaded = load_checkpoint(path)
    assert loaded.description.startswith("google layout: ViT-Ti/4 at 12x12 px, 5 cla")
    assert "; with depth=2, width=24, mlp_dim=40" in loaded.description
    assert loaded.model.pooling == ("token" if class_token else "gap")
    x = images(12)
    check_logits(loaded, VIT, tensors, x)
    check_round_trip(loaded, tensors, path, "google")


@pytest.mark.parametrize("blocks", [(2, 1), ()])
def test_google_hybrid(tmp_path, blocks):
    """Patches are cut from the stem's features; () is the root block alone."""
    stem = published.google_stem(blocks, width=32)
    features, stride = (256, 8) if blocks else (32, 4)
    vit = TINY | dict(patch=2, num_patches=4, features=features)
    tensors = published.random_tensors(stem | published.google_vit(**vit))
    path = write(tmp_path, tensors)
    loaded = load_checkpoint(path)
    assert loaded.model.patch_size == 2 * stride
    assert loaded.model.resnet_stem == blocks
    x = images(4 * stride)
    check_logits(loaded, VIT, tensors, x)
    check_round_trip(loaded, tensors, path, "google")


def test_old_hybrids_have_norms_with_four_axes(tmp_path):
    shapes = published.google_stem((1,), width=32) | published.google_vit(
        **TINY, patch=1, num_patches=4, features=128
    )
    tensors = published.random_tensors(shapes)
    old = {
        name: x.reshape(1, 1, 1, -1) if "/gn" in f"/{name}" else x
        for name, x in tensors.items()
    }
    assert old["gn_root/scale"].shape == (1, 1, 1, 32)
    new = load_checkpoint(write(tmp_path, tensors, "new.npz"))
    loaded = load_checkpoint(write(tmp_path, old, "old.npz"))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, new.params)


def test_blocks_counted_by_linen_under_old_positions(tmp_path):
    """What the present code of vision_transformer would save."""
    tensors = published.random_tensors(published.google_vit(**TINY_VIT))
    names = {"Attention_1": "Attention_0", "Norm_2": "Norm_1", "Block_3": "Block_0"}
    renamed = {}
    for name, x in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = x
    old = load_checkpoint(write(tmp_path, tensors, "old.npz"))
    new = load_checkpoint(write(tmp_path, renamed, "new.npz"))
    assert new.description == old.description
    jax.tree.map(np.testing.assert_array_equal, new.params, old.params)


def test_big_transfer(tmp_path):
    tensors = published.random_tensors(published.big_transfer((1, 2), 32, classes=5))
    path = write(tmp_path, tensors)
    loaded = load_checkpoint(path)
    assert loaded.model.version == "v2" and loaded.model.blocks == (1, 2)
    x = images(24, 32)
    loaded = loaded._replace(model=loaded.model.clone(image_size=(24, 32)))
    check_logits(loaded, reference.big_transfer, tensors, x)
    check_round_trip(load_checkpoint(path), tensors, path, "google")
    kernel = "/standardized_conv2d/kernel"
    numbered = {
        name.replace(kernel, f"/standardized_conv2d_{i}/kernel"): x
        for i, (name, x) in enumerate(tensors.items())
    }
    again = load_checkpoint(write(tmp_path, numbered))
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_mixer(tmp_path, prefix):
    shapes = published.mixer(**TINY_MIXER, patch=4, num_patches=9)
    tensors = published.random_tensors(shapes)
    stored = {prefix + name: x for name, x in tensors.items()}
    loaded = load_checkpoint(write(tmp_path, stored))
    x = images(12)
    original = functools.partial(reference.mixer, depth=2)
    check_logits(loaded, original, tensors, x)
    for layout in ("google", "big_vision"):
        check_round_trip(loaded, tensors, tmp_path / "y.npz", layout)
    with pytest.raises(ValueError, match=r"Mixer has the number .* be \(12, 12\), not"):
        load_checkpoint(tmp_path / "y.npz", image_size=16)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("pool", ["gap", "tok", "map"])
def test_big_vision_vit(tmp_path, pool, learned):
    side = 3 if learned else 7
    options = dict(pool=pool, learned=learned, pre_logits=pool != "tok")
    vit = TINY_VIT | dict(num_patches=side**2, patch=4 if learned else 32)
    tensors = published.random_tensors(published.big_vision_vit(**vit, **options))
    path = write(tmp_path, tensors)
    loaded = load_checkpoint(path)
    assert loaded.description.startswith("big_vision layout: ViT-Ti/")
    assert loaded.model.image_size == ((12, 12) if learned else (224, 224))
    x = images(loaded.model.image_size[0])
    original = functools.partial(BIG_VISION_VIT, grid=side)
    check_logits(loaded, original, tensors, x)
    check_round_trip(loaded, tensors, path, "big_vision")


def variants_of_big_vision(tensors):
    """The same ViT as other big_vision files have it."""
    stacked = {}
    for name, x in tensors.items():
        first, _, part = name.partition("encoderblock_0/")
        if part:
            second = tensors[name.replace("block_0", "block_1")]
            stacked[f"{first}encoderblock/{part}"] = np.stack([x, second])
        elif "encoderblock_1" not in name:
            stacked[name] = x
    yield stacked
    state = {"opt/mu/embedding/bias": tensors["embedding/bias"], "opt/count": 7}
    yield {f"params/{name}": x for name, x in stacked.items()} | state
    state = {"opt/state/step": 7}
    yield {f"opt/target/{name}": x for name, x in tensors.items()} | state
    # Before 2022 positions were in the encoder, and attention pooling at the root.
    yield {
        name.replace("pos_emb", "Transformer/pos_emb").replace("MAPHead_0/", ""): x
        for name, x in tensors.items()
    }


def test_every_spelling_of_big_vision(tmp_path, caplog):
    shapes = published.big_vision_vit(**TINY_VIT, pool="map")
    tensors = published.random_tensors(shapes)
    plain = load_checkpoint(write(tmp_path, tensors))
    caplog.set_level("INFO", "vit_jax")
    for i, variant in enumerate(variants_of_big_vision(tensors)):
        loaded = load_checkpoint(write(tmp_path, variant, f"{i}.npz"))
        assert loaded.description == plain.description, i
        jax.tree.map(np.testing.assert_array_equal, loaded.params, plain.params)
    ignored = "tensors beside the parameters (optimizer state) are ignored"
    assert caplog.messages == [f"2 {ignored}", f"1 {ignored}"]


def test_class_token_rows_of_old_big_vision_files(tmp_path):
    """Positions with a row for the class token, which is added to it."""
    shapes = published.big_vision_vit(**TINY_VIT, pool="tok")
    tensors = published.random_tensors(shapes)
    row = np.full((1, 1, 24), 0.7, np.float32)
    positions = np.concatenate([row, tensors["pos_embedding"]], axis=1)
    old = tensors | {"pos_embedding": positions}
    loaded = load_checkpoint(write(tmp_path, old))
    x = images(12)
    merged = tensors | {"cls": tensors["cls"] + row}
    check_logits(loaded, BIG_VISION_VIT, merged, x)
    check_round_trip(loaded, old, tmp_path / "y.npz", "big_vision")


def test_two_towers(tmp_path):
    tower = published.big_vision_vit(**TINY_VIT | dict(classes=0), pool="map")
    tensors = published.random_tensors(tower)
    both = {f"params/img/{name}": x for name, x in tensors.items()}
    both |= {"params/txt/head/bias": np.ones(3), "params/t": np.ones(1)}
    path = write(tmp_path, both)
    loaded = load_checkpoint(f"{path}:img")
    x = images(12)
    check_logits(loaded, BIG_VISION_VIT, tensors, x)
    with pytest.raises(ValueError, match="image and a text tower: .*npz:img"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_resnets_of_big_vision(tmp_path, version):
    head = published.dense("head", 256, 5)
    if version == "v1":
        shapes = published.google_stem((1, 1), 32) | head
    else:
        shapes = published.bit_paper((1, 1), 32, 5)
    tensors = published.random_tensors(shapes)
    path = write(tmp_path, tensors)
    loaded = load_checkpoint(path)
    assert loaded.model.version == version
    check_round_trip(loaded, tensors, path, "big_vision")
    x = images(32)
    loaded = loaded._replace(model=loaded.model.clone(image_size=(32, 32)))
    if version == "v1":
        check_logits(loaded, reference.bit_v1, tensors, x)
        return
    # The same network in the names of big_transfer, for the reference of that.
    other = tmp_path / "other.npz"
    save_checkpoint(other, loaded.model, loaded.params, layout="google")
    with np.load(other) as archive:
        check_logits(loaded, reference.big_transfer, dict(archive), x)


FULL = {
    "ViT-B/16": published.google_vit(
        **dict(depth=12, width=768, mlp_dim=3072, num_heads=12),
        **dict(patch=16, num_patches=196, classes=1000),
    ),
    "ViT-L/16": published.google_vit(
        **dict(depth=24, width=1024, mlp_dim=4096, num_heads=16),
        **dict(patch=16, num_patches=196, classes=1000),
    ),
    "R50+ViT-B/16": published.google_stem((3, 4, 9), 64)
    | published.google_vit(
        **dict(depth=12, width=768, mlp_dim=3072, num_heads=12),
        **dict(patch=1, num_patches=196, classes=1000, features=1024),
    ),
    "R+ViT-Ti/16": published.google_stem((), 64)
    | published.google_vit(
        **dict(depth=12, width=192, mlp_dim=768, num_heads=3),
        **dict(patch=8, num_patches=49, classes=1000, features=64),
    ),
    "BiT-R50x1": published.big_transfer((3, 4, 6, 3), 64, 1000),
    "Mixer-B/16": published.mixer(
        **dict(depth=12, width=768, token_mlp=384, channel_mlp=3072),
        **dict(patch=16, num_patches=196, classes=1000),
    ),
}
FULL_BIG_VISION = {
    "ViT-B/16": published.big_vision_vit(
        **dict(depth=12, width=768, mlp_dim=3072, num_heads=12),
        **dict(patch=16, num_patches=196, classes=1000, pool="map"),
    ),
    "BiT-R50x1": published.bit_paper((3, 4, 6, 3), 64, 1000),
    "Mixer-B/16": FULL["Mixer-B/16"],
}


@pytest.mark.parametrize(
    ("layout", "name"),
    [(google, name) for name in FULL]
    + [(big_vision, name) for name in FULL_BIG_VISION],
    ids=lambda value: getattr(value, "NAME", value),
)
def test_full_size_files(layout, name):
    """Found from names and shapes alone, and every tensor has its rule."""
    shapes = (FULL if layout is google else FULL_BIG_VISION)[name]
    # One zero in memory, whatever the shape.
    tensors = {n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()}
    # A Mixer has the same names in both, and google reads it.
    first = google if name.startswith("Mixer") else layout
    assert [x for x in (google, big_vision) if x.recognises(tensors, {})] == [first]
    model = create_model(**layout.describe(layout.canonical(tensors, {}), {}))
    options = {"pooling": "map"} if layout is big_vision and "ViT" in name else {}
    assert model == create_model(name, num_classes=1000, **options)
    ours = parameter_shapes(model)
    rules = checked_rules(layout, model, ours)
    assert {rule.theirs for rule in rules} == set(tensors)
    for rule in rules:
        parts = rule.read(tensors[rule.theirs])
        assert [part.shape for part in parts] == [ours[path] for path in rule.ours]


@pytest.mark.parametrize(
    ("layout", "name", "options", "message"),
    [
        ("google", "ViT-mu/8", {"pooling": "map"}, "pooling='map'.*'token' or 'gap'"),
        ("google", "ViT-mu/8", {"positions": "sincos2d"}, "positions='sincos2d'"),
        ("google", "ViT-mu/8", {"class_token_position": False}, "position=False"),
        ("google", "ViT-mu/8", {"num_registers": 2}, "num_registers=2"),
        ("google", "ViT-mu/8", {"layer_scale_init": 0.1}, "layer_scale_init=0.1"),
        ("google", "Axial-ViT-mu/8", {}, "attention='axial'"),
        ("google", "BiT-R26x1", {"version": "v1"}, "version 'v1'.* big_vision layout"),
        ("google", "AxialResNet-26", {}, "version 'v1'"),
        ("google", "BiT-R26x1", {"conv_padding": "circular"}, "padding='circular'"),
        ("big_vision", "BiT-R26x1", {"antialias": True}, "antialias=True"),
        ("big_vision", "AxialResNet-26", {}, "no place for resnet/stage_1"),
        ("big_vision", "ViT-mu/8", {"norm_after_pooling": True}, "after_pooling=True"),
        ("big_vision", "ViT-mu/8", {"positions": "none"}, "positions='none'"),
        ("big_vision", "R26+ViT-mu/32", {}, "resnet_stem="),
        (
            "big_vision",
            "ViT-mu/8",
            {"pooling": "gap", "class_token": "always"},
            "pooling='gap'.*its code has 'token'",
        ),
    ],
)
def test_what_a_layout_cannot_hold(tmp_path, layout, name, options, message):
    model = create_model(name, num_classes=3, image_size=32, **options)
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "x.npz", model, {}, layout=layout)
    assert list(tmp_path.iterdir()) == []
