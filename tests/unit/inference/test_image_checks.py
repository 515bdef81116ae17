"""An image that a wrong spacing makes far larger than any in training is refused; a large image is not."""

import math

import numpy as np
import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.plans import build_channels, build_configuration, build_plan

from autoseg.document import write_document
from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.inference.image_checks import check_grid, check_volume, find_largest_training_grid
from autoseg.run_folder import RunFolder

PLAN = build_plan(
    {"3d_fullres": build_configuration((8, 8, 8)), "2d": build_configuration((8, 8), data_of="2d")},
    axis_permutation=(1, 0, 2),
)
SHAPE = (10, 11, 12)
VOXELS = math.prod(SHAPE)


def check(spacing_mm, shape=SHAPE, *, configuration="3d_fullres", inside=slice(None), largest=VOXELS):
    array = np.zeros((1, *shape), np.float32)
    array[:, inside] = 1
    grid = Grid(shape_voxels=shape, spacing_mm=spacing_mm)
    check_grid(array, grid, PLAN, configuration, largest_voxels=largest)


def test_an_image_of_more_than_64_times_the_voxels_is_refused_with_the_numbers():
    check((4.0, 4.0, 4.0))
    words = (
        r"the image of 11 x 10 x 12 voxels at 4\.01 x 4\.01 x 4\.01 mm would be resampled to 1 x 1 x 1 mm, that is "
        r"44 x 40 x 48 voxels, which is 65 times as many as in training \(up to 1300\)"
    )
    with pytest.raises(PredictionError, match=words):
        check((4.01, 4.01, 4.01), largest=1300)


def test_what_is_cropped_away_does_not_count():
    check((20.0, 20.0, 20.0), inside=slice(0, 1), largest=VOXELS * 13)
    with pytest.raises(PredictionError, match="times as many as in training"):
        check((20.0, 20.0, 20.0), largest=VOXELS * 13)


def test_a_large_image_is_welcome_where_its_spacing_does_not_make_it_large():
    check((1.0, 1.0, 1.0), (50, 50, 50), largest=1000)
    check((1.2, 1.2, 1.2), (50, 50, 50), largest=1000)
    with pytest.raises(PredictionError, match="times as many as in training"):
        check((2.0, 2.0, 2.0), (50, 50, 50), largest=1000)


def test_slices_do_not_count_for_a_2d_configuration():
    check((4.0, 4.0, 4.0), (10, 900, 12), configuration="2d", largest=120)
    with pytest.raises(PredictionError, match="times as many as in training"):
        check((9.0, 9.0, 9.0), configuration="2d", largest=120)


def test_nothing_is_refused_where_no_training_is_known():
    check((1e3, 1e3, 1e3), largest=None)


def test_the_largest_training_image_is_that_of_the_fingerprint_else_a_multiple_of_the_median(tmp_path, caplog):
    run = RunFolder(tmp_path)
    assert find_largest_training_grid(run, PLAN, "3d_fullres") == 4 * 8**3
    cases = (build_case((2.0, 1.0, 1.0), (5, 6, 7)), build_case((1.0, 1.0, 1.0), (9, 6, 7)))
    write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (1, 1, 1), cases=cases))
    assert find_largest_training_grid(run, PLAN, "3d_fullres") == 10 * 6 * 7
    assert find_largest_training_grid(run, PLAN, "2d") == 10 * 7
    run.fingerprint.write_text("{}")
    assert find_largest_training_grid(run, PLAN, "2d") == 4 * 8**2
    assert "sizes of the training images are not known" in caplog.text


def test_odd_intensities_are_returned_or_refused_unless_the_window_clips_them():
    image = np.random.default_rng(0).normal(100, 10, (1, *SHAPE)).astype(np.float32)
    image[0, 1, 1, 1] = 1e25
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    of_ct, of_mr = (PLAN.model_copy(update={"channels": build_channels(scheme)}) for scheme in ("ct", "zscore"))
    assert check_volume(image, grid, of_ct) == ()
    with pytest.raises(PredictionError, match=r"1 voxel of 1e\+25"):
        check_volume(image, grid, of_mr)
    image[0, 1, 1, 1] = 1e9
    (warning,) = check_volume(image, grid, of_mr)
    assert "1 voxel of 1e+09" in warning
