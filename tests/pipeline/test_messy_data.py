"""Data as it comes: found by `autoseg check`, handled by `autoseg plan`."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_case, save, write_balls
from builders.command_line import run_autoseg

from planners import PLANNERS


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    return write_balls(tmp_path / "Dataset005_Messy", cases=6)


def save_label_map_elsewhere(dataset: Path, case: str, seed: int) -> np.ndarray:
    """A label map on a grid that begins two voxels later along x; returns it as it should lie on the image."""
    label_map = make_case(seed)[1]
    moved = AFFINE.copy()
    moved[:3, 3] += 2 * AFFINE[:3, 0]
    save(dataset / "labelsTr" / f"{case}.nii.gz", label_map[2:], moved)
    label_map[:2] = 0
    return label_map


def test_a_good_dataset_passes_and_nothing_is_written(messy: Path, tmp_path: Path) -> None:
    done = run_autoseg("check", messy, "--workers", 2, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "6 cases, 0 problems" in done.out
    for heading in ("class", "values", "cases", "voxels", "bright", "dark"):
        assert heading in done.out
    assert [path.name for path in tmp_path.iterdir()] == [messy.name]


def test_problems_and_notes_stand_in_one_table_and_fail_the_check(messy: Path) -> None:
    label_map = make_case(1)[1]
    label_map[0, 0, 0] = 77
    save(messy / "labelsTr" / "case1.nii.gz", label_map)
    shutil.copy(messy / "imagesTr" / "case2_0000.nii.gz", messy / "imagesTr" / "case3_0000.nii.gz")
    done = run_autoseg("check", messy, "--workers", 1)
    assert done.code == 1
    assert "the value 77 (1 case, 1 voxel), which dataset.json does not name: it names 0, 2, 5" in done.out
    assert '    "labels": {"background": 0, "bright": 2, "dark": 5, "label_77": 77},' in done.out.splitlines()
    assert "case2 and case3 have the same image" in done.out
    assert "Traceback" not in done.err


def test_a_problem_of_many_cases_is_one_row_or_a_row_for_each(messy: Path) -> None:
    for index in range(1, 6):
        (messy / "imagesTr" / f"case{index}_0000.nii.gz").write_bytes(b"no image")
    done = run_autoseg("check", messy, "--workers", 1)
    assert done.out.count("│ problem") == 1
    assert "5 cases (case1, case2, case3, ...)" in done.out
    assert f"autoseg check {messy} --all" in done.out
    every = run_autoseg("check", messy, "--workers", 1, "--all")
    assert every.out.count("│ problem") == 5
    assert (done.code, every.code) == (1, 1)


def test_programs_get_one_object(messy: Path) -> None:
    (messy / "imagesTr" / "case4_0000.nii.gz").write_bytes(b"no image")
    done = run_autoseg("check", messy, "--json", "--workers", 1)
    assert done.code == 1
    report = json.loads(done.out)
    expected = {"dataset", "cases", "problems", "notes", "classes", "orientations", "duplicates"}
    assert set(report) == expected | {"kinds", "corrections"}
    assert (report["dataset"], report["cases"], report["orientations"]) == (str(messy), 6, {"LPS": 5})
    assert [problem["case"] for problem in report["problems"]] == ["case4"]
    assert [(kind["cases"], kind["problem"]) for kind in report["kinds"]] == [
        (["case4"], report["problems"][0]["problem"])
    ]
    assert [(entry["name"], entry["values"], entry["cases"]) for entry in report["classes"]] == [
        ("bright", [2], 5),
        ("dark", [5], 5),
    ]


def test_a_dataset_that_cannot_be_read_is_reported_the_same_way(tmp_path: Path) -> None:
    done = run_autoseg("check", tmp_path / "nowhere", "--json")
    assert done.code == 1
    assert json.loads(done.out)["problems"][0]["case"] is None


def test_the_planners_are_listed_with_their_sentences() -> None:
    done = run_autoseg("planners")
    assert done.code == 0, done.err
    assert len(PLANNERS) >= 4
    for name, planner in PLANNERS.items():
        assert f"{name} " in done.out
        assert planner.description in done.out


def test_a_label_map_on_another_grid_is_resampled_on_request_and_the_run_remembers(messy: Path, tmp_path: Path) -> None:
    expected = save_label_map_elsewhere(messy, "case2", seed=2)
    run = tmp_path / "run"
    arguments = ("plan", messy, "--run", run, "--configuration", "3d_fullres", "--workers", 1)
    refused = run_autoseg(*arguments)
    assert refused.code == 1
    assert "case2" in refused.err
    assert "--fix-geometry" in refused.err
    done = run_autoseg(*arguments, "--fix-geometry")
    assert done.code == 0, done.err
    assert "case2: --fix-geometry resamples case2.nii.gz by nearest neighbour" in done.out
    assert json.loads((run / "dataset.json").read_text())["fix_geometry"] is True
    reference = nib.load(run / "references" / "case2.nii.gz")
    np.testing.assert_allclose(reference.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(reference.dataobj), expected)

    arrays = run / "preprocessed" / "3d_fullres"
    before = (arrays / "case2.labels.b2nd").read_bytes()
    shutil.rmtree(run / "preprocessed")
    again = run_autoseg("preprocess", run, "--configuration", "3d_fullres", "--workers", 1)
    assert again.code == 0, again.err
    assert (arrays / "case2.labels.b2nd").read_bytes() == before
    other = run_autoseg(*arguments)
    assert other.code == 1
    assert "(different --fix-geometry)" in other.err


@pytest.mark.parametrize("options", [(), ("--fix-geometry",)])
def test_a_label_map_that_lost_its_spacing_is_never_planned_with(messy: Path, tmp_path: Path, options) -> None:
    save(messy / "labelsTr" / "case2.nii.gz", make_case(2)[1], AFFINE @ np.diag([2.0, 2.0, 2.0, 1.0]))
    done = run_autoseg(
        "plan", messy, "--run", tmp_path / "run", "--configuration", "3d_fullres", "--workers", 1, *options
    )
    assert done.code == 1
    assert "case2: " in done.err
    assert "one header has probably lost its spacing" in done.err
    assert "--fix-geometry" not in done.err + done.out


def test_planning_tells_what_checking_tells(messy: Path, tmp_path: Path) -> None:
    shutil.copy(messy / "imagesTr" / "case2_0000.nii.gz", messy / "imagesTr" / "case3_0000.nii.gz")
    for index in range(2):
        label_map = make_case(index)[1]
        label_map[label_map == 5] = 0
        save(messy / "labelsTr" / f"case{index}.nii.gz", label_map)
    done = run_autoseg("plan", messy, "--run", tmp_path / "run", "--no-preprocess", "--workers", 1)
    assert done.code == 0, done.err
    assert "case2 and case3 have the same image" in done.out
    assert "class 'dark' occurs in only 4 of 6 cases" in done.out
    assert "voxels" in done.out


def test_groups_stay_in_one_fold(messy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    groups = {f"case{index}": f"patient{index // 2}" for index in range(6)}
    (messy / "groups.json").write_text(json.dumps(groups))
    done = run_autoseg("plan", messy, "--run", run, "--no-preprocess", "--workers", 1)
    assert done.code == 0, done.err
    assert "only 3 groups" in done.out
    folds = json.loads((run / "splits.json").read_text())["folds"]
    assert len(folds) == 3
    for fold in folds:
        assert not {groups[case] for case in fold["training"]} & {groups[case] for case in fold["validation"]}


def test_a_pattern_that_misses_a_case_is_refused_before_anything_is_measured(messy: Path, tmp_path: Path) -> None:
    done = run_autoseg("plan", messy, "--run", tmp_path / "run", "--group-by", "case([0-4])", "--workers", 1)
    assert done.code == 1
    assert "does not match case5" in done.err
    assert not (tmp_path / "run").exists()
    assert "Measuring" not in done.out


def test_other_folds_than_those_of_the_run_are_refused(messy: Path, tmp_path: Path) -> None:
    arguments = ("plan", messy, "--run", tmp_path / "run", "--no-preprocess", "--workers", 1)
    assert run_autoseg(*arguments, "--group-by", "case[0-2]|case").code == 0
    assert run_autoseg(*arguments, "--group-by", "case[0-2]|case").code == 0
    record = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert record["split_options"] == ["--group-by", "case[0-2]|case"]
    assert set(record["groups"].values()) == {"case0", "case1", "case2", "case"}
    done = run_autoseg(*arguments, "--group-by", "case[0-1]|case")
    assert done.code == 1
    assert "other folds" in done.err


def test_folds_may_come_from_a_file(messy: Path, tmp_path: Path) -> None:
    folds = [{"train": ["case0", "case1", "case2", "case3"], "val": ["case4", "case5"]}]
    (tmp_path / "mine.json").write_text(json.dumps(folds))
    run = tmp_path / "run"
    done = run_autoseg(
        "plan", messy, "--run", run, "--no-preprocess", "--workers", 1, "--splits", tmp_path / "mine.json"
    )
    assert done.code == 0, done.err
    (fold,) = json.loads((run / "splits.json").read_text())["folds"]
    assert fold["validation"] == ["case4", "case5"]
