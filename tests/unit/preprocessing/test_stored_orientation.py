"""Preprocessed arrays do not depend on how the file stores the image, to the last bit."""

from itertools import permutations, product

import numpy as np
import pytest
from builders.plans import build_preprocessing_plan
from builders.preprocessing import preprocess_training_case

from autoseg.geometry import Grid, compute_reorientation

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
GRID = Grid(shape_voxels=(37, 41, 43), spacing_mm=(3.1, 0.7, 0.9))  # axes RAS


@pytest.mark.parametrize("inside_nonzero_only", [False, True])
def test_statistics_do_not_depend_on_the_memory_order(inside_nonzero_only: bool) -> None:
    plan = build_preprocessing_plan(
        spacings_mm={"3d_fullres": (0.9, 3.1, 0.7)},
        orientation="LAS",
        axis_permutation=(2, 0, 1),
        inside_nonzero_only=inside_nonzero_only,
    )
    image = np.random.default_rng(0).lognormal(3, 2, (1, *GRID.shape_voxels)).astype(np.float32)
    label_map = (image[0] > 30).astype(np.int16)
    expected = preprocess_training_case(image, label_map, GRID, plan, configuration="3d_fullres")
    for code in ORIENTATIONS:
        turn = compute_reorientation("RAS", code)
        stored, labels = np.ascontiguousarray(turn.apply(image)), np.ascontiguousarray(turn.apply(label_map))
        found = preprocess_training_case(stored, labels, turn.apply_to_grid(GRID), plan, configuration="3d_fullres")
        np.testing.assert_array_equal(found.image, expected.image, err_msg=code)
        np.testing.assert_array_equal(found.label_map, expected.label_map, err_msg=code)
        assert found.geometry.cropped_spacing_mm == expected.geometry.cropped_spacing_mm
        assert found.geometry.target_spacing_mm == expected.geometry.target_spacing_mm
