"""Centre distance of objects: its steps as labels, and objects that only it separates."""

import numpy as np
import pytest
from builders.labels import build_labels
from builders.objects import CELLS, CENTRED, answer_perfectly, are_same_objects, build_picture_grid, draw_balls

from autoseg.geometry import FloatTriple, Grid
from autoseg.labels import InstanceTargets
from autoseg.postprocessing.instances import CoreMaps, ObjectRule, build_core_maps, find_objects
from autoseg.preprocessing.instance_targets import build_core_and_border
from autoseg.workflows.select.objects import choose_rules, match_case

WHOLE = (slice(None), slice(None), slice(None))
BY_CENTRES = ObjectRule(name="cell", value=1, seeds="centres", seed_threshold=0.6)
BY_CORES = ObjectRule(name="cell", value=1)
TWO_CLASSES = InstanceTargets(
    labels=build_labels({"cell": (3,), "gland": (7,)}, ignore_value=9), border_fraction=0.25, centre_steps=2
)


@pytest.mark.parametrize("mm", [1.0, 2.5])
def test_steps_rise_from_the_border_to_the_centre_of_every_object_whatever_its_size(mm: float) -> None:
    numbers = np.zeros((1, 1, 25), np.int32)
    numbers[0, 0, 1:16], numbers[0, 0, 18:23] = 4, 7
    built = build_core_and_border(
        (numbers > 0).astype(np.int16), numbers, spacing_mm=(999.0, 999.0, mm), targets=CENTRED
    )
    large = [2, 2, 1, 1, 3, 3, 4, 4, 4, 3, 3, 1, 1, 2, 2]  # distances 1 to 8; from 4 and 6 of 8 on another step
    small = [2, 3, 4, 3, 2]  # distances 1 to 3: a third, two, three
    assert built[0, 0].tolist() == [0, *large, 0, 0, *small, 0, 0]
    assert CENTRED.target_labels.class_names == ("cell_core", "cell_border", "cell_centre_2", "cell_centre_3")
    assert CENTRED.part_distances == pytest.approx((1 / 3, 0.0, 2 / 3, 1.0))
    assert CENTRED.merge(built)[0, 0].tolist() == (numbers[0, 0] > 0).astype(int).tolist()
    cores = build_core_and_border((numbers > 0).astype(np.int16), numbers, spacing_mm=(999.0, 999.0, mm), targets=CELLS)
    assert np.array_equal(np.isin(built, (1, 3, 4)), cores == 1)


def test_voxels_that_touch_another_object_are_border_and_every_class_has_steps_of_its_own() -> None:
    assert TWO_CLASSES.target_labels.file_values == (0, 3, 7, 8, 10, 11, 12, 9)
    label_map, numbers = np.zeros((1, 1, 17), np.int16), np.zeros((1, 1, 17), np.int32)
    label_map[0, 0, 1:13], label_map[0, 0, 13:15], label_map[0, 0, 15:] = 1, 2, 3
    numbers[0, 0, 1:7], numbers[0, 0, 7:15] = 1, 2  # the second number stands for an object of either class
    built = build_core_and_border(label_map, numbers, spacing_mm=(999.0, 999.0, 1.0), targets=TWO_CLASSES)
    # The last object may continue in the ignored voxels beside it, which are no surface.
    assert built[0, 0].tolist() == [0, *([3, 5, 5, 5, 5, 3] * 2), 4, 6, 7, 7]
    assert TWO_CLASSES.merge(built)[0, 0].tolist() == label_map[0, 0].tolist()


def test_one_step_is_refused_and_none_leaves_documents_as_they_were() -> None:
    with pytest.raises(ValueError, match=r"centre_steps must be 0 or 2 to 16.*\(got 1\)"):
        InstanceTargets(labels=CELLS.labels, border_fraction=0.25, centre_steps=1)
    assert "centre_steps" not in CELLS.model_dump()
    assert InstanceTargets.model_validate(CENTRED.model_dump()) == CENTRED
    assert CELLS.part_distances == ()
    assert (
        answer_perfectly(*[np.zeros((1, 2, 2), np.int32)] * 2, spacing_mm=(1.0, 1.0, 1.0), targets=CELLS).centres
        is None
    )


def test_the_distance_of_a_voxel_is_the_expectation_over_the_parts_of_its_class() -> None:
    probabilities = np.array([0.2, 0.3, 0.1, 0.2, 0.2], np.float32).reshape(5, 1, 1, 1)
    maps = build_core_maps([(WHOLE, probabilities)], (1, 1, 1), CENTRED)
    assert maps.classes.item() == 1
    assert maps.probabilities.item() == pytest.approx(0.8)
    assert maps.cores.item() == pytest.approx(0.7 / 0.8)
    assert maps.centres is not None
    assert maps.centres.item() == pytest.approx((0.3 / 3 + 0.2 * 2 / 3 + 0.2) / 0.8)


def miss_borders_between(numbers: np.ndarray, spacing_mm: FloatTriple) -> CoreMaps:
    """A network that is right everywhere but between objects, where it sees the outermost step of a core."""
    built = build_core_and_border((numbers > 0).astype(np.int16), numbers, spacing_mm=spacing_mm, targets=CENTRED)
    together = np.where(numbers > 0, 1, 0).astype(np.int32)
    as_one = build_core_and_border(together.astype(np.int16), together, spacing_mm=spacing_mm, targets=CELLS)
    built = np.where((built == 2) & (as_one == 1), np.int16(1), built)
    probabilities = np.stack([built == label for label in range(5)]).astype(np.float32)
    return build_core_maps([(WHOLE, probabilities)], numbers.shape, CENTRED)


FLAT = (draw_balls((1, 30, 50), {1: ((0, 15, 15), 11), 2: ((0, 15, 33), 11)}), build_picture_grid((1, 30, 50)))
DEEP = (
    draw_balls((12, 30, 48), {1: ((6, 15, 15), 11), 2: ((6, 15, 33), 11)}),
    Grid(shape_voxels=(12, 30, 48), spacing_mm=(3.0, 1.0, 1.0)),
)


@pytest.mark.parametrize(("numbers", "grid"), [FLAT, DEEP], ids=["2d", "3d"])
def test_touching_objects_whose_cores_are_joined_are_separated_by_their_centres(
    numbers: np.ndarray, grid: Grid
) -> None:
    maps = miss_borders_between(numbers, grid.spacing_mm)
    joined = find_objects(maps, (BY_CORES,), grid=grid)
    assert joined.numbers.max() == 1
    found = find_objects(maps, (BY_CENTRES,), grid=grid)
    assert are_same_objects(found.numbers, numbers)


def test_selection_learns_from_held_out_cases_whether_seeds_are_cores_or_centres() -> None:
    numbers, grid = FLAT
    is_class = (numbers > 0).astype(np.int16)
    wrong = miss_borders_between(numbers, grid.spacing_mm)
    right = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=CENTRED)
    for maps, seeds in ((wrong, "centres"), (right, "cores")):
        found = [match_case(maps, is_class, numbers, targets=CENTRED, grid=grid)] * 4
        choice, precision, _ = choose_rules(found, CENTRED, blocks=np.arange(4) % 2)
        assert choice.rules[0].seeds == seeds
        assert precision.tolist() == [[1.0]] * 4
    assert match_case(right, is_class, numbers, targets=CELLS, grid=grid).centred == ()
    assert BY_CENTRES.describe() == "objects of cell grow from centre distances of at least 0.6"
