import numpy as np
import pytest
from builders.datasets import write_dataset
from builders.fingerprints import build_case
from builders.labels import build_labels
from builders.progress import Notes
from builders.volumes import AFFINE, save_nifti

from autoseg.document import read_document
from autoseg.fingerprint import Fingerprint, Machine, ResampledCounts
from autoseg.geometry import Grid
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.plan import class_losses
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.class_losses import (
    compare_counts,
    count_resampled,
    find_crop_losses,
    find_resampling_losses,
    predict_target_spacing,
    warn_of_losses,
)
from autoseg.workflows.plan.planning import PlanRequest, build_plan_rule, plan_dataset
from autoseg.workflows.plan.splitting import SplitRequest
from planners import PLANNERS

LABELS = build_labels({"organ": (1,), "lesion": (2,)})


def compare(before, after, scale=1.0):
    return [loss.name for loss in compare_counts("a", LABELS, before, after, rule="x", scale=scale)]


@pytest.mark.parametrize(
    ("before", "after", "scale", "lost"),
    [
        ((1000, 20), (951, 20), 1.0, []),
        ((1000, 20), (949, 19), 1.0, ["organ"]),  # one voxel of twenty is a twentieth
        ((1000, 20), (1000, 18), 1.0, ["lesion"]),
        ((1000, 0), (1000, 0), 1.0, []),
        ((1000, 5), (125, 0), 0.125, ["lesion"]),
        ((1000, 12), (125, 1), 0.125, []),  # half a voxel less is rounding
        ((1000, 80), (110, 10), 0.125, ["organ"]),
    ],
)
def test_losses_of_more_than_a_twentieth_and_a_voxel_count(before, after, scale, lost):
    assert compare(before, after, scale) == lost


def test_losses_of_a_class_by_one_rule_are_one_warning_with_the_worst_case():
    cases = [
        build_case(name=f"p{index}", voxel_counts=(500, 5)).model_copy(update={"cropped_voxel_counts": counts})
        for index, counts in enumerate([(500, 5), (400, 5), (0, 5), (250, 5), (490, 4)])
    ]
    organ, lesion = warn_of_losses(find_crop_losses(LABELS, cases), case_count=5)
    assert organ.startswith(
        "warning: class 'organ' loses more than 5 % of its voxels in 3 of 5 cases (p1, p2, p3), and vanishes in 1: "
        "in p2, 500 voxels become 0, by cropping to the nonzero region"
    )
    assert "class 'lesion' loses more than 5 % of its voxels in 1 of 5 cases (p4): in p4, 5 voxels become 4" in lesion


def test_losses_that_are_predicted_are_told_as_such():
    cases = [
        build_case(name=f"p{index}", voxel_counts=(800, 8)).model_copy(
            update={
                "cropped_voxel_counts": (800, 8),
                "resampled": ResampledCounts(spacing_mm=(2.0, 2.0, 2.0), scale=1 / 8, voxel_counts=(left, 1)),
            }
        )
        for index, left in enumerate((80, 0))
    ]
    (organ,) = warn_of_losses(find_resampling_losses(LABELS, cases, distance_unit="mm"), case_count=2)
    assert organ.startswith(
        "warning: class 'organ' would lose more than 5 % of its voxels in 2 of 2 cases (p0, p1), and would vanish in "
        "1: in p1, 800 voxels would become 0 (the volume would be 100 voxels), by resampling to 2 x 2 x 2 mm"
    )
    (organ,) = warn_of_losses(find_resampling_losses(LABELS, cases, distance_unit="pixel"), case_count=2)
    assert "by resampling to 2 x 2 x 2 pixels, the median of the dataset" in organ


def test_large_numbers_of_voxels_are_spelt_out():
    counts = ResampledCounts(spacing_mm=(2.0, 2.0, 2.0), scale=0.5, voxel_counts=(1000, 1))
    case = build_case(name="p0", voxel_counts=(2469, 2)).model_copy(
        update={"cropped_voxel_counts": (2469, 2), "resampled": counts}
    )
    (organ,) = warn_of_losses(find_resampling_losses(LABELS, [case], distance_unit="mm"), case_count=1)
    assert "2469 voxels would become 1000 (the volume would be 1234 voxels)" in organ


def test_cases_that_were_not_counted_have_no_losses():
    cases = [build_case(voxel_counts=(500, 5))]
    assert list(find_crop_losses(LABELS, cases)) == []
    assert list(find_resampling_losses(LABELS, cases, distance_unit="mm")) == []


def test_the_predicted_spacing_is_the_median_in_the_axes_of_the_training_orientation():
    turned = Grid(
        shape_voxels=(9, 8, 7),
        spacing_mm=(1.0, 2.0, 5.0),
        direction=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    )
    grids = [Grid(shape_voxels=(7, 8, 9), spacing_mm=(spacing, 2.0, 1.5)) for spacing in (3.0, 4.0)]
    assert predict_target_spacing([*grids, turned], "RAS") == (4.0, 2.0, 1.5)
    assert predict_target_spacing([], None) is None


