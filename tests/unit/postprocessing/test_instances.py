"""Rules by which objects are found, and the table of the objects."""

import csv
import io
import tracemalloc

import numpy as np
import pytest
from builders.objects import CELLS, build_picture_grid

from autoseg.geometry import Grid
from autoseg.postprocessing.instances import ObjectRule, build_core_maps, build_usual_rules, find_objects
from autoseg.postprocessing.object_table import describe_objects, format_rows, is_described

SHAPE = (1, 1, 13)
WHOLE = (slice(None), slice(None), slice(None))


def build_maps(cores: list[float]):
    """A row of pixels of a class, of which some have a core of this share."""
    cores_of = np.array(cores, np.float32).reshape(SHAPE)
    is_class = (cores_of > 0).astype(np.float32)
    probabilities = np.stack([1 - 0.8 * is_class, 0.8 * cores_of, 0.8 * is_class * (1 - cores_of)])
    return build_core_maps([(WHOLE, probabilities)], SHAPE, CELLS)


ROW = [0.9, 0.6, 0.1, 0.1, 0.6, 0.7, 0.4, 0.2, 0.9, 0.0, 0.1, 0.1, 0.0]


@pytest.mark.parametrize(
    ("threshold", "minimum", "expected"),
    [
        (0.5, 0.0, [1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 4, 4, 0]),
        (0.8, 0.0, [1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 3, 3, 0]),
        (0.5, 3.0, [1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0]),
        (0.95, 0.0, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 2, 0]),  # without any seed: components
    ],
)
def test_objects_grow_from_seeds_and_small_ones_become_background(
    threshold: float, minimum: float, expected: list[int]
) -> None:
    rule = ObjectRule(name="cell", value=1, seed_threshold=threshold, minimum_mm3=minimum, unit="pixel")
    found = find_objects(build_maps(ROW), (rule,), grid=build_picture_grid(SHAPE))
    assert found.numbers[0, 0].tolist() == expected
    assert found.voxels.tolist() == np.bincount(expected)[1:].tolist()


def test_core_and_border_vote_together_for_their_class() -> None:
    probabilities = np.array([0.4, 0.3, 0.3], np.float32).reshape(3, 1, 1, 1)
    maps = build_core_maps([(WHOLE, probabilities)], (1, 1, 1), CELLS)
    assert maps.classes.item() == 1
    assert maps.probabilities.item() == pytest.approx(0.6)
    assert maps.cores.item() == pytest.approx(0.5)


def test_table_has_a_row_for_each_object_with_its_place_and_size() -> None:
    maps = build_maps(ROW)
    rules = build_usual_rules(CELLS.labels)
    for grid, size, unit in (
        (build_picture_grid(SHAPE), 4.0, "pixel"),
        (Grid(shape_voxels=SHAPE, spacing_mm=(5.0, 2.0, 0.5)), 4.0, "mm2"),
    ):
        rows = describe_objects(
            find_objects(maps, rules, grid=grid), maps.probabilities, case="a", rules=rules, grid=grid
        )
        assert [(row.object, row.class_name, row.voxels) for row in rows] == [
            (i, "cell", v) for i, v in ((1, 3), (2, 4), (3, 2), (4, 2))
        ]
        second = rows[1]
        assert (second.size, second.unit) == (size, unit)
        assert (second.centroid_x, second.first_x, second.last_x, second.first_y, second.last_z) == (4.5, 3, 6, 0, 0)
        assert second.mean_probability == pytest.approx(0.8)
    numbers = find_objects(maps, rules, grid=grid).numbers
    assert is_described(numbers, format_rows(rows))
    for number in (-1, 0, 2):
        assert not is_described(np.where(numbers == 1, number, numbers), format_rows(rows))
    tracemalloc.start()
    assert not is_described(np.where(numbers == 1, 2**20, numbers), format_rows(rows))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20  # not a place for each number up to that of another program
    read = list(csv.DictReader(io.StringIO(format_rows(rows))))
    assert [entry["object"] for entry in read] == ["1", "2", "3", "4"]
    assert read[0]["case"] == "a"


def test_volumes_are_in_millilitres() -> None:
    shape = (4, 4, 4)
    probabilities = np.zeros((3, *shape), np.float32)
    probabilities[1] = 1.0
    maps, rules = build_core_maps([(WHOLE, probabilities)], shape, CELLS), build_usual_rules(CELLS.labels)
    grid = Grid(shape_voxels=shape, spacing_mm=(3.0, 0.23, 0.6))
    (row,) = describe_objects(
        find_objects(maps, rules, grid=grid), maps.probabilities, case="a", rules=rules, grid=grid
    )
    assert (row.size, row.unit) == (0.026496, "ml")  # not 0.026496000000000002


def test_rules_say_what_they_do() -> None:
    (usual,) = build_usual_rules(CELLS.labels)
    assert usual.describe() == "objects of cell grow from cores of at least 0.5"
    strict = usual.model_copy(update={"minimum_mm3": 12.0, "unit": "pixel"})
    assert strict.describe() == "objects of cell grow from cores of at least 0.5, of at least 12 pixels"
