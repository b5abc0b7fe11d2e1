"""Loading for another task, saving, and the errors of both."""

import json

import jax
import numpy as np
import published_layouts as published
import pytest

from vit_jax import interop
from vit_jax.interop import Facts, adapt, google, load_checkpoint, save_checkpoint, timm
from vit_jax.models import create_model, init_params, resample
from vit_jax.parallel.sharding import make_mesh

TINY = dict(depth=1, width=24, mlp_dim=40, num_heads=3, patch=4, classes=5)


@pytest.fixture
def tensors():
    """A tiny original ViT of 3 x 3 patches, with the tanh layer before its head."""
    shapes = published.google_vit(**TINY, num_patches=9, pre_logits=True)
    return published.random_tensors(shapes)


@pytest.fixture
def path(tmp_path, tensors):
    np.savez(tmp_path / "vit.npz", **tensors)
    return tmp_path / "vit.npz"


@pytest.fixture(autouse=True)
def log_all(caplog):
    caplog.set_level("INFO", "vit_jax")


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def without(params, *names):
    return {name: tree for name, tree in params.items() if name not in names}


def test_nothing_is_said_or_changed_unless_asked_for(path, capsys, caplog):
    loaded = load_checkpoint(path)
    same = load_checkpoint(path, num_classes=5, image_size=12, patch_size=4)
    assert capsys.readouterr() == ("", "") and not caplog.messages
    assert same.model == loaded.model
    equal(same.params, loaded.params)
    # On the host, unless devices are named.
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded.params))
    mesh = make_mesh(data=1, fsdp=1, tensor=1)
    placed = load_checkpoint(path, mesh=mesh).params
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(placed))
    equal(placed, loaded.params)
    assert loaded.description == (
        "google layout: ViT-mu/4 at 12x12 px, 5 classes, 6,693 parameters, activation="
        "gelu_tanh, norm_epsilon=1e-06; with width=24, mlp_dim=40, num_heads=3, "
        "pre_logits=True"
    )


def test_a_new_head_is_zero_and_the_tanh_layer_goes(path, caplog):
    loaded, new = load_checkpoint(path), load_checkpoint(path, num_classes=3)
    assert caplog.messages == [
        "the head of 5 classes and the tanh layer before it replaced by a zero head of "
        "3 classes"
    ]
    assert (new.model.num_classes, new.model.pre_logits) == (3, False)
    equal(new.params["head"], {"kernel": np.zeros((24, 3)), "bias": np.zeros(3)})
    kept = without(new.params, "head")
    equal(kept, without(loaded.params, "head", "pre_logits"))
    biased = load_checkpoint(path, num_classes=3, pre_logits=True, head_bias_init=-7.0)
    equal(biased.params["head"]["bias"], np.full(3, -7.0))
    equal(biased.params["pre_logits"], loaded.params["pre_logits"])


def test_no_head_gives_the_representation(path, tmp_path, tensors, caplog):
    headless = load_checkpoint(path, num_classes=0)
    assert caplog.messages == ["the head of 5 classes is left out"]
    assert headless.model.pre_logits and "head" not in headless.params
    np.savez(tmp_path / "none.npz", **without(tensors, "head/kernel", "head/bias"))
    found = load_checkpoint(tmp_path / "none.npz")
    assert found.model == headless.model and "no head" in found.description
    equal(found.params, headless.params)
    load_checkpoint(tmp_path / "none.npz", num_classes=2, pre_logits=True)
    assert caplog.messages[1:] == ["a zero head of 2 classes is put on"]


