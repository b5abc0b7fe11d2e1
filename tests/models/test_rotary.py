"""Rotary positions, beside formulas of complex numbers in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.rotary import RotaryPositions

GRID = (2, 3)
# As each of the published models has them, see the table in rotary.py.
DINOV3 = {}
EVA02 = {"coordinates": "index", "base": 1e4, "layout": "pairs", "grid": (4, 6)}
ROPE_VIT = {"coordinates": "index", "layout": "pairs", "axes": "xy"}
MIXED = ROPE_VIT | {"frequencies": "mixed", "base": 10.0}
KINDS = {"dinov3": DINOV3, "eva02": EVA02, "rope_vit": ROPE_VIT, "mixed": MIXED}


def tokens(number=9, heads=2, width=8):
    shape = (2, 3, number, heads, width)
    return jax.random.normal(jax.random.key(0), shape)


def turned(options, query, key, grid=GRID, prefix=2):
    module = RotaryPositions(**options)
    variables = module.init(jax.random.key(1), query, key, grid, prefix)
    return variables, module.apply(variables, query, key, grid, prefix)


def angle(options, variables, row, column, head, pair, width=8):
    """Of one pair of features, in radians, written out for one patch."""
    if options in (DINOV3,):
        y, x = 2 * (row + 0.5) / GRID[0] - 1, 2 * (column + 0.5) / GRID[1] - 1
        quarter = width // 4
        place = y if pair < quarter else x
        return 2 * np.pi * place / 100 ** (2 * (pair % quarter) / (width / 2))
    if options is EVA02:
        y, x = row / GRID[0] * 4, column / GRID[1] * 6
        place = y if pair < width // 4 else x
        return place / 10000 ** ((pair % (width // 4)) / (width // 4))
    if options is ROPE_VIT:
        place = column if pair < width // 4 else row
        return place / 100 ** ((pair % (width // 4)) / (width // 4))
    along_x, along_y = variables["params"]["frequencies"][:, head, pair]
    return column * along_x + row * along_y


@pytest.mark.parametrize("name", KINDS)
def test_pairs_of_features_are_turned_by_the_angle_of_their_patch(name):
    options = KINDS[name]
    query, key = tokens()
    variables, (new_query, new_key) = turned(options, query, key)
    for old, new in ((query, new_query), (key, new_key)):
        for head in range(2):
            for pair in range(4):
                first, second = (2 * pair, 2 * pair + 1)
                if options.get("layout", "half") == "half":
                    first, second = pair, pair + 4
                old_pair = old[..., head, first] + 1j * old[..., head, second]
                new_pair = new[..., head, first] + 1j * new[..., head, second]
                for patch in range(6):
                    row, column = divmod(patch, 3)
                    turn = angle(options, variables, row, column, head, pair)
                    np.testing.assert_allclose(
                        new_pair[:, 2 + patch],
                        old_pair[:, 2 + patch] * np.exp(1j * turn),
                        atol=1e-5,
                    )


@pytest.mark.parametrize("name", KINDS)
def test_tokens_around_the_patches_are_not_turned(name):
    query, key = tokens()
    _, (new_query, new_key) = turned(KINDS[name], query, key)
    for old, new in ((query, new_query), (key, new_key)):
        # Two in front; the last is the padding that a kernel may need.
        np.testing.assert_array_equal(new[:, [0, 1, 8]], old[:, [0, 1, 8]])
        assert np.abs(new[:, 3:8] - old[:, 3:8]).max() > 0.1


@pytest.mark.parametrize("name", KINDS)
def test_registers_are_turned_as_patches_of_a_square_with_a_base_of_its_own(name):
    query, key = tokens(11)
    options = KINDS[name] | {"registers": 4, "register_base": 25.0}
    _, (new, _) = turned(options, query, key, prefix=5)
    _, (patches, _) = turned(KINDS[name], query, key, prefix=5)
    np.testing.assert_array_equal(new[:, 4:], patches[:, 4:])
    square = KINDS[name] | {"base": 25.0, "grid": (), "frequencies": "axial"}
    _, (alone, _) = turned(square, query[:, :4], key[:, :4], (2, 2), 0)
    np.testing.assert_array_equal(new[:, :4], alone)


@pytest.mark.parametrize("name", KINDS)
def test_logits_of_equal_contents_depend_on_offsets_alone(name):
    query, key = (jnp.broadcast_to(x[:, :1], (3, 6, 2, 8)) for x in tokens())
    _, (query, key) = turned(KINDS[name], query, key, prefix=0)
    logits = np.einsum("blke,bmke->bklm", query, key)
    y, x = np.divmod(np.arange(6), 3)
    seen = {}
    for i in range(6):
        for j in range(6):
            seen.setdefault((y[i] - y[j], x[i] - x[j]), []).append(logits[:, :, i, j])
    assert len(seen) == 15
    for values in seen.values():
        np.testing.assert_allclose(values, values[:1] * len(values), atol=1e-4)


def test_mixed_frequencies_start_as_rotated_axes():
    query, key = tokens()
    variables, _ = turned(MIXED, query, key)
    along_x, along_y = variables["params"]["frequencies"]
    lengths = np.hypot(along_x, along_y)
    np.testing.assert_allclose(lengths, np.tile(10.0 ** -np.array([0, 0.5]), (2, 2)))
    # The second half turns with the direction at a right angle to that of the first.
    products = along_x[:, :2] * along_x[:, 2:] + along_y[:, :2] * along_y[:, 2:]
    np.testing.assert_allclose(products, 0, atol=1e-6)
    assert abs(along_x[0, 0] - along_x[1, 0]) > 1e-3


def test_low_precision_is_turned_in_float32():
    query, key = tokens()
    low = jnp.asarray(query, jnp.bfloat16)
    _, (exact, _) = turned(EVA02, low.astype(jnp.float32), key)
    _, (found, _) = turned(EVA02, low, key)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("options", "width", "message"),
    [
        ({"grid": (4, 4)}, 8, "it is .4, 4. with rope_coordinates='centred'"),
        ({}, 6, "a width divisible by 4, not 6"),
    ],
)
def test_options_that_cannot_be(options, width, message):
    with pytest.raises(ValueError, match=message):
        turned(options, *tokens(width=width))
