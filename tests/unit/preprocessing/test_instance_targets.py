"""Core and border of objects, from which a watershed finds exactly the same objects again."""

import numpy as np
import pytest
from builders.labels import build_labels
from builders.objects import (
    CELLS,
    TWO_CLASSES,
    answer_perfectly,
    are_same_objects,
    build_picture_grid,
    draw_balls,
)

from autoseg.geometry import FloatTriple, Grid
from autoseg.labels import InstanceTargets
from autoseg.postprocessing.instances import build_usual_rules, find_objects
from autoseg.preprocessing.instance_targets import build_core_and_border

FLAT: FloatTriple = (999.0, 1.0, 1.0)


def build(label_map: np.ndarray, numbers: np.ndarray, targets: InstanceTargets = CELLS) -> np.ndarray:
    return build_core_and_border(label_map.astype(np.int16), numbers, spacing_mm=FLAT, targets=targets)


def find(numbers: np.ndarray, grid: Grid) -> np.ndarray:
    maps = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=CELLS)
    return find_objects(maps, build_usual_rules(CELLS.labels), grid=grid).numbers


def test_touching_discs_are_separated_exactly() -> None:
    numbers = draw_balls((1, 60, 60), {4: ((0, 20, 15), 10), 9: ((0, 20, 35), 10), 7: ((0, 38, 25), 10)})
    found = find(numbers, build_picture_grid((1, 60, 60)))
    assert found.max() == 3
    assert are_same_objects(found, numbers)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_touching_balls_are_separated_along_every_axis_and_at_any_spacing(spacing_mm: FloatTriple) -> None:
    numbers = draw_balls((24, 24, 24), {1: ((6, 8, 8), 5), 2: ((17, 8, 8), 5), 3: ((6, 19, 8), 5), 4: ((6, 8, 19), 5)})
    assert are_same_objects(find(numbers, Grid(shape_voxels=(24, 24, 24), spacing_mm=spacing_mm)), numbers)


def test_border_grows_with_the_object_and_leaves_every_object_a_core() -> None:
    numbers = draw_balls((1, 60, 60), {1: ((0, 30, 30), 20), 2: ((0, 5, 5), 2), 3: ((0, 55, 5), 0.5)})
    built = build(numbers > 0, numbers)[0]
    assert built[30].tolist() == [0] * 10 + [2] * 5 + [1] * 31 + [2] * 5 + [0] * 9  # 5 of 21 from the surface
    assert (built[:10, :10] == 1).sum() == 5  # of the 13 pixels of a small one
    assert built[55, 5] == 1
    assert not np.any((built > 0) != (numbers[0] > 0))


def test_border_of_a_picture_is_one_pixel_wide_whatever_the_thickness_of_its_slice() -> None:
    numbers = draw_balls((1, 20, 20), {1: ((0, 6, 6), 3), 2: ((0, 6, 13), 3)})
    thin = build_core_and_border((numbers > 0).astype(np.int16), numbers, spacing_mm=(0.1, 1.0, 1.0), targets=CELLS)
    assert np.array_equal(thin, build(numbers > 0, numbers))
    assert (thin == 2).any()


def test_end_of_the_image_is_no_surface() -> None:
    numbers = np.full((1, 6, 9), 3, np.int32)
    assert (build(numbers > 0, numbers) == 1).all()
    numbers[..., 5:] = 0
    assert build(numbers > 0, numbers)[0, 0].tolist() == [1, 1, 1, 1, 2, 0, 0, 0, 0]  # 1.25 of the distance 5


@pytest.mark.parametrize("centre_steps", [0, 4])
def test_ignored_slices_are_no_surface(centre_steps: int) -> None:
    labels = build_labels({"cell": (1,)}, ignore_value=2)
    targets = InstanceTargets(labels=labels, border_fraction=0.25, centre_steps=centre_steps)
    numbers = draw_balls((9, 40, 40), {1: ((4, 18, 12), 9), 2: ((4, 18, 30), 6)})
    label_map = (numbers > 0).astype(np.int16)
    label_map[np.arange(9) != 4] = 2
    built = build_core_and_border(label_map, numbers, spacing_mm=(1.0, 1.0, 1.0), targets=targets)
    in_plane = build(label_map[4:5] == 1, numbers[4:5], targets)
    assert (in_plane == 2).sum() > 40  # border
    assert np.array_equal(built[4:5], in_plane)
    assert (built[np.arange(9) != 4] == targets.target_labels.ignore_label).all()


def test_an_object_that_continues_in_ignored_voxels_is_core_there() -> None:
    targets = InstanceTargets(labels=build_labels({"cell": (1,)}, ignore_value=2), border_fraction=0.25)
    label_map = np.array([[[0, 1, 1, 1, 1, 1, 2, 2, 0, 0]]] * 3, np.int16).repeat(5, axis=1)
    numbers = (label_map % 2).astype(np.int32)
    built = build_core_and_border(label_map, numbers, spacing_mm=(1.0, 1.0, 1.0), targets=targets)
    assert built[1, 2].tolist() == [0, 2, 1, 1, 1, 1, 3, 3, 0, 0]


def test_numbers_may_have_gaps_and_exceed_sixteen_bits() -> None:
    numbers = draw_balls((1, 30, 50), {3: ((0, 15, 12), 10), 200_000: ((0, 15, 32), 10)})
    assert are_same_objects(find(numbers, build_picture_grid((1, 30, 50))), numbers)


def test_parts_of_an_object_that_are_apart_have_cores_of_their_own() -> None:
    numbers = draw_balls((1, 30, 50), {1: ((0, 15, 12), 10), 2: ((0, 15, 40), 3)})
    numbers[numbers > 0] = 6
    built = build(numbers > 0, numbers)[0]
    assert built[15, 12] == 1
    assert built[15, 40] == 1


def test_classes_have_cores_and_borders_of_their_own_and_touch_without_a_border() -> None:
    assert TWO_CLASSES.target_labels.file_values == (0, 3, 7, 8, 10, 9)
    assert TWO_CLASSES.target_labels.class_names == ("cell_core", "gland_core", "cell_border", "gland_border")
    label_map, numbers = np.zeros((1, 1, 12), np.int16), np.zeros((1, 1, 12), np.int32)
    label_map[0, 0, :4], label_map[0, 0, 4:8], label_map[0, 0, 10:] = 1, 2, 3
    numbers[0, 0, :8] = 1  # one number for both, which are two objects
    built = build_core_and_border(label_map, numbers, spacing_mm=(999.0, 999.0, 1.0), targets=TWO_CLASSES)
    assert built[0, 0].tolist() == [1, 1, 1, 3, 4, 2, 2, 4, 0, 0, 5, 5]
    assert TWO_CLASSES.merge(built)[0, 0].tolist() == label_map[0, 0].tolist()


def test_foreground_without_number_is_taken_apart_by_components() -> None:
    numbers = draw_balls((1, 30, 60), {1: ((0, 15, 12), 10), 2: ((0, 15, 45), 8)})
    some = np.where(numbers == 2, 0, numbers)
    assert np.array_equal(build(numbers > 0, some), build(numbers > 0, numbers))


def test_image_without_objects_has_neither_core_nor_border() -> None:
    numbers = np.zeros((1, 8, 8), np.int32)
    assert not build(numbers, numbers).any()
    assert not find(numbers, build_picture_grid((1, 8, 8))).any()
