"""Position tables on other grids, patch embeddings of other sizes."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from vit_jax.models.resample import (
    MATRICES,
    resample_grid,
    resample_patches,
    resample_table,
)

rng = np.random.default_rng(0)


def table(*shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("method", MATRICES)
def test_the_same_grid_is_the_same_array(method):
    old = table(3, 5, 4)
    assert resample_grid(old, (3, 5), method) is old
    old = table(1, 16, 4)
    assert resample_table(old, (3, 5), (3, 5), 1, method) is old


@pytest.mark.parametrize("new", [(24, 24), (7, 7), (14, 20), (5, 31), (1, 1)])
def test_bilinear_is_that_of_the_published_code(new):
    """`scipy.ndimage.zoom` of order 1, as in google-research/vision_transformer."""
    old = table(14, 14, 6)
    wanted = ndimage.zoom(old, (new[0] / 14, new[1] / 14, 1), order=1)
    np.testing.assert_allclose(resample_grid(old, new), wanted, atol=1e-6)


@pytest.mark.parametrize(("small", "large"), [((4, 7), (7, 13)), ((3, 2), (9, 4))])
def test_a_rectangle_resampled_and_back(small, large):
    """Corners on corners: each old place is a new one if the steps divide."""
    old = table(*small, 5)
    there = resample_grid(old, large)
    assert there.shape == (*large, 5)
    np.testing.assert_allclose(resample_grid(there, small), old, atol=1e-5)


@pytest.mark.parametrize("method", MATRICES)
@pytest.mark.parametrize("new", [(9, 4), (2, 11)])
def test_rows_and_columns_are_not_confused(method, new):
    old = np.zeros((5, 6, 2), np.float32)
    old[..., 0], old[..., 1] = np.mgrid[:5, :6]
    rows, columns = np.moveaxis(np.asarray(resample_grid(old, new, method)), -1, 0)
    assert np.ptp(rows, axis=1).max() < 1e-4 and np.ptp(columns, axis=0).max() < 1e-4
    assert (np.diff(rows[:, 0]) > 0).all() and (np.diff(columns[0]) > 0).all()


def test_prefix_rows_are_kept():
    old = table(1, 2 + 12, 5)
    new = resample_table(old, (3, 4), (5, 6), 2)
    assert new.shape == (1, 2 + 30, 5)
    np.testing.assert_array_equal(new[:, :2], old[:, :2])
    grid = resample_grid(old[0, 2:].reshape(3, 4, 5), (5, 6))
    np.testing.assert_array_equal(new[0, 2:], np.asarray(grid).reshape(30, 5))


def test_unknown_method():
    with pytest.raises(ValueError, match="wanted one of bilinear, bicubic"):
        resample_grid(table(2, 2, 1), (3, 3), "nearest")


@pytest.mark.parametrize("new", [(8, 8), (6, 10), (4, 4)])
def test_larger_patches_give_the_same_tokens(new):
    """FlexiViT, section 3.4: resized patches times the resized kernel."""
    kernel, patches = table(4, 4, 3, 5), table(10, 4, 4, 3)
    larger = jax.image.resize(patches, (10, *new, 3), "cubic", antialias=True)
    tokens = np.einsum("bpqc,pqcd->bd", patches, kernel)
    found = np.einsum("bpqc,pqcd->bd", larger, resample_patches(kernel, new))
    np.testing.assert_allclose(found, tokens, atol=1e-3)


def test_patches_of_flexivit_are_resized_linearly():
    """As `tf.image.resize` does, bilinearly and not antialiased."""
    kernel, patches = table(4, 4, 3, 5), table(10, 4, 4, 3)
    larger = jax.image.resize(patches, (10, 6, 8, 3), "linear", antialias=False)
    tokens = np.einsum("bpqc,pqcd->bd", patches, kernel)
    for method in ("linear", "linear_plain"):
        new = resample_patches(kernel, (6, 8), method)
        found = np.einsum("bpqc,pqcd->bd", larger, new)
        np.testing.assert_allclose(found, tokens, atol=1e-3)


def test_linear_with_antialiasing_and_without():
    ramp = np.arange(6, dtype=np.float32)[:, None, None] ** 2
    plain, smooth = (
        np.asarray(resample_grid(ramp, (3, 1), method)).ravel()
        for method in ("linear_plain", "linear")
    )
    np.testing.assert_allclose(plain, [0.5, 6.5, 20.5], atol=1e-5)
    # Four neighbours of weights 1, 3, 3, 1, those that are there.
    np.testing.assert_allclose(smooth, [1, 7, 132 / 7], atol=1e-5)
    for method in ("linear_plain", "linear"):
        larger = np.asarray(resample_grid(ramp[:2], (4, 1), method)).ravel()
        np.testing.assert_allclose(larger, [0, 0.25, 0.75, 1], atol=1e-6)


def test_smaller_patches_give_the_nearest_tokens():
    """No other kernel is nearer, in the mean over white noise."""
    kernel = table(6, 6, 1, 1)
    small = np.asarray(resample_patches(kernel, (3, 3)))
    noise = table(4000, 6, 6, 1)
    shrunk = jax.image.resize(noise, (4000, 3, 3, 1), "cubic", antialias=True)
    shrunk, noise = np.asarray(shrunk).reshape(4000, 9), noise.reshape(4000, 36)
    # B B^T w' = B w: the normal equations, with B B^T from the resize itself.
    matrix = np.linalg.lstsq(noise, shrunk, rcond=None)[0].T
    wanted = np.linalg.lstsq(matrix.T, kernel.reshape(36), rcond=None)[0]
    np.testing.assert_allclose(small.reshape(9), wanted, atol=1e-3)


def test_the_same_patch_size_is_the_same_array():
    kernel = table(4, 4, 3, 5)
    assert resample_patches(kernel, (4, 4)) is kernel


@pytest.mark.parametrize(
    "size, wanted",
    [
        (6, [-0.086806, 0.21875, 1.430555, 3.152778, 6.78125, 9.434029]),
        (3, [0.091435, 2.125, 8.334492]),
    ],
)
def test_plain_bicubic_is_that_of_torch(size, wanted):
    """The numbers are those of torch's `interpolate`, align_corners=False."""
    squares = np.array([0, 1, 4, 9], np.float32)
    for transposed in (False, True):
        grid = (squares[None] if transposed else squares[:, None])[..., None]
        new = (1, size) if transposed else (size, 1)
        found = np.asarray(resample_grid(grid, new, "bicubic_plain")).ravel()
        np.testing.assert_allclose(found, wanted, atol=2e-6)
