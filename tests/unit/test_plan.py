import pytest

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.plan import AugmentationPlan
from planners.augmentation import choose_augmentation

AUGMENTATION = choose_augmentation((32, 32, 32)).value.model_dump(mode="json")
RANGES = [name for name in AUGMENTATION if "_range" in name or "radius" in name]


def test_there_are_ranges_and_planned_ones_are_right():
    assert len(RANGES) == 8
    assert parse_part(AUGMENTATION, AugmentationPlan, where="plan.json").model_dump(mode="json") == AUGMENTATION


@pytest.mark.parametrize("name", RANGES)
def test_every_range_has_its_limits_in_order(name):
    lower, upper = AUGMENTATION[name]
    with pytest.raises(
        DocumentError, match=rf"^plan\.json: {name}: must be a lower and an upper limit .*\(got {upper}"
    ):
        parse_part(AUGMENTATION | {name: [upper, lower]}, AugmentationPlan, where="plan.json")
    parse_part(AUGMENTATION | {name: [upper, upper]}, AugmentationPlan, where="plan.json")


@pytest.mark.parametrize("name", RANGES)
def test_no_range_reaches_below_what_makes_sense(name):
    upper = AUGMENTATION[name][1]
    with pytest.raises(DocumentError, match=rf"^plan\.json: {name}\.0: .*greater than.*\(got -0\.1\)"):
        parse_part(AUGMENTATION | {name: [-0.1, upper]}, AugmentationPlan, where="plan.json")


@pytest.mark.parametrize("name", ["scaling_range", "brightness_range", "contrast_range", "low_resolution_range"])
def test_a_factor_is_never_zero(name):
    with pytest.raises(DocumentError, match=rf"{name}\.0: .*greater than 0"):
        parse_part(AUGMENTATION | {name: [0, 1]}, AugmentationPlan, where="plan.json")


@pytest.mark.parametrize(
    ("name", "limits"), [("low_resolution_range", [0.5, 1.5]), ("noise_std_range", [0.0, float("inf")])]
)
def test_upper_limits_are_checked_too(name, limits):
    with pytest.raises(DocumentError, match=rf"{name}\.1: "):
        parse_part(AUGMENTATION | {name: limits}, AugmentationPlan, where="plan.json")
