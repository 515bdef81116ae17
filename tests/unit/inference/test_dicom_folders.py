"""Folders of DICOM series: the same label maps as of the same images in NIfTI."""

import numpy as np
import pytest
from builders.dicom_series import OBLIQUE, STUDY, convert_with_itk, write_series
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.inference.options import PredictionOptions
from autoseg.volume_io import check_same_grid, read_label_map
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

OPTIONS = PredictionOptions(mirroring=False)
VOXELS = np.random.default_rng(0).integers(-1000, 1000, size=(9, 11, 12))


@pytest.fixture
def run(tmp_path):
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    return tmp_path / "run"


def predict(run, images, **choices):
    out, notes = run.parent / "out", Notes()
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32", **choices)
    outcome = predict_images(run, images, out, request=request, progress=notes)
    return out, outcome, notes.text


def test_every_series_below_a_folder_gets_the_label_map_of_its_nifti_file(run, tmp_path):
    scans = tmp_path / "scans"
    upright = write_series(scans / "a", VOXELS, number=1)
    oblique = write_series(scans / "b" / "c", VOXELS[::-1], number=2, orientation=OBLIQUE, step_mm=2.5)
    out, outcome, _ = predict(run, scans)
    assert outcome.written == 2
    (tmp_path / "files").mkdir()
    for number, folder in ((1, upright), (2, oblique)):
        convert_with_itk(folder, tmp_path / "files" / f"s{number}.nii.gz")
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32")
    predict_images(run, tmp_path / "files", tmp_path / "expected", request=request, progress=Notes())
    for number in (1, 2):
        found = read_label_map(out / f"{STUDY}.{number}.nii.gz")
        expected = read_label_map(tmp_path / "expected" / f"s{number}.nii.gz")
        np.testing.assert_array_equal(found.array, expected.array)
        assert len(np.unique(found.array)) > 1
        check_same_grid(expected.grid, found.grid, what="label maps of one series")
