"""A dataset with odd cases from planning to its arrays: what is wrong is named, what is right is finished."""

import nibabel as nib
import numpy as np
import pytest
from builders.progress import Notes
from builders.volumes import AFFINE, save_nifti

from autoseg.document import read_document
from autoseg.errors import CasesFailedError, DatasetError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.preprocessing.cache import is_case_written
from autoseg.processes.case_pool import CaseSize
from autoseg.run_folder import RunFolder
from autoseg.workflows.plan.planning import PlanRequest, plan_dataset
from autoseg.workflows.plan.preprocessing import find_largest_that_fits
from planners import PLANNERS


@pytest.fixture
def plan(dataset, tmp_path):
    """Plans the dataset and returns the run and what was said."""

    def run(**options):
        notes, root = Notes(), tmp_path / "odd.autoseg"
        request = PlanRequest(
            planner="default", machine=Machine(accelerator_memory_gb=8), configurations=("2d",), workers=1, **options
        )
        plan_dataset(dataset, root, PLANNERS["default"].plan, request=request, report=lambda _: None, progress=notes)
        return RunFolder(root), notes

    return run


def scale(dataset, name, factor):
    """Multiplies the spacing of a case."""
    for path in (dataset / f"imagesTr/{name}_0000.nii.gz", dataset / f"labelsTr/{name}.nii.gz"):
        save_nifti(path, np.asarray(nib.load(path).dataobj).copy(), np.diag([factor, factor, factor, 1]) @ AFFINE)


def put(dataset, name, value):
    path = dataset / f"imagesTr/{name}_0000.nii.gz"
    image = np.asarray(nib.load(path).dataobj).copy()
    image[1, 1, 1] = value
    save_nifti(path, image)


@pytest.mark.parametrize("change", [(1e6, "GB of memory"), (1e-3, "leaves nothing of it")])
def test_a_case_in_another_unit_fails_by_name_and_the_others_are_preprocessed(dataset, tmp_path, plan, change):
    factor, effect = change
    scale(dataset, "p2_a", factor)
    with pytest.raises(CasesFailedError, match=effect) as caught:
        plan()
    assert [problem.cases for problem in caught.value.problems] == [("p2_a",)]
    folder = RunFolder(tmp_path / "odd.autoseg").preprocessed("2d")
    names = [f"p{patient}_{image}" for patient in (1, 2, 3) for image in "ab"]
    assert [name for name in names if not is_case_written(folder, name)] == ["p2_a"]


def test_planning_warns_of_odd_intensities_and_spacings_each_time(dataset, plan):
    scale(dataset, "p2_a", 10)
    put(dataset, "p1_a", 1e10)
    for _ in range(2):
        run, notes = plan(preprocess=False)
        assert "warning: case p1_a: channel 0 (MR) has 1 voxel of 1e+10" in notes.text
        assert "warning: case p2_a: the spacing of " in notes.text
    cases = read_document(run.fingerprint, Fingerprint).cases
    assert [case.name for case in cases if case.intensity_warnings] == ["p1_a"]


def test_planning_refuses_intensities_of_which_nothing_would_be_left(dataset, tmp_path, plan):
    put(dataset, "p1_a", np.finfo(np.float32).min)
    with pytest.raises(DatasetError, match=r"p1_a: channel 0 \(MR\) has 1 voxel of -3\.403e\+38"):
        plan()
    assert not (tmp_path / "odd.autoseg").exists()


def test_a_case_beyond_the_memory_does_not_keep_others_from_running_side_by_side():
    sizes = [CaseSize(voxels=1, estimated_bytes=size) for size in (10, 10**9, 20)]
    assert find_largest_that_fits(sizes, available_bytes=100) == 20
    assert find_largest_that_fits([], available_bytes=100) == 0