def test_a_distilled_model_gets_two_heads(tmp_path, caplog):
    options = dict(width=24, depth=1, num_heads=3, distillation_token=True)
    model = create_model("ViT-mu/4", num_classes=5, image_size=12, **options)
    params = init_params(model, jax.random.key(0))
    params["distillation_head"]["kernel"] += 1
    save_checkpoint(tmp_path / "deit", model, params, layout="timm")
    caplog.clear()
    new = load_checkpoint(tmp_path / "deit", num_classes=3)
    bare = load_checkpoint(tmp_path / "deit", num_classes=0)
    # timm puts new heads in their places, too.
    config = json.loads((tmp_path / "deit" / "config.json").read_text())
    assert config["pretrained_cfg"]["classifier"] == ["head", "head_dist"]
    assert caplog.messages == [
        "both heads of 5 classes replaced by two zero heads of 3 classes",
        "both heads of 5 classes are left out",
    ]
    zeros = {"kernel": np.zeros((24, 3)), "bias": np.zeros(3)}
    heads = ("head", "distillation_head")
    assert new.model == model.clone(num_classes=3, pixel_mean=new.model.pixel_mean)
    for name in heads:
        equal(new.params[name], zeros)
    equal(without(new.params, *heads), without(params, *heads))
    equal(bare.params, without(params, *heads))
    save_checkpoint(tmp_path / "bare", bare.model, bare.params, layout="timm")
    load_checkpoint(tmp_path / "bare", num_classes=2)
    assert caplog.messages[2:] == ["two zero heads of 2 classes are put on"]


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_another_image_size_resamples_positions_alone(path, caplog, method):
    loaded = load_checkpoint(path)
    wide = load_checkpoint(path, image_size=(16, 24), resample=method)
    assert caplog.messages == [f"positions resampled from 3x3 to 4x6 ({method})"]
    assert wide.model == loaded.model.clone(image_size=(16, 24))
    table = loaded.params["positions"]["embedding"]
    grid = resample.resample_grid(table[0, 1:].reshape(3, 3, 24), (4, 6), method)
    found = wide.params["positions"]["embedding"]
    assert isinstance(found, np.ndarray)  # on the host, as the others
    equal(found[0, 0], table[0, 0])
    equal(found[0, 1:].reshape(4, 6, 24), grid)
    equal(without(wide.params, "positions"), without(loaded.params, "positions"))
    # The description is of the file, and not of the changes.
    assert wide.description == loaded.description


@pytest.mark.parametrize(
    "layout, name, architecture, wanted",
    [
        ("google", "vit.npz", "", "bilinear"),
        ("big_vision", "vit.npz", "", "bilinear"),
        ("big_vision", "flexivit_s_i1k.npz", "", "linear"),
        ("timm", "folder", "vit_tiny_patch16_224", "bicubic"),
        ("timm", "folder", "flexivit_small", "linear_plain"),
        ("huggingface", "folder", "", "bicubic_plain"),
    ],
)
def test_positions_are_resampled_as_the_code_of_the_project_does(
    path, tmp_path, caplog, layout, name, architecture, wanted
):
    loaded = load_checkpoint(path, num_classes=3)
    save_checkpoint(tmp_path / name, loaded.model, loaded.params, layout=layout)
    if architecture:
        config = tmp_path / name / "config.json"
        content = json.loads(config.read_text()) | {"architecture": architecture}
        config.write_text(json.dumps(content))
    caplog.clear()
    load_checkpoint(tmp_path / name, image_size=16)
    assert caplog.messages[-1] == f"positions resampled from 3x3 to 4x4 ({wanted})"


def test_a_mixer_keeps_its_number_of_patches():
    options = dict(depth=1, width=16, token_mlp_dim=8, channel_mlp_dim=8)
    model = create_model("Mixer-S/4", num_classes=2, image_size=8, **options)
    params = init_params(model, jax.random.key(0))
    with pytest.raises(ValueError, match="patch_size=4 its image size must be .8, 8."):
        adapt.resize(model, params, (16, 16), None, "bilinear")


@pytest.mark.parametrize(
    "options",
    [
        {"dropout_rate": 0.1},
        {"attention_dropout_rate": 0.1},
        {"stochastic_depth_rate": 0.1},
        {"head_bias_init": -1.0},
        {"initialization": "trunc_normal"},
        {"attention_implementation": "xla"},
        {"scan": True},
        {"remat": "full"},
        {"dtype": "bfloat16"},
        {"patch_outputs": 3},
        {"class_token": "always"},
        {"stem_norm_epsilon": 1e-3},
    ],
)
def test_outputs_do_not_depend_on_it(options):
    model = create_model("ViT-mu/4", num_classes=2, image_size=8)
    other = model.clone(**options)
    assert other != model and adapt.attributes(other) == adapt.attributes(model)


def test_what_outputs_depend_on():
    model = create_model("ViT-mu/4", num_classes=2, image_size=8)
    gap, scaled = model.clone(pooling="gap"), model.clone(layer_scale_init=0.1)
    same = gap.clone(class_token_position=False), scaled.clone(layer_scale_init=0.2)
    others = model.clone(class_token_position=False), model
    for one, equal_one, other in zip((gap, scaled), same, others, strict=True):
        assert adapt.attributes(one) == adapt.attributes(equal_one)
        assert adapt.attributes(one) != adapt.attributes(other)
    unplaced = adapt.attributes(model.clone(class_token_position=False))
    assert unplaced != adapt.attributes(model)


