import json

import numpy as np
import pytest
from builders.damage import flip_bit
from builders.geometries import build_geometry
from builders.labels import build_plain_labels

from autoseg.errors import RunError
from autoseg.plan import MasksOfPreviousStage
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.stages.masks import MaskInput
from autoseg.stages.stored_maps import PredictionSource, is_stage_map_current, write_stage_map
from autoseg.stages.training_cases import StoredStageInput

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
    write_stage_map(folder, "a", label_map, source=source, geometry=geometry or make_geometry(), patch_voxels=(4, 4, 4))


def is_current(folder, *, source=SOURCE, geometry=None):
    return is_stage_map_current(folder, "a", source=source, geometry=geometry or make_geometry())


@pytest.fixture
def open_with_map(stored):
    """Opens the case with what the previous stage predicts for it."""
    masks = MaskInput(MasksOfPreviousStage(configuration="3d_lowres"), build_plain_labels(3))
    previous = StoredStageInput(folder=stored / "previous", input=masks, digest="")
    return lambda: previous.open_case(stored / "data", "a")


def test_a_case_is_opened_with_its_map(stored, open_with_map, label_map):
    case = open_with_map()
    (stage_map,) = case.further_maps
    assert np.array_equal(stage_map[:], label_map)
    assert np.array_equal(case.image[:], open_case(stored / "data", "a").image[:])
    assert open_case(stored / "data", "a").further_maps == ()


@pytest.mark.parametrize("change", [{"fold": "1"}, {"weights_sha256": "abd"}, {"configuration": "2d"}])
def test_a_prediction_of_other_weights_is_not_current(stored, change):
    assert is_current(stored / "previous")
    assert not is_current(stored / "previous", source=SOURCE.model_copy(update=change))


def test_a_prediction_for_another_grid_is_neither_current_nor_opened(stored, open_with_map, label_map):
    assert not is_current(stored / "previous", geometry=make_geometry(spacing=2.0))
    predict(stored / "previous", label_map, geometry=make_geometry(spacing=2.0))
    with pytest.raises(RunError, match=r"prediction of 'a'.*another grid.*autoseg train makes it"):
        open_with_map()


@pytest.mark.parametrize("name", ["a.previous.b2nd", "a.previous.json"])
def test_a_missing_or_shortened_file_is_noticed(stored, open_with_map, name):
    path = stored / "previous" / name
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_current(stored / "previous")
    with pytest.raises(RunError, match="prediction of 'a'"):
        open_with_map()
    path.unlink()
    assert not is_current(stored / "previous")
    with pytest.raises(RunError, match="prediction of 'a'"):
        open_with_map()


def test_an_interrupted_replacement_leaves_no_current_prediction(stored, label_map, monkeypatch):
    def fail(*arguments):
        msg = "the disk is full"
        raise RunError(msg)

    monkeypatch.setattr("autoseg.stages.stored_maps.write_array", fail)
    with pytest.raises(RunError, match="disk is full"):
        predict(stored / "previous", label_map)
    assert not is_current(stored / "previous")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_changed_bit_is_noticed(stored, open_with_map, place):
    flip_bit(stored / "previous" / "a.previous.b2nd", place)
    with pytest.raises(RunError, match=r"prediction of 'a'.*damaged .*a\.previous\.b2nd.*autoseg train makes it"):
        open_with_map()
    assert not is_current(stored / "previous")


def test_maps_of_earlier_versions_are_read_without_a_checksum(stored, open_with_map, label_map):
    path = stored / "previous" / "a.previous.json"
    record = json.loads(path.read_text())
    del record["checksums"]
    path.write_text(json.dumps(record))
    assert is_current(stored / "previous")
    assert np.array_equal(open_with_map().further_maps[0][:], label_map)
