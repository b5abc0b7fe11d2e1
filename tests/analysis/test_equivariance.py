"""Which models are equivariant to which moves; canvases larger than the model's images.

Exactly equivariant: in a circle and to whole places, a ResNet whose border is circular,
and a ViT without positions.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.analysis.equivariance import (
    check_canvas,
    enlarged,
    large_grids,
    scene,
    translation_profile,
)
from vit_jax.analysis.features import layer_features
from vit_jax.analysis.translation import equivariance_error
from vit_jax.models import create_model, init_params
from vit_jax.models.depth import scanned

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(-1, 1, size=(6, 32, 32, 3)), jnp.float32)
WHOLE, PART = "equivariance/circular/whole/", "equivariance/circular/part/"


@functools.cache
def resnet(**options):
    """A small ResNet with random norms too: those at zero hide whole branches."""
    options = {"blocks": (1, 1), "width": 32, "image_size": 32} | options
    model = create_model("BiT-R26x1", num_classes=0, **options)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32),
        init_params(model, jax.random.key(0)),
    )


def vit(**options):
    sizes = {"depth": 2, "width": 16, "mlp_dim": 16, "num_heads": 2, "pooling": "gap"}
    options = sizes | {"image_size": 32} | options
    model = create_model("ViT-mu/8", num_classes=0, **options)
    return model, init_params(model, jax.random.key(0))


@functools.cache
def profile_of(**options):
    return translation_profile(*resnet(**options), IMAGES)


def of(profile, prefix):
    return {k.removeprefix(prefix): x for k, x in profile.items() if prefix in k}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"antialias": True},
        pytest.param({"version": "v1", "antialias": True}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_circular_resnet_is_equivariant_in_a_circle(options):
    profile = profile_of(conv_padding="circular", **options)
    errors = of(profile, WHOLE)
    last = {"encoded", "stage_2/unit_01", "grid_4"}
    assert set(errors) == {"root", "stage_1/unit_01", "grid_8"} | last
    assert max(errors.values()) < 1e-9
    assert min(of(profile, PART).values()) > 1e-2


def test_zeros_at_the_border_are_seen_in_a_circle_and_not_on_grey():
    profile = profile_of()
    assert min(of(profile, WHOLE).values()) > 1e-2
    # Zeros suit grey: the first layer cannot tell one from the other.
    root = profile["equivariance/grey/whole/root"]
    assert 0 < root < 0.2 * profile[f"{WHOLE}root"]


def test_blurs_lower_the_errors_of_parts_of_a_place():
    plain = profile_of(conv_padding="circular")
    blurred = profile_of(conv_padding="circular", antialias=True)
    for name in ("root", "grid_8", "grid_4"):
        for measure in (PART, "equivariance/grey/part/", "lie_derivative/"):
            assert blurred[measure + name] < 0.7 * plain[measure + name]


def test_a_vit_without_positions_is_equivariant_to_its_patches():
    model, params = vit(positions="none")
    profile = translation_profile(model, params, IMAGES)
    assert max(of(profile, WHOLE).values()) < 1e-9
    assert min(of(profile, PART).values()) > 1e-2


def test_crops_show_a_vit_no_more_than_its_positions():
    """Without them all that a place hears of is the other patches, nearly the same."""
    plain, bare = (
        translation_profile(*vit(positions=kind), IMAGES)
        for kind in ("learned", "none")
    )
    crops = "equivariance/crops/whole/"
    # A patch is the same wherever it lies; its position is not.
    assert max(of(x, crops)["stem"] for x in (plain, bare)) < 1e-9
    assert plain[f"{crops}embedded"] > 100 * max(bare[f"{crops}embedded"], 1e-9)
    assert 1e-9 < bare[f"{crops}encoded"] < plain[f"{crops}encoded"]
    assert not of(plain, "equivariance/crops/part/")


def test_crops_and_grey_leave_out_places_that_say_nothing():
    """A layer that keeps the pixels, but for what comes in at the border."""
    images = IMAGES[:, :16, :16]
    for setting, pixels in (("crops", 4), ("grey", 4)):
        moved, cover = scene(images, (16, 16), setting, pixels)
        assert cover.shape == moved.shape[1:3]

        def means(x):
            return x.reshape(len(x), 4, 4, 4, 4, 3).mean((2, 4))

        moves = jnp.array([(pixels, 0), (0, pixels)])
        options = {"frame": (16, 16), "centred": True}
        errors = equivariance_error(means, moved, moves, cover=cover, **options)
        assert max(errors) < 1e-9
        # Everything counts: what came in is not what left on the other side.
        ones = jnp.ones(cover.shape)
        errors = equivariance_error(means, moved, moves, cover=ones, **options)
        assert (min(errors) > 0.1) == (setting == "crops")
    # Blank places differ by more than all others, and are not heard of.
    moved, cover = scene(images, (16, 16), "grey", 4)

    def blanks(x):
        filled = jnp.abs(x).max(-1, keepdims=True) > 0
        return jnp.where(filled, x, jnp.arange(16.0)[:, None, None])

    errors = equivariance_error(blanks, moved, moves, cover=cover, **options)
    assert max(errors) < 1e-9
    ones = jnp.ones(cover.shape)
    assert max(equivariance_error(blanks, moved, moves, cover=ones, **options)) > 0.1


def test_mirror_images_surround_an_image_and_fit_together():
    images = IMAGES[:2, :16, :8]
    frame = (slice(None), slice(32, 96), slice(32, 96))
    circular, grey = (
        np.asarray(scene(images, (64, 64), setting, 4)[0][frame])
        for setting in ("circular", "grey")
    )
    assert circular.shape == grey.shape == (2, 64, 64, 3)
    middle = (slice(None), slice(24, 40), slice(28, 36))
    np.testing.assert_array_equal(circular[middle], images)
    np.testing.assert_array_equal(circular[:, 40:56, 28:36], images[:, ::-1])
    # The border is a place like any other.
    np.testing.assert_array_equal(circular, np.roll(circular, (32, -16), (1, 2)))
    outside = np.ones(grey.shape, bool)
    outside[middle] = False
    assert not grey[outside].any() and grey[:, 32, 32].any()
    np.testing.assert_array_equal(grey[:, 28:36, 30:34], images[:, 4:12, 2:6])
    with pytest.raises(ValueError, match="16 x 8 pixels do not fill a canvas of 48"):
        check_canvas((16, 8), 48)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="16 x 32 pixels: wanted .* 32 x 32"):
        translation_profile(*resnet(), IMAGES[:, :16])


def test_a_canvas_shows_more_of_a_resnet():
    """The layers that have 2 x 2 places of 32 pixels have 4 x 4 of 64."""
    model, params = resnet(blocks=(1, 1, 1), conv_padding="circular")
    assert set(large_grids(model, params).values()) == {(8, 8), (4, 4)}
    profile = translation_profile(model, params, IMAGES[:2], canvas=64)
    errors = of(profile, WHOLE)
    assert errors["grid_4"] == errors["encoded"] < 1e-9
    assert profile["equivariance/grey/whole/grid_4"] < 1e-9
    assert profile["lie_derivative/grid_4"] > 0


def test_models_on_a_canvas():
    model, params = vit()
    larger, resampled = enlarged(model, params, 64)
    assert larger.grid == (8, 8)
    table, old = (x["positions"]["embedding"][0] for x in (resampled, params))
    corners = np.asarray(table).reshape(8, 8, -1)[[0, 0, 7, 7], [0, 7, 0, 7]]
    np.testing.assert_allclose(corners, old[np.array([0, 3, 12, 15])], atol=1e-6)
    wanted = layer_features(larger, resampled, jnp.zeros((1, 64, 64, 3)))["encoded"]
    found = enlarged(*scanned(model, params), 64)
    found = layer_features(*found, jnp.zeros((1, 64, 64, 3)))["encoded"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    axial = create_model("AxialResNet-26", image_size=32, axial_heads=4)
    with pytest.raises(ValueError, match="an axial ResNet has weights for each place"):
        enlarged(axial, {}, 64)
