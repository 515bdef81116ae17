"""A model that nnU-Net trained on real images, and what nnU-Net predicted with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_label_map
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.model_source import open_model
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

DATASET = "Dataset004_Hippocampus"
CASE = "hippocampus_001"

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture
def images(data_folder: Path, tmp_path: Path) -> Path:
    name = f"{CASE}_0000.nii.gz"
    (tmp_path / "images").mkdir()
    shutil.copy(data_folder / DATASET / "imagesTr" / name, tmp_path / "images" / name)
    return tmp_path / "images"


def predict(run: Path, images: Path, out: Path) -> np.ndarray:
    request = PredictionRequest(options=PredictionOptions(), device="cpu", precision="float32")
    predict_images(run, images, out, request=request, progress=SilentProgress())
    return read_label_map(out / f"{CASE}.nii.gz").array


def test_a_result_folder_is_predicted_with_as_it_is_and_survives_import_and_export(
    model_folder: Path, images: Path, tmp_path: Path
) -> None:
    source = model_folder / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    with open_model(source) as model:
        direct = predict(model.run, images, tmp_path / "direct")
    expected = read_label_map(model_folder / DATASET / "predictions_3d_fullres_fold0" / f"{CASE}.nii.gz").array
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.mean(direct == expected) >= 0.9999
    import_model(source, tmp_path / "x.autoseg", progress=SilentProgress())
    (exported,) = export_model(
        tmp_path / "x.autoseg", tmp_path / "exported", ExportRequest(), progress=SilentProgress()
    )
    import_model(exported.folder, tmp_path / "again.autoseg", progress=SilentProgress())
    np.testing.assert_array_equal(predict(tmp_path / "again.autoseg", images, tmp_path / "again"), direct)
