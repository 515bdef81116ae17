"""Configurations that are planned on request are exported in autoseg's own file, and predict the same."""

import zipfile

import numpy as np
import pytest

from autoseg.api import load_model as open_model
from autoseg.inference.model import load_model
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.request import ExportRequest

FIRST, BOX = "3d_lowres", "3d_cascade_fullres"


@pytest.fixture
def plan(describe_plan) -> Plan:
    content = describe_plan()
    del content["configurations"]["third"]
    second = content["configurations"][BOX]
    second["previous_stage"] = {"input": "box", "configuration": FIRST, "margin_mm": 1.0}
    second["network"]["input_channels"] = 1
    return Plan.model_validate(content)


def test_a_shared_model_predicts_in_the_same_box(plan, run, train, *, grid, tmp_path):
    for name in (FIRST, BOX):
        train(plan, name, "0", is_random=True)
    output = tmp_path / "shared.zip"
    request = ExportRequest(format="autoseg", configuration=BOX, folds=("0",))
    export_model(run.root, output, request, progress=SilentProgress())
    array = np.random.default_rng(0).normal(1, 0.1, (1, *grid.shape_voxels)).astype(np.float32)
    ours, theirs = load_model(run, configuration=BOX, folds=("0",), device="cpu"), open_model(output, device="cpu")
    expected = ours.predict_volume(array, grid)
    assert np.array_equal(theirs.predict_volume(array, grid), expected)
    with zipfile.ZipFile(output) as archive:
        card = archive.read("README.md").decode()
    assert f"{BOX} predicts only in a box around what {FIRST} predicts." in card
