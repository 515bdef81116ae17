"""Fitting all estimates to held-out cases, and what a case is told."""

import numpy as np
import pytest
from builders.quality import build_features, build_probabilities, build_shape, draw_features

from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError
from autoseg.inference.options import PredictionOptions
from autoseg.quality.calibration import (
    CALIBRATION_NAME,
    QualityCalibration,
    ScoredCase,
    fit_calibration,
    list_regressors,
)
from autoseg.quality.estimates import estimate_case

NAMES = {"channel_names": ("MRI",), "class_names": ("organ",)}


def draw_scored(count, seed=0):
    """Cases whose Dice is their soft Dice with noise, and whose volume is estimated 10 % too small."""
    random = np.random.default_rng(seed)
    scored = []
    for features in draw_features(count, seed):
        (found,), (shape,) = features.network.probabilities, features.shapes
        dice = float(np.clip(found.soft_dice + 0.01 * random.normal(), 0, 1))
        volume = shape.volume_ml * float(np.exp(0.1 + 0.05 * random.normal()))
        scored.append(ScoredCase(features=features, dice=(dice,), nsd=(min(1.0, dice + 0.05),), reference_ml=(volume,)))
    return scored


def calibrate(count):
    classes, distribution = fit_calibration(draw_scored(count), np.arange(count) % 5, **NAMES)
    return QualityCalibration(
        autoseg_version="1",
        weights_sha256=("a",),
        postprocessing=(),
        cases=count,
        class_names=("organ",),
        classes=classes,
        distribution=distribution,
    )


@pytest.fixture(scope="module")
def calibration():
    return calibrate(80)


def test_a_calibration_of_an_earlier_version_is_one_of_the_usual_options(calibration):
    earlier = calibration.model_dump(mode="json")
    for name in ("mirroring", "step_fraction", "decoding"):
        del earlier[name]
    assert QualityCalibration.model_validate(earlier) == calibration
    usual = PredictionOptions()
    found = (calibration.mirroring, calibration.step_fraction, calibration.decoding)
    assert found == (usual.mirroring, usual.step_fraction, usual.decoding)


def estimate(calibration, features):
    return estimate_case(
        "x", "x.nii.gz", features, classes=calibration.classes, distribution=calibration.distribution, **NAMES
    )


def test_new_cases_get_scores_and_volumes_with_intervals_that_hold(calibration) -> None:
    inside, errors = [], []
    for entry in draw_scored(200, seed=5):
        found = estimate(calibration, entry.features).classes["organ"]
        for value, true in ((found.dice, entry.dice), (found.nsd, entry.nsd), (found.volume, entry.reference_ml)):
            inside.append(value.low <= true[0] <= value.high)
        errors.append(abs(found.dice.value - entry.dice[0]))
    assert 0.84 <= np.mean(inside) <= 0.97
    assert np.mean(errors) < 0.02
    assert "calibrated on 80 held-out cases: estimates of Dice were off by 0.0" in calibration.describe()


def test_fewer_than_twenty_cases_give_no_estimate_and_say_so_but_volumes_and_flags() -> None:
    few = calibrate(19)
    assert "19 held-out cases are too few to calibrate it, fewer than 20" in few.describe()
    found = estimate(few, build_features(build_shape(40.0)))
    quality = found.classes["organ"]
    assert (quality.dice, quality.nsd) == (None, None)
    assert (quality.volume.value, quality.volume.low, quality.volume.high) == (40.0, None, None)
    assert [flag.kind for flag in found.flags] == ["volume"]
    assert calibrate(20).classes[0].dice is not None


def with_scale(entry, scale, dice):
    network = entry.features.network
    channels = tuple(channel.model_copy(update={"scale": scale}) for channel in network.image.channels)
    image = network.image.model_copy(update={"channels": channels})
    features = entry.features.model_copy(update={"network": network.model_copy(update={"image": image})})
    return entry.model_copy(update={"features": features, "dice": (dice,)})


def test_scanners_that_differ_in_their_intensities_may_differ_in_their_scores() -> None:
    random = np.random.default_rng(3)
    scales = np.exp(random.choice([3.0, 9.0], size=80))
    known = draw_scored(80)
    dice = np.where(scales > 100, 0.95, 0.85) + 0.01 * random.normal(size=80)
    scored = [with_scale(*one) for one in zip(known, scales, dice, strict=True)]
    blind = [with_scale(entry, None, of_case) for entry, of_case in zip(known, dice, strict=True)]
    for cases, lowest, highest in ((scored, 0.6, 1.0), (blind, -0.4, 0.4)):
        (fitted,), _ = fit_calibration(cases, np.arange(80) % 5, **NAMES)
        assert lowest < fitted.dice.quality.rank_correlation < highest
        new = list_regressors(scored[0].features, 0)
        assert fitted.dice.regression.estimate(new).value == pytest.approx(dice[0], abs=0.03 if lowest > 0 else 0.1)


def test_a_calibration_that_knows_fewer_features_takes_those_that_it_knows(calibration) -> None:
    regression = calibration.classes[0].dice.regression
    features = list_regressors(build_features(), 0)
    assert len(features) == len(regression.weights)
    names = ("centres", "scales", "weights")
    plain = regression.model_copy(update={"product_weights": ()})  # as those of earlier versions, which had none
    earlier = plain.model_copy(update={name: getattr(plain, name)[:-1] for name in names})
    assert earlier.estimate(features).value == pytest.approx(plain.estimate(features).value)


def test_a_class_that_is_not_predicted_has_a_volume_of_0_and_no_estimate(calibration) -> None:
    found = estimate(calibration, build_features(False))
    assert found.classes["organ"].volume.value == 0
    assert found.classes["organ"].dice is None
    assert [flag.kind for flag in found.flags] == ["missing class"]


def test_cases_are_sorted_by_what_a_person_should_look_at_first(calibration) -> None:
    cases = {
        "usual": build_features(),
        "poor": build_features(probabilities=build_probabilities(0.8)),
        "large": build_features(build_shape(40.0)),
        "missing": build_features(False),
    }
    found = {name: estimate(calibration, features).urgency for name, features in cases.items()}
    assert sorted(found, key=found.__getitem__) == ["missing", "large", "poor", "usual"]


def test_a_calibration_is_a_strict_document_without_names_of_cases(calibration, tmp_path) -> None:
    path = tmp_path / CALIBRATION_NAME
    write_document(path, calibration)
    assert read_document(path, QualityCalibration) == calibration
    path.write_text(path.read_text().replace('"cases": 80', '"cases": -1, "patient": "Doe"', 1))
    with pytest.raises(DocumentError, match=r"quality_calibration\.json: cases"):
        read_document(path, QualityCalibration)
