"""Evaluations of which no case succeeds, and what is said about folders that do not fit."""

import numpy as np
import pytest
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.document import write_document
from autoseg.errors import CasesFailedError
from autoseg.geometry import Grid
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import write_label_map
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_folder, evaluate_jobs


def test_a_summary_that_an_earlier_evaluation_left_is_not_taken_for_the_present_one(tmp_path):
    path = tmp_path / "case.nii.gz"
    grid = Grid(shape_voxels=(3, 4, 5), spacing_mm=(1.0, 1.0, 1.0))
    write_label_map(path, np.ones(grid.shape_voxels, np.uint8), grid=grid, like=None)
    job = EvaluationJob(case="case", prediction=path, reference=path, labels=build_labels({"cell": (1,)}))
    evaluate_jobs([job], folder=tmp_path, progress=SilentProgress())
    summary = (tmp_path / "summary.json").read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(CasesFailedError, match=r".*; summary\.json there is that of an earlier evaluation:"):
        evaluate_jobs([job], folder=tmp_path, progress=SilentProgress())
    assert (tmp_path / "summary.json").read_bytes() == summary
    (tmp_path / "summary.json").unlink()
    with pytest.raises(CasesFailedError, match=r"1 of 1 cases cannot be evaluated:"):
        evaluate_jobs([job], folder=tmp_path, progress=SilentProgress())


@pytest.fixture
def evaluate(tmp_path):
    """Evaluates the folder `first` by the folder `second`, each with these cases, and returns what was said."""
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    write_document(run.plan, build_plan({"2d": build_configuration((16, 16), data_of="2d")}))
    grid = Grid(shape_voxels=(3, 4, 5), spacing_mm=(1.0, 1.0, 1.0))

    def run_it(first, second):
        folders = tmp_path / "first", tmp_path / "second"
        for folder, names in zip(folders, (first, second), strict=True):
            folder.mkdir()
            for name in names:
                label_map = np.full(grid.shape_voxels, 5, np.uint8)
                if name == "prediction.json":
                    (folder / name).write_text("{}")
                else:
                    write_label_map(folder / f"{name}.nii.gz", label_map, grid=grid, like=None)
        notes = Notes()
        evaluate_folder(*folders, run_root=run.root, progress=notes)
        return notes.text

    return run_it


def test_references_without_prediction_are_counted_and_named(evaluate):
    assert evaluate(("a",), ("a", "b")) == "warning: 1 reference has no prediction and counts nowhere: b"


def test_several_references_without_prediction_are_counted_and_named(evaluate):
    assert evaluate(("a",), ("a", "b", "c")) == "warning: 2 references have no prediction and count nowhere: b, c"


def test_folders_in_the_order_of_nnunet_are_noticed(evaluate):
    text = evaluate(("a",), ("a", "prediction.json"))
    assert "if they are swapped, repeat it as: autoseg evaluate PREDICTIONS REFERENCES" in text


@pytest.mark.parametrize("second", [("a",), ("a", "prediction.json")])
def test_folders_in_the_right_order_or_both_predicted_are_no_reason_to_warn(evaluate, second):
    assert evaluate(("a", "prediction.json"), second) == ""
