"""The box and the surface of the foreground are those of a hand-made case."""

import numpy as np
from builders.labels import build_labels

from autoseg.measurement.cases import measure_case

LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=9)
IGNORED = 3


def measure(label_map: np.ndarray, image: np.ndarray | None = None, labels=LABELS):
    shown = np.ones(label_map.shape, np.float32) if image is None else image
    return measure_case(
        "a", shown[None], label_map.astype(np.int16), spacing_mm=(1.0, 1.0, 1.0), labels=labels
    ).fingerprint


def test_a_cube_has_its_share_of_the_image_and_its_shell_is_the_surface() -> None:
    label_map = np.zeros((10, 10, 10))
    label_map[2:7, 2:7, 2:7] = 1
    shape = measure(label_map)
    assert (shape.foreground_box_fraction, shape.surface_fraction) == (
        125 / 1000,
        98 / 125,
    )  # but for 3 x 3 x 3 voxels inside


def test_labels_that_meet_are_surface_and_the_end_of_the_image_is_not() -> None:
    label_map = np.ones((1, 4, 6))
    assert measure(label_map).surface_fraction == 0
    label_map[0, :, 3:] = 2
    shape = measure(label_map)
    assert (shape.foreground_box_fraction, shape.surface_fraction) == (1, 8 / 24)


def test_the_crop_counts_and_ignored_voxels_are_no_foreground() -> None:
    label_map, image = np.zeros((4, 4, 8)), np.zeros((4, 4, 8), np.float32)
    image[:, :, 4:] = 1
    label_map[1:3, 1:3, 5:7] = 1
    label_map[0, :, 4:] = IGNORED
    found = measure(label_map, image)
    assert found.cropped_shape_voxels == (4, 4, 4)
    assert found.foreground_box_fraction == 8 / 64
    assert found.surface_fraction == 1
    assert found.ignored_fraction == 16 / 64


def test_nothing_is_measured_without_foreground_or_ignore_label() -> None:
    found = measure(np.zeros((2, 3, 4)), labels=build_labels({"one": (1,)}))
    assert (found.foreground_box_fraction, found.surface_fraction, found.ignored_fraction) == (None,) * 3
