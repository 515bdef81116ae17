"""The Dice of whole volumes that a training is followed by."""

from typing import Any

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from torch import Tensor, nn

from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.networks.families import build_network
from autoseg.plan import Plan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.runtime.precision import DtypeName
from autoseg.workflows.evaluate import validation
from autoseg.workflows.evaluate.validation import measure_volume_dice
from autoseg.workflows.train.fold_options import build_training_options
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest

NOWHERE = ClassLocations(coordinates=np.zeros((0, 3), np.int32), class_ranges=((0, 0),), annotated_range=None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_volumes_are_predicted_in_the_dtype_of_the_training(
    run: RunFolder, dtype: DtypeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, 5, 9, 7)).astype(np.float32)
    case = CachedCase(
        name="a",
        image=image,
        label_map=(image[0] > 1).astype(np.int16),
        locations=NOWHERE,
        geometry=build_geometry(image.shape[1:]),
    )
    monkeypatch.setattr(validation, "open_training_case", lambda *place: case)
    plan, seen = read_document(run.plan, Plan), set()
    network = build_network(plan.configurations["2d"].network, torch.Generator().manual_seed(0))

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.add(output.dtype)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    network.eval()
    dice = measure_volume_dice(network, run=run, plan=plan, configuration="2d", cases=("a",), dtype=dtype)
    assert 0 <= dice <= 1
    assert seen == {getattr(torch, dtype)}
    assert not network.training
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(("device", "expected"), [("cuda:0", "bfloat16"), ("cpu", "float32")])
def test_on_a_cpu_they_are_predicted_in_single_precision(run: RunFolder, device: str, expected: str) -> None:
    job = FoldJob(
        run=run,
        plan=read_document(run.plan, Plan),
        configuration="2d",
        fold="0",
        cases=select_fold(read_document(run.splits, Splits), "0"),
        device=torch.device(device),
    )
    options = build_training_options(job, TrainingRequest(), "bfloat16", checkpoint=None, progress=SilentProgress())
    assert getattr(options.measure_dice, "keywords", {})["dtype"] == expected
