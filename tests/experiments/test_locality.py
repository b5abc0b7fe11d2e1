"""What the experiments on recipes and initial values conclude from numbers made up."""

import pytest

from experiments import bias_by_initialisation as initialisation
from experiments import protocol_locality as protocol
from experiments.lab.contrasts import contrast
from experiments.lab.frame import resolve

NOISE = (-0.01, 0.0, 0.01)  # of three seeds


def seeds(value):
    return [value + noise for noise in NOISE]


def distance_of(chosen):
    """CutMix takes away 0.82, RandAugment 0.1, and CutMix and smoothing add 0.04."""
    has = chosen.__contains__
    both = has(protocol.CUTMIX) and has(protocol.SMOOTHING)
    return 0.95 - 0.82 * has(protocol.CUTMIX) - 0.1 * has("RandAugment") + 0.04 * both


def test_recipes_are_all_choices_of_their_factors():
    arms = protocol.arms("mini")
    configs = {name: resolve(arm) for name, arm in arms.items()}
    assert len({config.to_json() for config in configs.values()}) == 8
    assert arms["none"].changes == {}
    for name, config in configs.items():
        on = config.mix.cutmix_alpha, config.loss.label_smoothing
        wanted = 1.0 * ("CutMix" in name), 0.1 * ("label smoothing" in name)
        layers = 2 * ("RandAugment" in name)
        assert (on, config.data.randaug_layers) == (wanted, layers)
        assert config.data.classes == ()


def test_main_effects_are_means_over_the_other_factors():
    values = {name: seeds(distance_of(x)) for name, x in protocol.CHOICES.items()}
    # The interaction is in half of the settings of the other.
    for factor, wanted in (
        (protocol.CUTMIX, -0.8),
        (protocol.SMOOTHING, 0.02),
        (protocol.RANDAUGMENT, -0.1),
    ):
        found = contrast(values, protocol.effect(factor)).value
        assert found == pytest.approx(wanted)


def test_verdicts_on_recipes_follow_the_numbers():
    values = {
        measure: {name: seeds(distance_of(x)) for name, x in protocol.CHOICES.items()}
        for measure in protocol.TITLES
    }
    found = [claim.verdict for claim in protocol.claims(values)]
    # The last claims that a share grows.
    assert found == ["supported"] * 6 + ["not supported"]
    # A fifth of 0.9 is no eighth.
    values[protocol.DISTANCE] = {
        name: seeds(0.18 if "CutMix" in x else 0.9)
        for name, x in protocol.CHOICES.items()
    }
    found = [claim.verdict for claim in protocol.claims(values)]
    assert found[:2] == ["supported", "not supported"]


def test_verdicts_on_initial_values_follow_the_numbers():
    """Impulse stays local with little data only; both help most where data are few."""
    shares, planted = (2, 20, 100), initialisation.IMPULSE
    default = initialisation.BESIDE[planted]
    label, started = initialisation.label, initialisation.started
    before = {started(default): 1.0, started(planted): 0.5}
    distance = before | {label(default, share): 0.8 for share in shares}
    distance |= {label(planted, 2): 0.6, label(planted, 20): 0.7}
    distance[label(planted, 100)] = 1.2
    accuracy = {label(default, 2): 0.4, label(planted, 2): 0.5}
    accuracy |= {label(default, 100): 0.8, label(planted, 100): 0.8}
    found = initialisation.claims(
        planted,
        # Before training in another order, so that changes within runs have a spread.
        {
            arm: seeds(value)[:: -1 if arm in before else 1]
            for arm, value in distance.items()
        },
        {arm: seeds(value) for arm, value in accuracy.items()},
        shares,
    )
    assert [claim.verdict for claim in found] == [
        "supported",
        "not supported",
        "supported",
        "supported",
        "supported",
        "supported",
    ]


def test_training_is_compared_within_each_run():
    """Runs differ by more than what the training changes in each."""
    shares, planted = (10, 100), initialisation.IMPULSE
    models = planted, initialisation.BESIDE[planted]
    places = [x for model in models for x in initialisation.places(model, shares)]
    values = dict.fromkeys(places, [0.2, 0.5, 0.8])
    trained = initialisation.label(planted, 100)
    distance = values | {trained: [0.31, 0.6, 0.89]}
    found = initialisation.claims(planted, distance, values, shares)
    by_start = {claim.claim.partition(" (")[0]: claim for claim in found}
    change = by_start["Training makes attention less local than it was planted"]
    assert change.verdict == "supported"


def test_initial_values_are_compared_at_the_same_positions():
    configs = {name: resolve(x) for name, x in initialisation.arms("medium").items()}
    assert len({config.to_json() for config in configs.values()}) == 12
    for planted, default in initialisation.BESIDE.items():
        ours, other = (configs[initialisation.label(x, 2)] for x in (planted, default))
        assert ours.model.initialization == planted.split(",")[0]
        other.model.initialization = ours.model.initialization
        assert ours.to_json() == other.to_json()
        assert ours.data.split == "train[:2%]"
