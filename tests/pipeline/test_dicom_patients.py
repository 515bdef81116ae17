"""Nothing about the patient of a series reaches what a run writes, from the plan to predictions and a model file."""

import gzip
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders.dicom_series import BIRTH_DATE, PATIENT, write_series
from builders.plans import shorten
from builders.progress import Notes

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.volume_io import read_grid, write_label_map
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.report.reporting import write_report
from autoseg.workflows.report.viewing import write_view
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.train.request import TrainingRequest

SECRETS = (*PATIENT.lower().split("^"), BIRTH_DATE)
SHAPE = (6, 20, 24)


def write_dataset(root: Path) -> Path:
    """Slices lie in folders with the name of the patient, as an archive exports them."""
    random = np.random.default_rng(0)
    for number in range(1, 4):
        label_map = np.zeros(SHAPE, np.uint8)
        label_map[1:5, 4:14, 3 + number : 15 + number] = 1
        voxels = random.normal(0, 50, SHAPE) + 300.0 * label_map
        folder = root / "imagesTr" / f"case{number}_0000.dcm"
        write_series(folder / PATIENT, voxels, number=number)
        place = root / "labelsTr" / f"case{number}.nii.gz"
        place.parent.mkdir(exist_ok=True)
        write_label_map(place, label_map, grid=read_grid(folder), like=None)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lung": 1}, "numTraining": 3}
    (root / "dataset.json").write_text(json.dumps(description | {"file_ending": ".dcm"}))
    return root


def list_contents(content: bytes) -> Iterator[bytes]:
    """Yields a file, and what is packed in it."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from list_contents(archive.read(name))


def test_no_file_of_a_run_tells_the_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    dataset, run, out = write_dataset(tmp_path / "Dataset001_Lungs"), tmp_path / "lungs.autoseg", tmp_path / "out"
    notes = Notes()
    planner = find_planner("default")
    autoseg.plan_dataset(dataset, run, planner=planner, configurations=["2d"], workers=1, progress=notes)
    shorten(run, "2d", epochs=1, iterations=2)
    request = TrainingRequest(configuration="2d", folds=("0",), workers=0, device="cpu")
    autoseg.train_run(run, request, progress=notes)
    autoseg.select_models(run, SelectionRequest(variants=False, device="cpu"), progress=notes)
    predicted = PredictionRequest(device="cpu", precision="float32", execution="eager", mirroring=False)
    autoseg.predict_images(run, dataset / "imagesTr", out, predicted, progress=notes)
    write_report(
        run, predictions=out, images=dataset / "imagesTr", out=tmp_path / "out" / "report.html", progress=notes
    )
    write_view(dataset / "imagesTr" / "case1_0000.dcm" / PATIENT, (out / "case1.nii.gz",), out / "view.html")
    autoseg.export_model(run, out / "model.zip", ExportRequest(format="autoseg"), progress=notes)

    written = [path for root in (run, out) for path in root.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    expected = {"dataset.json", "fingerprint.json", "selection.json", "report.html", "model.zip", "case1.nii.gz"}
    assert expected | {"checkpoint_final.safetensors", "training_log.jsonl"} <= names
    assert any("tfevents" in name for name in names)
    for path in written:
        assert not [secret for secret in SECRETS if secret in str(path.relative_to(tmp_path)).lower()]
        for content in list_contents(path.read_bytes()):
            assert not [secret for secret in SECRETS if secret.encode() in content.lower()], path
    for text in (caplog.text, notes.text):
        assert not [secret for secret in SECRETS if secret in text.lower()]
