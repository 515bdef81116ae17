"""From files without a dataset.json to a plan: `autoseg init`, `autoseg check`, `autoseg plan`."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three BIDS subjects, one of them with two sessions, and an image that nobody labelled."""
    root = tmp_path / "study"
    sessions = [("01", "1"), ("01", "2"), ("02", "1"), ("03", "1")]
    for index, (subject, session) in enumerate(sessions):
        name = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_T2w"
        image, label_map = make_case(index)
        save(root / f"{name}.nii.gz", image)
        save(root / "derivatives" / "labels" / f"{name}_seg-manual.nii.gz", label_map)
    save(root / "sub-04" / "anat" / "sub-04_T2w.nii.gz", make_case(9)[0])
    return root


def test_a_folder_becomes_a_dataset_that_plans(folder: Path, tmp_path: Path) -> None:
    done = run_autoseg("init", folder, "--workers", 1)
    assert done.code == 0, done.err
    for text in (
        "4: sub-01_ses-1, sub-01_ses-2, sub-02_ses-1, sub-03_ses-1",
        "same name (4)",
        "0: T2w",
        "3, kept together (groups.json): sub-01 (2), sub-02 (1), sub-03 (1)",
        "label_2",
        "label_5",
        "left out: sub-04/anat/sub-04_T2w.nii.gz: no label map belongs to it",
        f"next: autoseg check {folder}",
    ):
        assert text in done.out
    checked = run_autoseg("check", folder, "--workers", 1)
    assert checked.code == 0, checked.out
    run = tmp_path / "study.autoseg"
    planned = run_autoseg("plan", folder, "--run", run, "--no-preprocess", "--workers", 1)
    assert planned.code == 0, planned.err
    folds = json.loads((run / "splits.json").read_text())["folds"]
    held_out = [set(fold["validation"]) for fold in folds]
    assert any({"sub-01_ses-1", "sub-01_ses-2"} <= cases for cases in held_out)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "prepare-a-dataset.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_commands_of_the_page_run(folder: Path) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines() if line]
    assert [command[:2] for command in commands] == [["autoseg", "init"], ["autoseg", "check"]]
    for command in commands:
        done = run_autoseg(*command[1:], cwd=folder.parent)
        assert done.code == 0, done.err


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_patterns_of_the_page_settle_a_doubt(tmp_path: Path) -> None:
    (line,) = re.findall(r"^autoseg init .*--images.*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    words = shlex.split(line)
    for name in ("01L", "02L"):
        for ending in (".jpg", "_1stHO.png", "_2ndHO.png"):
            (tmp_path / words[2]).mkdir(exist_ok=True)
            Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / words[2] / f"Image_{name}{ending}")
    refused = run_autoseg(*words[1:3], cwd=tmp_path)
    assert refused.code == 1
    assert "--labels 'Image_*_1stHO.png'" in refused.err
    done = run_autoseg(*words[1:], cwd=tmp_path)
    assert done.code == 0, done.err


def test_a_second_call_is_refused_without_a_traceback(folder: Path) -> None:
    assert run_autoseg("init", folder, "--workers", 1).code == 0
    done = run_autoseg("init", folder, "--workers", 1)
    assert done.code == 1
    assert "dataset.json exists already" in done.err
    assert "Traceback" not in done.err
    assert run_autoseg("init", folder, "--workers", 1, "--overwrite").code == 0


def test_one_pattern_alone_is_refused(folder: Path) -> None:
    done = run_autoseg("init", folder, "--images", "*/*.nii.gz")
    assert done.code == 1
    assert "--images and --labels must be given together" in done.err


def test_masks_are_joined_by_several_workers(tmp_path: Path) -> None:
    for index in range(3):
        image, label_map = make_case(index)
        save(tmp_path / "set" / f"s{index}" / "ct.nii.gz", image)
        for name, values in {"both": (2, 5), "dark": (5,)}.items():
            mask = np.isin(label_map, values).astype(np.uint8)
            save(tmp_path / "set" / f"s{index}" / "segmentations" / f"{name}.nii.gz", mask)
    done = run_autoseg("init", tmp_path / "set", "--workers", 2)
    assert done.code == 0, done.err
    assert "dark lies in both in every case" in done.out
    assert "regions_class_order [1, 2]" in done.out
    assert sorted(path.name for path in (tmp_path / "set" / "labels_joined").iterdir()) == [
        "s0.nii.gz",
        "s1.nii.gz",
        "s2.nii.gz",
    ]
    assert run_autoseg("check", tmp_path / "set", "--workers", 1).code == 0
