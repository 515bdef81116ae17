"""However an image is stored, its anatomy gets the same labels, on the grid of its file."""

from itertools import permutations, product

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.plans import build_channels, build_configuration, build_plan

from autoseg.geometry import Grid, compute_reorientation
from autoseg.inference.model import load_model

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
GRID = Grid(shape_voxels=(9, 12, 11), spacing_mm=(2.5, 1.1, 0.7), origin_mm=(-7.5, 30.25, 4.0))  # axes RAS


def make_image():
    """Noise with an empty margin, so that there is something to crop."""
    array = np.zeros((1, *GRID.shape_voxels), np.float32)
    array[:, 1:, :-1, 2:] = np.random.default_rng(0).normal(300, 40, (1, 8, 11, 9))
    return array


@pytest.fixture
def model(tmp_path):
    configuration = build_configuration((8, 8, 8), spacing_mm=(2.0, 1.0, 1.0), mirror_axes=(0, 1, 2))
    plan = build_plan({"3d_fullres": configuration}, orientation="LPS", axis_permutation=(1, 0, 2))
    channels = build_channels("zscore", name="MR", inside_nonzero_only=True)
    write_trained_fold(tmp_path, plan.model_copy(update={"channels": channels}), "3d_fullres", fold="0")
    return load_model(tmp_path, device="cpu")


def test_all_48_orientations_of_an_image_get_the_same_labels_on_their_own_grids(model):
    array = make_image()
    expected = model.predict_volume(array, GRID)
    assert len(np.unique(expected)) > 1
    assert len(set(ORIENTATIONS)) == 48
    for code in ORIENTATIONS:
        turn = compute_reorientation("RAS", code)
        grid = turn.apply_to_grid(GRID)
        assert grid.orientation_code == code
        found = model.predict_volume(np.ascontiguousarray(turn.apply(array)), grid)
        assert found.shape == grid.shape_voxels
        np.testing.assert_array_equal(turn.inverse.apply(found), expected, err_msg=code)


def test_probabilities_come_back_bit_for_bit(model):
    array = make_image()
    expected = model.predict_probabilities(array, GRID)
    for code in ("LPS", "SAR", "AIL", "PRI"):
        turn = compute_reorientation("RAS", code)
        found = model.predict_probabilities(np.ascontiguousarray(turn.apply(array)), turn.apply_to_grid(GRID))
        np.testing.assert_array_equal(turn.inverse.apply(found), expected, err_msg=code)
