"""What a process needs to predict images, and what a place is told of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from builders.plans import build_configuration, build_plan

from autoseg.document import read_document
from autoseg.errors import OptionError
from autoseg.geometry import Grid
from autoseg.network_cost import PROCESS_BYTES
from autoseg.plan.document import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import write_image
from autoseg.workflows.cases.image_memory import estimate_prediction_sizes
from autoseg.workflows.plan.planning import find_network_cost
from autoseg.workflows.predict.image_tasks import predict_images_in_tasks
from autoseg.workflows.predict.prediction import PredictionRequest

COARSE, FINE = (Grid(shape_voxels=(10, 20, 30), spacing_mm=(mm, mm, mm)) for mm in (2.0, 1.0))
VOXELS = 10 * 20 * 30


def estimate(plan, *members, grid=FINE, uses_gpu=True):
    measure_cost = None if uses_gpu else find_network_cost
    return estimate_prediction_sizes({"a": grid}, plan, members, measure_cost=measure_cost)["a"].estimated_bytes


def test_the_memory_is_that_of_the_networks_the_image_and_its_logits():
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    assert plan.configurations["3d_fullres"].spacing_mm == (1.0, 1.0, 1.0)
    classes, image = plan.labels.output_channel_count, len(plan.channels) * 12 + 8
    assert estimate(plan) == round(1.5 * (PROCESS_BYTES + VOXELS * (image + classes * 12)))
    assert estimate(plan, grid=COARSE) == round(1.5 * (PROCESS_BYTES + VOXELS * (image + 8 * classes * 12)))
    assert estimate(plan, "3d_fullres", uses_gpu=False) > estimate(plan, "3d_fullres") == estimate(plan)


def test_the_logits_of_both_members_of_a_pair_are_in_memory():
    one = build_configuration((8, 8, 8))
    plan = build_plan({"3d_fullres": one, "3d_lowres": one})
    logits = round(1.5 * VOXELS * plan.labels.output_channel_count * 12)
    more = estimate(plan, "3d_fullres", "3d_lowres") - estimate(plan, "3d_fullres")
    assert more == pytest.approx(logits + 1.5 * PROCESS_BYTES, abs=2)


class RecordedError(Exception):
    """Ends a command once it has given its cases to a place."""


def record(run, tmp_path, device, *, is_detached):
    """What a place is told of two images, of which one cannot be read."""
    given = {}

    def run_over_cases(work, jobs, **options):
        given.update(options)
        raise RecordedError

    images = tmp_path / "images"
    write_image(images / "a_0000.nii.gz", np.zeros(FINE.shape_voxels, np.float32), grid=FINE)
    (images / "b_0000.nii.gz").write_bytes(b"no image")
    unused = {"run_tasks": print, "describe_tasks": print, "describe_cases": print}
    place = SimpleNamespace(is_detached=is_detached, run_over_cases=run_over_cases, **unused)
    request = PredictionRequest(configuration="3d_lowres", device=device)
    with pytest.raises(RecordedError):
        predict_images_in_tasks(
            run.root, images, tmp_path / "out", request=request, place=place, progress=SilentProgress()
        )
    return given


@pytest.mark.parametrize(("device", "uses_gpu"), [("cpu", False), ("auto", True), ("cuda", True)])
def test_a_scheduler_is_told_the_device_and_the_memory_of_every_image_that_can_be_read(run, tmp_path, device, uses_gpu):
    given = record(run, tmp_path, device, is_detached=True)
    assert given["uses_gpu"] is uses_gpu
    estimated = estimate(read_document(run.plan, Plan), "3d_lowres", uses_gpu=uses_gpu)
    assert {name: size.estimated_bytes for name, size in given["sizes"].items()} == {"a": estimated}


def test_headers_are_read_for_a_scheduler_alone(run, tmp_path):
    assert record(run, tmp_path, "cuda:1", is_detached=False)["sizes"] == {}
    with pytest.raises(OptionError, match="--device cuda:1 is of this computer"):
        record(run, tmp_path, "cuda:1", is_detached=True)
