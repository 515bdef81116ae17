"""Models in the hands of an installed nnU-Net: it predicts what autoseg predicts, and from what autoseg exports."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.nnunet_models import (
    build_foreign_configuration,
    build_foreign_dataset,
    build_foreign_plans,
    write_foreign_model,
)

from autoseg.cli.plan import plan
from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.geometry import Grid
from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map, write_image, write_label_map
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "parity_models.py"
GRID = Grid(shape_voxels=(20, 30, 34), spacing_mm=(2.0, 1.1, 1.0))

pytestmark = [pytest.mark.peer, pytest.mark.slow]

Builder = Callable[..., Any]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two noisy bodies in air."""
    for index in range(2):
        random = np.random.default_rng(index)
        image = random.normal(100, 20, GRID.shape_voxels).astype(np.float32)
        image[:, :3], image[..., -4:] = 0, 0
        write_image(tmp_path / "images" / f"case{index}_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


@pytest.fixture
def predict_there(peer_folder: Path, images: Path, tmp_path: Path) -> Callable[..., None]:
    """Has nnU-Net predict with several models; each job is a model, where its label maps go, and how it adds up."""
    if not SCRIPT.is_file():
        pytest.skip(f"{SCRIPT} is not there: these tests run in a checkout of the sources")

    def predict(*jobs: tuple[Path, str, bool], folds: tuple[str, ...], previous: Path | None = None) -> None:
        content = [
            {
                "model": str(model),
                "images": str(images),
                "out": str(tmp_path / out),
                "folds": folds,
                "previous": None if previous is None else str(previous),
                "is_single": is_single,
            }
            for model, out, is_single in jobs
        ]
        path = tmp_path / "jobs.json"
        path.write_text(json.dumps(content))
        folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
        command = [str(peer_folder / "bin" / "python"), str(SCRIPT), "predict", str(path)]
        environment = {**os.environ, **folders, "nnUNet_compile": "f"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr

    return predict


def compare(first: Path, second: Path) -> float:
    names = sorted(path.name for path in first.glob("*.nii.gz"))
    assert len(names) == 2
    pairs = [(read_label_map(first / name).array, read_label_map(second / name).array) for name in names]
    assert all(len(np.unique(array)) > 1 for pair in pairs for array in pair)
    return float(np.mean([np.mean(one == other) for one, other in pairs]))


def predict_here(model: Path, images: Path, out: Path) -> None:
    request = PredictionRequest(options=PredictionOptions(), device="cpu", precision="float32")
    predict_images(model, images, out, request=request, progress=SilentProgress())


@pytest.mark.parametrize(
    ("kind", "configuration"),
    [("plain", "3d_fullres"), ("residual", "3d_fullres"), ("regions", "3d_fullres"), ("slices", "2d")],
)
def test_nnunet_predicts_the_same_labels_and_from_an_export_exactly_its_own(
    tmp_path: Path, *, images: Path, predict_there: Builder, kind: str, configuration: str
) -> None:  # fmt: skip
    part = build_foreign_configuration(2 if kind == "slices" else 3, residual=kind == "residual")
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    folds = ("0", "1")
    source = write_foreign_model(
        tmp_path / "results",
        plans=build_foreign_plans({configuration: part}),
        dataset=build_foreign_dataset(**(regions if kind == "regions" else {})),
        configuration=configuration,
        folds=folds,
    )
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=SilentProgress())
    (exported,) = export_model(run, tmp_path / "exported", progress=SilentProgress())
    jobs = ((source, "theirs", False), (source, "single", True), (exported.folder, "again", False))
    predict_there(*jobs, folds=folds)
    assert compare(tmp_path / "theirs", tmp_path / "again") == 1
    predict_here(run, images, tmp_path / "ours")
    # These networks decide next to nothing clearly, so what nnU-Net adds up as half floats shows here and there.
    assert compare(tmp_path / "theirs", tmp_path / "ours") > 0.99
    assert compare(tmp_path / "single", tmp_path / "ours") >= 0.9999


def test_nnunet_predicts_the_same_labels_with_a_cascade_in_two_steps(
    tmp_path: Path, *, images: Path, predict_there: Builder
) -> None:
    plans = build_foreign_plans(
        {
            "3d_lowres": build_foreign_configuration(spacing=[3.0, 1.6, 1.6]),
            "3d_fullres": build_foreign_configuration(),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
    )
    first, second = (
        write_foreign_model(tmp_path / "results", plans=plans, configuration=name)
        for name in ("3d_lowres", "3d_cascade_fullres")
    )
    run = tmp_path / "x.autoseg"
    import_model(second, run, progress=SilentProgress())
    predict_there((first, "first", True), folds=("0",))
    predict_there((second, "single", True), folds=("0",), previous=tmp_path / "first")
    predict_here(run, images, tmp_path / "ours")
    assert compare(tmp_path / "single", tmp_path / "ours") >= 0.9999


def test_a_raw_dataset_and_its_preprocessed_splits_are_used_as_they_are(peer_folder: Path, tmp_path: Path) -> None:
    raw, splits = tmp_path / "nnUNet_raw" / "Dataset001_X", tmp_path / "nnUNet_preprocessed" / "splits_final.json"
    names = [f"case{index:02d}" for index in range(13)]
    for index, name in enumerate(names):
        image = np.random.default_rng(index).normal(100, 20, GRID.shape_voxels).astype(np.float32)
        write_image(raw / "imagesTr" / f"{name}_0000.nii.gz", image, grid=GRID)
        write_label_map(raw / "labelsTr" / f"{name}.nii.gz", (image > 110).astype(np.uint8), grid=GRID, like=None)
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "bright": 1}, "numTraining": 13}
    (raw / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    splits.parent.mkdir()
    code = (
        "import json, sys\n"
        "from nnunetv2.utilities.crossval_split import generate_crossval_split\n"
        "json.dump(generate_crossval_split(sys.argv[2:], seed=12345, n_splits=5), open(sys.argv[1], 'w'))\n"
    )
    subprocess.run([str(peer_folder / "bin" / "python"), "-c", code, str(splits), *names], check=True)
    found = {}
    for label, choice in (("own", None), ("theirs", splits)):
        plan(raw, run=tmp_path / label, splits=choice, no_preprocess=True, workers=1)
        found[label] = read_document(RunFolder(tmp_path / label).splits, Splits).folds
    expected = [(tuple(fold["train"]), tuple(fold["val"])) for fold in json.loads(splits.read_text())]
    assert [(fold.training, fold.validation) for fold in found["theirs"]] == expected
    assert found["own"] == found["theirs"]