def test_the_usual_resampling_is_that_of_the_original_code(path, tmp_path, caplog):
    caplog.set_level("INFO", "vit_jax")
    load_checkpoint(path, image_size=16)
    assert caplog.messages == ["positions resampled from 3x3 to 4x4 (bilinear)"]
    model = create_model("ViT-mu/4", num_classes=3, image_size=12)
    params = init_params(model, jax.random.key(0))
    save_checkpoint(tmp_path / "hf", model, params, layout="huggingface")
    caplog.clear()
    load_checkpoint(tmp_path / "hf", image_size=16)
    assert caplog.messages == ["positions resampled from 3x3 to 4x4 (bicubic_plain)"]


def test_another_patch_size_resizes_patches_alone(path, caplog):
    loaded = load_checkpoint(path)
    large = load_checkpoint(path, image_size=24, patch_size=8)
    assert caplog.messages == ["patches resized from 4 to 8 pixels"]
    kernel = resample.resample_patches(loaded.params["embedding"]["kernel"], (8, 8))
    equal(large.params["embedding"]["kernel"], kernel)
    equal(without(large.params, "embedding"), without(loaded.params, "embedding"))
    load_checkpoint(path, patch_size=6)
    assert caplog.messages[1:] == [
        "patches resized from 4 to 6 pixels",
        "positions resampled from 3x3 to 2x2 (bilinear)",
    ]


def test_sizes_that_cannot_be(path, tmp_path):
    with pytest.raises(ValueError, match="13 is not a multiple of 4"):
        load_checkpoint(path, image_size=13)
    with pytest.raises(ValueError, match="num_classes is -1: wanted at least 0"):
        load_checkpoint(path, num_classes=-1)
    with pytest.raises(ValueError, match="unknown resampling 'area': wanted"):
        load_checkpoint(path, image_size=16, resample="area")
    bit = published.random_tensors(published.big_transfer((1,), 32, 3))
    np.savez(tmp_path / "bit.npz", **bit)
    with pytest.raises(ValueError, match="patch_size=8 is for models with patches"):
        load_checkpoint(tmp_path / "bit.npz", patch_size=8)
    assert load_checkpoint(tmp_path / "bit.npz", image_size=64).model.image_size == (
        (64, 64)
    )


def test_positions_of_a_rectangle(tmp_path):
    """Six patches may be 2 x 3 or 3 x 2: the file does not have the size."""
    tensors = published.random_tensors(published.google_vit(**TINY, num_patches=6))
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(ValueError, match=r"not those of a square image: give image_si"):
        load_checkpoint(tmp_path / "x.npz")
    wide = load_checkpoint(tmp_path / "x.npz", image_size=(8, 12))
    assert wide.model.grid == (2, 3)
    name = "Transformer/posembed_input/pos_embedding"
    equal(wide.params["positions"]["embedding"], tensors[name])
    lost = save_checkpoint(tmp_path / "y.npz", wide.model, wide.params, layout="google")
    assert lost == {"image_size": (8, 12)}
    equal(load_checkpoint(tmp_path / "y.npz", **lost).params, wide.params)
    with pytest.raises(ValueError, match=r"pos_embedding is \(1, 7, 24\), wanted \("):
        load_checkpoint(tmp_path / "x.npz", image_size=16)


def test_tensors_that_do_not_fit_are_all_named(tmp_path, tensors):
    tensors["head/bias"] = np.zeros(4, np.float32)
    tensors["extra"] = np.zeros((2, 3), np.float32)
    del tensors["Transformer/encoderblock_0/LayerNorm_2/scale"]
    np.savez(tmp_path / "x.npz", **tensors)
    with pytest.raises(ValueError) as caught:
        load_checkpoint(tmp_path / "x.npz")
    assert str(caught.value) == (
        f"{tmp_path}/x.npz: the tensors are not those of this model in the google "
        "layout: "
        "Transformer/encoderblock_0/LayerNorm_2/scale is missing, wanted (24,); "
        "head/bias is (4,), wanted (5,); extra (2, 3) is surplus"
    )
    many = tensors | {f"more{i}": np.zeros(1, np.float32) for i in range(20)}
    np.savez(tmp_path / "x.npz", **many)
    with pytest.raises(ValueError, match=r"more6 \(1,\) is surplus; and 13 more$"):
        load_checkpoint(tmp_path / "x.npz")


def test_no_architecture_is_found(tmp_path, tensors):
    name = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"
    np.savez(tmp_path / "x.npz", **without(tensors, name))
    message = f"the google layout finds no architecture in .*x.npz: {name} is missing"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "x.npz")
    no_blocks = {name: x for name, x in tensors.items() if "block" not in name}
    np.savez(tmp_path / "x.npz", **no_blocks)
    with pytest.raises(ValueError, match="no architecture .*Dense_0/kernel is missing"):
        load_checkpoint(tmp_path / "x.npz")
    flat = tensors | {"embedding/kernel": np.zeros((), np.float32)}
    np.savez(tmp_path / "x.npz", **flat)
    with pytest.raises(ValueError, match="x.npz: a tensor is missing or misshapen"):
        load_checkpoint(tmp_path / "x.npz")


