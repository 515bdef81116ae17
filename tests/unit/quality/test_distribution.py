"""Flags of made-up cases that differ from known ones in one way."""

import numpy as np
import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.labels import build_labels
from builders.quality import (
    THUMBNAIL,
    build_channel,
    build_features,
    build_image,
    build_probabilities,
    build_shape,
    draw_features,
)

from autoseg.quality.distribution import (
    USUAL_THRESHOLD,
    describe_training_grids,
    learn_distribution,
    list_values,
)

NAMES = {"channel_names": ("MRI",), "class_names": ("organ",)}


def find_flags(distribution, features):
    return distribution.find_flags(list_values(features, distribution.thumbnails, **NAMES))


@pytest.fixture(scope="module")
def known():
    return learn_distribution(draw_features(100), np.arange(100) % 5, **NAMES)


def test_few_usual_cases_are_flagged(known) -> None:
    flagged = [bool(find_flags(known, features)) for features in draw_features(400, seed=1)]
    assert 0.005 <= np.mean(flagged) <= 0.06
    assert known.is_calibrated


@pytest.mark.parametrize(
    ("features", "kind", "words"),
    [
        (build_features(image=build_image(spacing_mm=(3.0, 1.0, 1.0))), "spacing", "axis z: spacing 3 mm, in 100"),
        (build_features(image=build_image(extent_mm=(36.0, 25.0, 35.0))), "extent", "axis y: extent 25 mm"),
        (build_features(image=build_image(tilt_degrees=30.0)), "orientation", "tilt against the axes"),
        (
            build_features(image=build_image(build_channel(thumbnail=THUMBNAIL[::-1]))),
            "orientation",
            "correlation with the mean training image -1, in 100 training cases 1 to 1",
        ),
        (build_features(build_shape(centre=(0.5, 0.9, 0.5))), "orientation", "organ, axis y: centre at 0.9"),
        (build_features(image=build_image(build_channel(2.0))), "intensity", "MRI, percentile"),
        (build_features(image=build_image(build_channel(roughness=1.9))), "intensity", "second difference"),
        (build_features(build_shape(0.4)), "volume", "organ: volume 0.4 ml, in 100 training cases 1."),
        (build_features(build_shape(components=9)), "components", "9 components"),
        (build_features(build_shape(compactness=9.0)), "shape", "surface"),
        (build_features(build_shape(border_fraction=0.3)), "border", "share 0.3 of the surface on the border"),
        (build_features(probabilities=build_probabilities(0.3)), "probabilities", "soft Dice 0.3"),
        (build_features(False), "missing class", "organ is missing, which almost all of 100 training cases have"),
    ],
)
def test_a_case_that_differs_in_one_way_is_flagged_with_the_numbers(known, *, features, kind, words) -> None:
    flags = find_flags(known, features)
    assert {flag.kind for flag in flags} == {kind}
    assert any(words in flag.text for flag in flags)
    assert all(flag.deviation is None or flag.deviation > 1 for flag in flags)


def test_what_is_better_than_usual_is_no_flag(known) -> None:
    assert find_flags(known, build_features(probabilities=build_probabilities(0.999))) == ()


def test_few_cases_are_compared_by_a_guess_and_fewer_not_at_all() -> None:
    few = learn_distribution(draw_features(8), np.arange(8) % 2, **NAMES)
    assert (few.threshold, few.is_calibrated, few.cases) == (USUAL_THRESHOLD, False, 8)
    assert {flag.kind for flag in find_flags(few, build_features(build_shape(40.0)))} == {"volume"}
    none = learn_distribution(draw_features(3), np.zeros(3, int), **NAMES)
    assert (none.ranges, find_flags(none, build_features(build_shape(40.0)))) == ((), ())


def test_a_fingerprint_alone_tells_grids_and_volumes_in_plan_axes() -> None:
    cases = [build_case((1.0, 1.0, 3.0), (35, 50, 12), name=f"c{n}", voxel_counts=(700 + n,)) for n in range(6)]
    labels = build_labels({"organ": (1,)})
    fingerprint = build_fingerprint((1.0, 1.0, 3.0), (35, 50, 12), labels=labels, cases=cases)
    known = describe_training_grids(fingerprint, (2, 1, 0))
    usual = build_image(spacing_mm=(3.0, 1.0, 1.0))
    assert find_flags(known, build_features(build_shape(2.1), image=usual)) == ()
    flags = find_flags(known, build_features(build_shape(0.2), image=build_image()))
    assert [flag.kind for flag in flags] == ["volume", "spacing"]  # the most unusual first


@pytest.mark.parametrize("whole", [0, 5])
def test_volumes_of_which_a_part_may_be_ignored_are_not_compared(whole: int) -> None:
    cases = [
        build_case(voxel_counts=(70 if number else 7,), ignored_fraction=fraction)
        for number in range(2)
        for fraction in ([0.0] * whole if number else [0.9, 0.5, None, 0.9, 0.9])
    ]
    labels = build_labels({"organ": (1,)}, ignore_value=2)
    known = describe_training_grids(build_fingerprint((1, 1, 1), (4, 4, 4), labels=labels, cases=cases), (0, 1, 2))
    assert [(found.smallest, found.largest) for found in known.ranges if found.measure == "volume"] == (
        [(0.07, 0.07)] if whole else []
    )
    assert known.cases == 5 + whole
