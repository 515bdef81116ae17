import pytest
from builders.labels import build_labels

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.plan import TRANSFORM_PLANS, TrainingPlan
from autoseg.plan.augmentation import MirrorPairsPlan, find_problems
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from planners.rules.augmentation import choose_augmentation
from planners.rules.training import build_training

TRANSFORMS = [
    part.model_dump(mode="json") for part in (*choose_augmentation((32, 32, 32)).value, *REFERENCE_MASK_TRANSFORMS)
]
TRAINING = build_training(batch_size=2, batch_dice=False, transforms=()).model_dump(mode="json")
RANGES = [
    (position, name, field)
    for position, (name, part) in enumerate((part["name"], part) for part in TRANSFORMS)
    for field in part
    if "_range" in field
]


NOT_OF_THE_REFERENCE = {"deformation", "saturation", "hue", "stain", "mirror_pairs", "simulated_clicks"}


def parse(transforms):
    return parse_part(TRAINING | {"transforms": transforms}, TrainingPlan, where="plan.json").transforms


def replace_field(position, field, value):
    return [part | {field: value} if number == position else part for number, part in enumerate(TRANSFORMS)]


def test_the_reference_lists_every_kind_and_is_read_as_it_is_written():
    assert {part["name"] for part in TRANSFORMS} == set(TRANSFORM_PLANS) - NOT_OF_THE_REFERENCE
    assert [part.model_dump(mode="json") for part in parse(TRANSFORMS)] == TRANSFORMS
    assert len(RANGES) == 9


def test_every_kind_is_in_the_table_under_its_own_name():
    assert all(kind.model_fields["name"].default == name for name, kind in TRANSFORM_PLANS.items())


@pytest.mark.parametrize(("position", "name", "field"), RANGES)
def test_every_range_has_its_limits_in_order(position, name, field):
    lower, upper = TRANSFORMS[position][field]
    message = rf"^plan\.json: transforms\.{position}\.{field}: must be a lower and an upper limit .*\(got {upper}"
    with pytest.raises(DocumentError, match=message):
        parse(replace_field(position, field, [upper, lower]))
    parse(replace_field(position, field, [upper, upper]))


@pytest.mark.parametrize(("position", "name", "field"), RANGES)
def test_no_range_reaches_below_what_makes_sense(position, name, field):
    upper = TRANSFORMS[position][field][1]
    with pytest.raises(DocumentError, match=rf"transforms\.{position}\.{field}\.0: .*greater than.*\(got -0\.1\)"):
        parse(replace_field(position, field, [-0.1, upper]))


@pytest.mark.parametrize("name", ["scaling_range", "factor_range", "zoom_range", "exponent_range"])
def test_a_factor_is_never_zero(name):
    position = next(position for position, _, field in RANGES if field == name)
    with pytest.raises(DocumentError, match=rf"{name}\.0: .*greater than 0"):
        parse(replace_field(position, name, [0, 1]))


@pytest.mark.parametrize(("name", "limits"), [("zoom_range", [0.5, 1.5]), ("std_range", [0.0, float("inf")])])
def test_upper_limits_are_checked_too(name, limits):
    position = next(position for position, _, field in RANGES if field == name)
    with pytest.raises(DocumentError, match=rf"{name}\.1: "):
        parse(replace_field(position, name, limits))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"name": "contrst"}], r"transforms\.0: 'name' must be one of spatial, .* \(did you mean 'contrast'\?\)"),
        ([{"probability": 1}], r"transforms\.0: 'name' is missing; it must be one of spatial, "),
        ([{"name": "noise", "std_range": [0, 1]}], r"transforms\.0\.probability: is missing"),
        ([TRANSFORMS[1] | {"sigma": 1}], r"transforms\.0\.sigma: unknown key"),
        ([TRANSFORMS[1], TRANSFORMS[0]], r"transforms: 'spatial' must be the first .* \(found at 1\): it crops"),
        ([TRANSFORMS[0]] * 2, r"transforms: 'spatial' must be the first transform and stand once \(found at 0, 1\)"),
        ([TRANSFORMS[8]] * 2, r"transforms: 'mirror' must stand once \(found at 0, 1\): prediction averages"),
        ([{"name": "mirror", "axes": []}], r"transforms\.0\.axes: "),
        ([{"name": "mirror", "axes": [3]}], r"transforms\.0\.axes\.0: .*less than or equal to 2"),
    ],
)
def test_nonsense_is_refused_with_its_place(transforms, message):
    with pytest.raises(DocumentError, match=message):
        parse(transforms)


def test_most_transforms_may_stand_twice_and_in_any_order():
    spatial, *others = TRANSFORMS[:8]
    again = [spatial, *reversed(others), *others]
    assert [part.model_dump(mode="json") for part in parse(again)] == again


PAIRS = {"name": "mirror_pairs", "axis": 0, "pairs": [[1, 2]]}
SIDED = build_labels({"left": (1,), "right": (2,), "middle": (3,)}, ignore_value=9)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([PAIRS, PAIRS], r"'mirror_pairs' must stand once \(found at 0, 1\)"),
        ([PAIRS, {"name": "mirror", "axes": [1, 0]}], r"must flip different axes \(got 1, 0, 0\)"),
        ([PAIRS | {"pairs": []}], "pairs"),
        ([PAIRS | {"axis": 3}], "axis"),
    ],
)
def test_sides_are_mirrored_once_and_along_an_axis_of_their_own(transforms, message):
    with pytest.raises(DocumentError, match=message):
        parse(transforms)
    parse([PAIRS, {"name": "mirror", "axes": [1, 2]}])


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        (((1, 2),), None),
        (((1, 2), (2, 3)), "once each"),
        (((0, 1),), "foreground labels, from 1 to 3"),
        (((1, 4),), "foreground labels, from 1 to 3"),
    ],
)
def test_pairs_hold_foreground_labels_once_each(pairs, problem):
    found = MirrorPairsPlan(axis=0, pairs=pairs).find_label_problem(SIDED)
    assert (found is None) if problem is None else (problem in found)


def test_regions_need_a_counterpart_on_the_other_side():
    one_sided = build_labels({"both": (1, 2), "left": (1,)}, region_write_values=(2, 1))
    found = MirrorPairsPlan(axis=0, pairs=((1, 2),)).find_label_problem(one_sided)
    assert "a region must become a region" in found


def test_sides_are_not_mirrored_where_masks_of_a_previous_stage_are_an_input():
    transforms = (MirrorPairsPlan(axis=1, pairs=((1, 2),)),)
    assert find_problems(transforms, 2, stage_input=None) == []
    (problem,) = find_problems(transforms, 2, stage_input="masks")
    assert "does not exchange the masks of a previous stage" in problem
    (problem,) = find_problems((MirrorPairsPlan(axis=2, pairs=((1, 2),)),), 2, stage_input=None)
    assert "axis must be below 2 (got 2)" in problem
