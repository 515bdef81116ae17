import numpy as np
from builders.labels import build_labels, build_plain_labels

from autoseg.preprocessing.class_locations import MIN_LOCATIONS, find_class_locations


def look_up(label_map: np.ndarray, locations: np.ndarray) -> np.ndarray:
    values: np.ndarray = label_map[tuple(locations.T)]
    return values


def test_all_voxels_of_a_small_class_are_found_once() -> None:
    label_map = np.random.default_rng(0).integers(-1, 4, (9, 8, 7)).astype(np.int16)

    found = find_class_locations(label_map, build_plain_labels(3))

    for index, label in enumerate((1, 2, 3)):
        expected = {tuple(row) for row in np.argwhere(label_map == label).tolist()}
        rows = [tuple(row) for row in found.of_class(index).tolist()]
        assert len(rows) == len(expected)
        assert set(rows) == expected
    assert found.of_annotated is None
    assert found.coordinates.dtype == np.int32


def test_a_class_that_does_not_occur_has_no_locations() -> None:
    label_map = np.zeros((4, 4, 4), dtype=np.int16)
    label_map[1, 2, 3] = 2

    found = find_class_locations(label_map, build_plain_labels(3))

    assert [len(found.of_class(index)) for index in range(3)] == [0, 1, 0]
    assert found.of_class(1).tolist() == [[1, 2, 3]]


def test_a_label_map_of_background_alone_has_no_locations() -> None:
    found = find_class_locations(np.zeros((2, 2, 2), dtype=np.int16), build_plain_labels(2))

    assert found.coordinates.shape == (0, 3)


def test_a_middling_class_keeps_ten_thousand_and_a_large_one_a_hundredth() -> None:
    label_map = np.ones((20, 300, 201), dtype=np.int16)
    label_map[:, :40] = 2

    found = find_class_locations(label_map, build_plain_labels(2))

    large, middling = found.of_class(0), found.of_class(1)
    assert len(large) == int(np.ceil(0.01 * (label_map == 1).sum()))
    assert len(middling) == MIN_LOCATIONS
    assert len({tuple(row) for row in middling.tolist()}) == MIN_LOCATIONS
    assert (look_up(label_map, large) == 1).all()
    assert (look_up(label_map, middling) == 2).all()
    for axis in range(3):  # spread over the class, not taken from one end
        extent = label_map.shape[axis] if axis != 1 else 40
        assert abs(middling[:, axis].mean() / ((extent - 1) / 2) - 1) < 0.05


def test_the_same_label_map_gives_the_same_locations() -> None:
    label_map = np.ones((20, 40, 40), dtype=np.int16)

    first, second = (find_class_locations(label_map, build_plain_labels(1)) for _ in range(2))

    assert len(first.coordinates) == MIN_LOCATIONS
    np.testing.assert_array_equal(first.coordinates, second.coordinates)


def test_locations_of_a_region_are_those_of_all_its_labels() -> None:
    labels = build_labels({"whole": (1, 3), "core": (3,)}, region_write_values=(1, 3))
    label_map = np.zeros((4, 5, 6), dtype=np.int16)
    label_map[0, 0, :2] = 1
    label_map[3, 4, 5] = 2  # internal label of the value 3

    found = find_class_locations(label_map, labels)

    assert sorted(found.of_class(0).tolist()) == [[0, 0, 0], [0, 0, 1], [3, 4, 5]]
    assert found.of_class(1).tolist() == [[3, 4, 5]]


def test_annotated_voxels_are_all_but_the_ignored_ones() -> None:
    label_map = np.full((3, 4, 5), 3, dtype=np.int16)
    label_map[1, 2] = [-1, 0, 1, 2, 3]

    found = find_class_locations(label_map, build_plain_labels(2, with_ignore=True))

    assert found.of_annotated is not None
    assert sorted(look_up(label_map, found.of_annotated).tolist()) == [-1, 0, 1, 2]
    assert [len(found.of_class(index)) for index in range(2)] == [1, 1]


def test_a_fully_ignored_label_map_has_no_annotated_voxels() -> None:
    found = find_class_locations(np.full((3, 4, 5), 3, dtype=np.int16), build_plain_labels(2, with_ignore=True))

    assert found.of_annotated is not None
    assert found.of_annotated.shape == (0, 3)