def test_voxels_are_counted_on_a_coarser_grid_alone_and_single_slices_stay():
    label_map = np.zeros((8, 8, 8), np.int16)
    label_map[:4], label_map[5, 5, 5] = 1, 2
    counts = count_resampled(label_map, LABELS, spacing_mm=(1.0, 1.0, 1.0), target_spacing_mm=(2.0, 2.0, 2.0))
    assert counts is not None
    assert (counts.spacing_mm, counts.scale, counts.voxel_counts) == ((2.0, 2.0, 2.0), 1 / 8, (32, 0))
    finer = count_resampled(label_map, LABELS, spacing_mm=(1.0, 1.0, 1.0), target_spacing_mm=(0.001, 1.0, 1.0))
    assert finer is None
    flat = count_resampled(label_map[:1], LABELS, spacing_mm=(1.0, 1.0, 1.0), target_spacing_mm=(9.0, 2.0, 2.0))
    assert flat is not None
    assert (flat.scale, flat.spacing_mm) == (1 / 4, (1.0, 2.0, 2.0))


def test_only_the_box_of_the_foreground_is_resampled(monkeypatch):
    label_map = np.zeros((60, 50, 40), np.int16)
    label_map[20:30, 20:28, 12:14] = 1
    shapes = []
    resample = class_losses.resample_label_map
    monkeypatch.setattr(
        class_losses, "resample_label_map", lambda box, **rest: (shapes.append(box.shape), resample(box, **rest))[1]
    )
    counts = count_resampled(label_map, LABELS, spacing_mm=(1.0, 1.0, 1.0), target_spacing_mm=(2.0, 2.0, 2.0))
    assert shapes == [(20, 18, 12)]
    assert counts is not None
    assert counts.voxel_counts == (5 * 4 * 1, 0)


@pytest.fixture
def dataset(tmp_path):
    """Two of five cases are three times as fine and have lesions of one voxel; another image is masked too tightly."""
    random, cases = np.random.default_rng(0), []
    for index in range(5):
        image = random.normal(100, 9, (16, 16, 16)).astype(np.float32)
        label_map = np.zeros((16, 16, 16), np.uint8)
        label_map[3:9, 3:9, 3:9] = 1
        if index == 0:
            image[:6] = 0
        cases.append((f"p{index}", (image, label_map)))
    folder = write_dataset(tmp_path / "Dataset001_X", cases, labels={"organ": 1, "lesion": 2})
    for name in ("p3", "p4"):
        image = random.normal(100, 9, (48, 48, 48)).astype(np.float32)
        label_map = np.zeros((48, 48, 48), np.uint8)
        label_map[9:27, 9:27, 9:27], label_map[30, 30, 30], label_map[39, 39, 30] = 1, 2, 2
        fine = AFFINE @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
        save_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", image, fine)
        save_nifti(folder / "labelsTr" / f"{name}.nii.gz", label_map, fine)
    return folder


LOST = (
    "class 'organ' loses more than 5 % of its voxels in 1 of 5 cases (p0): in p0, 216 voxels become 108, by cropping",
    "class 'lesion' would vanish in 2 of 5 cases (p3, p4): in p3, 2 voxels would become 0 (the volume would be 0.0741 "
    "voxels), by resampling to 2 x 1 x 1 mm, the median of the dataset (the plan decides); preprocessing then keeps at "
    "most one voxel of each component that would vanish, which is not counted here",
)


def test_a_check_tells_what_cropping_and_resampling_will_lose(dataset):
    report = check_dataset(dataset, CheckRequest(split=SplitRequest(), workers=1), progress=SilentProgress())
    assert report.problems == ()
    for text in LOST:
        assert sum(text in note for note in report.notes) == 1


def test_planning_tells_it_too_and_preprocessing_keeps_the_lesions(dataset, tmp_path):
    notes, run = Notes(), RunFolder(tmp_path / "run")
    request = PlanRequest(planner="default", machine=Machine(accelerator_memory_gb=None), workers=1)
    rule = build_plan_rule(PLANNERS["default"])
    plan_dataset(dataset, run.root, rule, request=request, report=lambda plan: None, progress=notes)
    for text in LOST:
        assert sum(text in note for note in notes.lines) == 1
    for name in ("3d_fullres", "2d"):
        label_map = open_case(run.preprocessed(name), "p4").label_map[:]
        assert (label_map == 2).sum() == 2
    fingerprint = read_document(run.fingerprint, Fingerprint)
    assert [case.cropped_voxel_counts for case in fingerprint.cases[:2]] == [(108, 0), (216, 0)]
    old = fingerprint.model_dump(mode="json")
    for case in old["cases"]:
        del case["cropped_voxel_counts"], case["resampled"]
    assert Fingerprint.model_validate(old).cases[0].cropped_voxel_counts is None


def test_what_preprocessing_loses_in_spite_of_all_is_told(dataset, tmp_path):
    """Thin sheets lose nearly all of their volume, though none of them vanishes."""
    for name in ("p3", "p4"):
        label_map = np.zeros((48, 48, 48), np.uint8)
        label_map[::4, 2:46, 2:46] = 2
        save_nifti(dataset / "labelsTr" / f"{name}.nii.gz", label_map, AFFINE @ np.diag([1 / 3, 1 / 3, 1 / 3, 1]))
    notes = Notes()
    request = PlanRequest(planner="default", machine=Machine(accelerator_memory_gb=None), workers=1)
    rule = build_plan_rule(PLANNERS["default"])
    plan_dataset(dataset, tmp_path / "run", rule, request=request, report=lambda plan: None, progress=notes)
    (told,) = (line for line in notes.lines if "'lesion' loses" in line)
    assert "loses more than 5 % of its voxels in 2 of 5 cases (p3, p4)" in told
    assert " mm for " in told
