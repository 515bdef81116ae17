"""Expected F1 and PQ of objects, and intervals of their number, by held-out cases."""

import numpy as np
import pytest
from builders.quality import build_features, build_probabilities

from autoseg.quality.estimates import CaseQuality
from autoseg.quality.features import NetworkFeatures
from autoseg.quality.objects import (
    CountErrors,
    ObjectCalibration,
    ScoredObjects,
    estimate_objects,
    fit_objects,
    measure_objects,
)

NAMES = ("cell", "gland")


def draw_cases(count: int, seed: int = 0) -> tuple[list[NetworkFeatures], list[ScoredObjects]]:
    """Cells whose F1 is the mean probability of their objects with noise, of which every tenth is missed; no glands."""
    random = np.random.default_rng(seed)
    networks, scored = [], []
    for _ in range(count):
        found = int(random.integers(15, 40))
        sure = float(random.uniform(0.6, 0.95))
        objects = measure_objects(
            random.uniform(20.0, 80.0, found), np.clip(sure + 0.02 * random.normal(size=found), 0, 1)
        )
        f1 = float(np.clip(sure + 0.01 * random.normal(), 0, 1))
        part = build_probabilities(float(random.uniform(0.8, 0.95)))
        networks.append(build_features().network.model_copy(update={"probabilities": (part, None, part, None)}))
        missed = int(random.binomial(found, 0.1))
        scored.append(
            ScoredObjects(features=(objects, None), f1=(f1, None), pq=(f1 * 0.8, None), expected=(found + missed, 0))
        )
    return networks, scored


def fit(count: int) -> dict[str, ObjectCalibration]:
    networks, scored = draw_cases(count)
    return fit_objects(networks, scored, np.arange(count) % 5, class_names=NAMES)


def test_objects_are_measured_by_number_probability_and_size() -> None:
    found = measure_objects(np.array([10.0, 20.0, 30.0]), np.array([0.91234567, 0.5, 0.7]))
    assert found is not None
    assert (found.count, found.median_size) == (3, 20.0)
    assert found.mean_probability == pytest.approx((0.9123 + 0.5 + 0.7) / 3)  # as the table shows them
    assert found.low_probability == pytest.approx(0.54)
    assert found.size_ratio == pytest.approx(28 / 12)
    assert measure_objects(np.zeros(0), np.zeros(0)) is None


def test_new_cases_get_scores_and_numbers_with_intervals_that_hold() -> None:
    calibration = fit(60)
    inside, errors = [], []
    for network, entry in zip(*draw_cases(150, seed=5), strict=True):
        found = estimate_objects(network, entry.features, calibration=calibration, class_names=NAMES)["cell"]
        for value, true in ((found.f1, entry.f1[0]), (found.pq, entry.pq[0]), (found.count, entry.expected[0])):
            inside.append(value.low <= true <= value.high)
        errors.append(abs(found.f1.value - entry.f1[0]))
    assert 0.84 <= np.mean(inside) <= 0.99
    assert np.mean(errors) < 0.03
    assert calibration["gland"] == ObjectCalibration(f1=None, pq=None, count=None)


def test_fewer_than_twenty_cases_give_numbers_alone() -> None:
    networks, scored = draw_cases(1, seed=1)
    few = estimate_objects(networks[0], scored[0].features, calibration=fit(19), class_names=NAMES)
    assert (few["cell"].f1, few["cell"].pq, few["cell"].count.low) == (None, None, None)
    assert few["cell"].count.value == scored[0].features[0].count
    assert few == estimate_objects(networks[0], scored[0].features, calibration=None, class_names=NAMES)
    assert few["gland"].count.value == 0
    assert fit(20)["cell"].f1 is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 0.0, (9, 9)), (np.log(0.75), np.log(1.25), (7, 11)), (0.1, 0.2, (9, 11)), (-3.0, -0.5, (0, 9))],
)
def test_intervals_hold_whole_numbers_and_the_number_that_is_found(
    low: float, high: float, expected: tuple[int, int]
) -> None:
    objects = measure_objects(np.full(9, 5.0), np.full(9, 0.9))
    calibration = {"cell": ObjectCalibration(f1=None, pq=None, count=CountErrors(low=low, high=high))}
    found = estimate_objects(build_features().network, (objects,), calibration=calibration, class_names=("cell",))
    assert (found["cell"].count.low, found["cell"].count.high) == expected


def test_documents_without_objects_are_as_they_were() -> None:
    case = CaseQuality(name="a", label_map="a.nii.gz", flags=(), classes={})
    assert set(case.model_dump()) == {"name", "label_map", "flags", "classes"}
