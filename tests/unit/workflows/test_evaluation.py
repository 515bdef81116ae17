"""Evaluations of which no case succeeds."""

import numpy as np
import pytest
from builders.labels import build_labels

from autoseg.errors import CasesFailedError
from autoseg.geometry import Grid
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import write_label_map
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs


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