def test_the_layout_must_be_clear(path, tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", **{f"layer{i}": np.ones(2) for i in range(9)})
    names = "layer0, layer1, layer2, layer3, layer4$"
    with pytest.raises(ValueError, match=f"none of the known layouts .google.*{names}"):
        load_checkpoint(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="unknown layout 'keras': wanted one of"):
        load_checkpoint(path, layout="keras")
    monkeypatch.setattr(timm, "recognises", lambda *_: True)
    with pytest.raises(ValueError, match="of the layouts google and timm: name one"):
        load_checkpoint(path)
    assert load_checkpoint(path, layout="google").model.num_classes == 5


def test_options_of_the_model_are_those_asked_for(path):
    model = load_checkpoint(path, norm_epsilon=1e-5, dropout_rate=0.1).model
    assert (model.norm_epsilon, model.dropout_rate) == (1e-5, 0.1)
    with pytest.raises(TypeError, match="dropot_rate"):
        load_checkpoint(path, dropot_rate=0.1)


def tiny_model(**options):
    size = dict(depth=1, width=24, mlp_dim=40, num_heads=3)
    model = create_model("ViT-mu/4", num_classes=5, image_size=12, **size, **options)
    return model, init_params(model, jax.random.key(0))


def test_numerics_that_a_layout_cannot_tell(tmp_path, caplog):
    """They are named, and the file with them is the model."""
    numerics = dict(activation="gelu", norm_epsilon=1e-12, pixel_mean=(0.4, 0.5, 0.6))
    model, params = tiny_model(**numerics, dropout_rate=0.1)
    lost = save_checkpoint(tmp_path / "x.npz", model, params, layout="google")
    assert lost == numerics
    (warning,) = caplog.records
    assert warning.levelname == "WARNING" and warning.getMessage() == (
        "the google layout cannot store norm_epsilon=1e-12 (its code has "
        "1e-06), activation='gelu' (its code has 'gelu_tanh'), pixel_mean=(0.4, 0.5, "
        "0.6) (its code has (0.5, 0.5, 0.5)); give it when loading"
    )
    again = load_checkpoint(tmp_path / "x.npz", **lost)
    assert again.model == model.clone(dropout_rate=0.0)
    equal(again.params, params)
    assert load_checkpoint(tmp_path / "x.npz").model != again.model


def test_a_config_tells_what_tensors_do_not(tmp_path, caplog):
    """A single .safetensors file has it in its metadata, with the label names."""
    model, params = tiny_model(activation="quick_gelu", pixel_mean=(0.4, 0.5, 0.6))
    facts = Facts(("a", "b", "c", "d", "e"), "resize_small_center_crop", 0.9, "bicubic")
    for name in ("x.safetensors", "folder.v2"):
        path = tmp_path / name
        assert save_checkpoint(path, model, params, layout="timm", facts=facts) == {}
        again = load_checkpoint(path)
        assert (again.model, again.facts) == (model, facts)
        equal(again.params, params)
    assert load_checkpoint(path, num_classes=2).facts.label_names == ()
    assert "WARNING" not in {record.levelname for record in caplog.records}


@pytest.mark.parametrize(
    ("layout", "name", "kinds"),
    [
        ("google", "x.safetensors", ".npz"),
        ("big_vision", "x", ".npz"),
        ("timm", "x.npz", ".safetensors or a folder"),
        ("huggingface", "x.bin", ".safetensors or a folder"),
        ("timm", "file", ".safetensors or a folder"),
    ],
)
def test_each_layout_has_its_kind_of_file(tmp_path, layout, name, kinds):
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(ValueError, match=f"{layout} layout is written to {kinds}, not"):
        save_checkpoint(tmp_path / name, *tiny_model(), layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_rules_that_forget_a_parameter(tmp_path, monkeypatch):
    """Nothing is left out of a file silently."""
    all_rules = google.rules
    monkeypatch.setattr(google, "rules", lambda model: all_rules(model)[1:])
    with pytest.raises(ValueError, match="layout has no place for embedding/kernel"):
        save_checkpoint(tmp_path / "x.npz", *tiny_model(), layout="google")


def test_layouts_have_names_and_one_order():
    names = " ".join(layout.NAME for layout in interop.LAYOUTS)
    assert names == "google big_vision timm timm_eva huggingface torchvision vit5"
