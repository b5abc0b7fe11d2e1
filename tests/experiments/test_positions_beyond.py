"""What positions are on a larger grid, and the claims from known accuracies."""

import jax
import numpy as np
import pytest

from experiments.positions_beyond import (
    CENTRED,
    CONTINUED,
    GROWN,
    INDEX,
    LEARNED,
    MLP,
    NONE,
    POSITIONS,
    SAME,
    SINES,
    STRETCHED,
    TABLE,
    claims,
    key,
)
from vit_jax.models.positions import sincos2d
from vit_jax.models.relative_bias import RelativeBias
from vit_jax.models.resample import resample_grid
from vit_jax.models.rotary import RotaryPositions

OLD, NEW = (4, 4), (8, 8)


def tables(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions, or biases from the first patch, on the grid learned and a larger."""
    if name == LEARNED:
        table = np.random.default_rng(0).normal(size=(*OLD, 3))
        return table, np.asarray(resample_grid(table, NEW))
    if name == SINES:
        return tuple(np.asarray(sincos2d(*x, 8)).reshape(*x, 8) for x in (OLD, NEW))
    if name in (CENTRED, INDEX):
        kind = POSITIONS[name].get("model.rope_coordinates", "centred")
        rotary = RotaryPositions(coordinates=kind)
        return tuple(rotary.places(x, x).reshape(*x, 2) for x in (OLD, NEW))
    model = RelativeBias(POSITIONS[name]["model.positions"], OLD, 2, 8)
    params = model.init(jax.random.key(0), 16, OLD)
    biases = [np.asarray(model.apply(params, x[0] * x[1], x)) for x in (OLD, NEW)]
    # From the first patch to all patches.
    old, new = (x[:, 0].reshape(2, *y) for x, y in zip(biases, (OLD, NEW), strict=True))
    return np.moveaxis(old, 0, -1), np.moveaxis(new, 0, -1)


@pytest.mark.parametrize("name", CONTINUED)
def test_continued_positions_keep_what_they_were(name):
    old, new = tables(name)
    np.testing.assert_allclose(new[: len(old), : len(old)], old, atol=1e-6)


@pytest.mark.parametrize("name", STRETCHED)
def test_stretched_positions_keep_their_ends(name):
    old, new = tables(name)
    if name == CENTRED:  # borders on borders: half as far apart, over the same range
        step = np.diff(old[:, 0, 0])[0]
        np.testing.assert_allclose(np.diff(new[:, 0, 0]), step / 2)
        assert new[0, 0, 0] - step / 4 == pytest.approx(old[0, 0, 0] - step / 2)
        return
    np.testing.assert_allclose(
        new[[0, 0, -1, -1], [0, -1, 0, -1]],
        old[[0, 0, -1, -1], [0, -1, 0, -1]],
        atol=1e-6,
    )
    assert not np.allclose(new[: len(old), : len(old)], old, atol=1e-3)


def test_every_kind_is_stretched_or_continued():
    assert {NONE, *STRETCHED, *CONTINUED} == POSITIONS.keys()
    assert set(STRETCHED) & set(CONTINUED) == set()


@pytest.mark.parametrize("sign", [1, -1])
def test_claims_follow_the_accuracies(sign):
    """All that is claimed, and the reverse of all."""
    kept = {NONE: 0.95, LEARNED: 0.5, TABLE: 0.6, MLP: 0.8, SINES: 0.6}
    kept |= {CENTRED: 0.55, INDEX: 0.9}
    grown = {name: 0.8 - 0.3 * (name in CONTINUED) for name in POSITIONS}
    if sign < 0:
        kept = {name: 1.4 - share for name, share in kept.items()}
        grown = {name: 1.4 - share for name, share in grown.items()}
    first = {name: 0.5 + sign * 0.05 * (name != NONE) for name in POSITIONS}
    found = {
        name: [
            {
                key(SAME, 1): first[name] + noise,
                key(SAME, 4): (kept[name] + noise) * (first[name] + noise),
                key(GROWN, 4): (grown[name] + noise) * (first[name] + noise),
            }
            for noise in (-0.001, 0.0, 0.001)
        ]
        for name in POSITIONS
    }
    verdicts = [claim.verdict for claim in claims(found, 4)]
    assert verdicts == ["supported" if sign > 0 else "not supported"] * 7
