import numpy as np
import pytest
from builders.geometries import build_geometry

from autoseg.errors import RunError
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.previous_stage import (
    PredictionSource,
    append_masks,
    encode_masks,
    is_prediction_current,
    open_case_with_prediction,
    read_network_input,
    write_prediction,
)

SHAPE = (4, 5, 6)
SOURCE = PredictionSource(configuration="3d_lowres", fold="2", weights_sha256="abc")


def make_geometry(shape_voxels=SHAPE, spacing=1.0):
    return build_geometry(shape_voxels, target_spacing_mm=(spacing,) * 3)


@pytest.fixture
def label_map():
    return np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.int16)


@pytest.fixture
def stored(tmp_path, label_map):
    """A preprocessed case, and what a previous stage predicts for it."""
    image = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    case = PreprocessedCase(image=image, label_map=np.zeros(SHAPE, np.int16), geometry=make_geometry())
    nothing = ClassLocations(coordinates=np.zeros((0, 3), np.int32), class_ranges=((0, 0),) * 3, annotated_range=None)
    write_case(tmp_path / "data", "a", case, locations=nothing, patch_voxels=(4, 4, 4))
    predict(tmp_path / "previous", label_map)
    return tmp_path


def predict(folder, label_map, *, source=SOURCE, geometry=None):
    write_prediction(
        folder, "a", label_map, source=source, geometry=geometry or make_geometry(), patch_voxels=(4, 4, 4)
    )


def is_current(folder, *, source=SOURCE, geometry=None):
    return is_prediction_current(folder, "a", source=source, geometry=geometry or make_geometry())


def test_a_case_is_opened_with_its_prediction(stored, label_map):
    case = open_case_with_prediction(stored / "data", stored / "previous", "a")
    assert np.array_equal(case.previous_label_map[:], label_map)
    assert np.array_equal(case.image[:], open_case(stored / "data", "a").image[:])
    assert open_case(stored / "data", "a").previous_label_map is None


def test_the_network_gets_the_image_and_one_mask_per_foreground_label(stored, label_map):
    case = open_case_with_prediction(stored / "data", stored / "previous", "a")
    full = read_network_input(case, (1, 2, 3))
    assert (full.shape, full.dtype) == ((5, *SHAPE), np.float32)
    assert np.array_equal(full[:2], case.image[:])
    for index, label in enumerate((1, 2, 3)):
        assert np.array_equal(full[2 + index], label_map == label)


def test_without_a_previous_stage_the_network_gets_the_image(stored):
    case = open_case(stored / "data", "a")
    assert np.array_equal(read_network_input(case, (1, 2, 3)), case.image[:])


def test_background_and_outside_are_in_no_mask():
    masks = encode_masks(np.array([[-1, 0, 1, 2]], np.int16), (1, 2))
    assert masks.tolist() == [[[False, False, True, False]], [[False, False, False, True]]]
    appended = append_masks(np.full((1, 1, 4), 7, np.float32), masks)
    assert appended[:, 0].tolist() == [[7, 7, 7, 7], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("change", [{"fold": "1"}, {"weights_sha256": "abd"}, {"configuration": "2d"}])
def test_a_prediction_of_other_weights_is_not_current(stored, change):
    assert is_current(stored / "previous")
    assert not is_current(stored / "previous", source=SOURCE.model_copy(update=change))


def test_a_prediction_for_another_grid_is_neither_current_nor_opened(stored, label_map):
    assert not is_current(stored / "previous", geometry=make_geometry(spacing=2.0))
    predict(stored / "previous", label_map, geometry=make_geometry(spacing=2.0))
    with pytest.raises(RunError, match=r"prediction of 'a'.*another grid.*autoseg train makes it"):
        open_case_with_prediction(stored / "data", stored / "previous", "a")


@pytest.mark.parametrize("name", ["a.previous.b2nd", "a.previous.json"])
def test_a_missing_or_shortened_file_is_noticed(stored, name):
    path = stored / "previous" / name
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_current(stored / "previous")
    with pytest.raises(RunError, match="prediction of 'a'"):
        open_case_with_prediction(stored / "data", stored / "previous", "a")
    path.unlink()
    assert not is_current(stored / "previous")
    with pytest.raises(RunError, match="prediction of 'a'"):
        open_case_with_prediction(stored / "data", stored / "previous", "a")


def test_an_interrupted_replacement_leaves_no_current_prediction(stored, label_map, monkeypatch):
    def fail(*arguments):
        msg = "the disk is full"
        raise RunError(msg)

    monkeypatch.setattr("autoseg.preprocessing.previous_stage.write_array", fail)
    with pytest.raises(RunError, match="disk is full"):
        predict(stored / "previous", label_map)
    assert not is_current(stored / "previous")
