"""What `autoseg check` and `autoseg plan` say of problems that repeat over cases, and the lines that would be right."""

import json

import nibabel as nib
import numpy as np
import pytest
from builders.datasets import describe_dataset
from builders.volumes import save_nifti
from PIL import Image

from autoseg.dataset import read_dataset
from autoseg.errors import DatasetError
from autoseg.places.local import ThisComputer
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.header_survey import survey_headers
from autoseg.workflows.plan.measuring import measure_dataset
from autoseg.workflows.plan.splitting import SplitRequest


def check(folder):
    request = CheckRequest(split=SplitRequest(), workers=1)
    return check_dataset(folder, request, progress=SilentProgress())


def measure(folder, run):
    dataset = read_dataset(folder)
    grids = survey_headers(dataset.cases).grids
    return measure_dataset(
        dataset, RunFolder(run), grids=grids, workers=1, place=ThisComputer(), progress=SilentProgress()
    )


def write_pictures(folder, label_maps, *, labels, channels=("grey",), shape=(8, 9, 3)):
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for index, label_map in enumerate(label_maps):
        Image.fromarray(random.integers(0, 255, shape).astype(np.uint8)).save(folder / "imagesTr" / f"p{index}.png")
        Image.fromarray(np.asarray(label_map, np.uint8)).save(folder / "labelsTr" / f"p{index}.png")
    names = {str(index): name for index, name in enumerate(channels)}
    describe_dataset(folder, channel_names=names, labels=labels, file_ending=".png")
    return folder


def make_map(*values):
    label_map = np.zeros((8, 9), np.uint8)
    label_map.flat[: len(values)] = values
    return label_map


def list_lines(report):
    return [line for correction in report.diagnosis.corrections for line in correction.lines]


def parse(line):
    return json.loads("{" + line.rstrip(",") + "}")


def test_colour_pictures_declared_with_one_channel_are_one_problem_with_the_right_line(tmp_path):
    folder = write_pictures(tmp_path / "d", [make_map(1)] * 6, labels={"background": 0, "x": 1})
    report = check(folder)
    (problem,) = report.diagnosis.problems
    assert problem.describe() == (
        "6 cases (p0, p1, p2, ...): expected 1 channel as in dataset.json (grey), found 3; the picture is in colour "
        "(red, green and blue differ in 72 of 72 pixels): save it as grey, or correct 'channel_names' if "
        "all of them are"
    )
    assert len(report.problems) == 6
    assert list_lines(report) == ['"channel_names": {"0": "R", "1": "G", "2": "B"},']
    describe_dataset(folder, **parse(list_lines(report)[0]))
    assert check(folder).problems == ()


def test_a_name_that_decides_the_normalization_is_kept_for_all_channels(tmp_path):
    folder = write_pictures(
        tmp_path / "d", [make_map(1)] * 4, labels={"background": 0, "x": 1}, channels=("rgb_to_0_1",)
    )
    assert parse(list_lines(check(folder))[0])["channel_names"] == dict.fromkeys("012", "rgb_to_0_1")


def test_no_line_is_proposed_where_images_differ_in_their_channels(tmp_path):
    folder = write_pictures(tmp_path / "d", [make_map(1)] * 6, labels={"background": 0, "x": 1})
    Image.fromarray(make_map(1)).save(folder / "imagesTr" / "p0.png")
    report = check(folder)
    assert len(report.problems) == 5
    assert report.diagnosis.corrections == ()


def test_undeclared_values_are_one_problem_of_all_cases_with_counts_and_the_right_line(tmp_path):
    maps = [make_map(1, 3, 3), make_map(1, 255), make_map(1, 3, 7), make_map(1), make_map(1, 255)]
    folder = write_pictures(tmp_path / "d", maps, labels={"background": 0, "x": 1}, channels="RGB")
    report = check(folder)
    (problem,) = report.diagnosis.problems
    assert problem.cases == ("p0", "p1", "p2", "p4")
    assert problem.text == (
        "label maps hold the values 3 (2 cases, 3 voxels), 7 (1 case, 1 voxel), 255 (2 cases, 2 voxels), which "
        "dataset.json does not name: it names 0, 1; correct the label maps or 'labels'"
    )
    assert list_lines(report) == ['"labels": {"background": 0, "x": 1, "label_3": 3, "label_7": 7, "label_255": 255},']
    describe_dataset(folder, **parse(list_lines(report)[0]))
    assert check(folder).problems == ()
    assert report.problems[2].text.startswith("label values 3 (1 voxels), 7 (1 voxels) are not in dataset.json")


def test_the_only_class_takes_the_only_value_where_its_own_occurs_nowhere(tmp_path):
    folder = write_pictures(tmp_path / "d", [make_map(255)] * 5, labels={"background": 0, "nucleus": 1}, channels="RGB")
    report = check(folder)
    assert "no label map holds 'nucleus'" in report.diagnosis.problems[0].text
    assert parse(list_lines(report)[0])["labels"] == {"background": 0, "nucleus": 255}


def test_a_class_is_not_renumbered_where_a_good_case_has_it_or_a_case_could_not_be_read(tmp_path):
    maps = [make_map(255)] * 4 + [make_map(1)]
    folder = write_pictures(tmp_path / "d", maps, labels={"background": 0, "x": 1}, channels="RGB")
    expected = {"background": 0, "x": 1, "label_255": 255}
    assert parse(list_lines(check(folder))[0])["labels"] == expected
    (folder / "labelsTr" / "p4.png").write_bytes(b"broken")
    report = check(folder)
    assert parse(list_lines(report)[0])["labels"] == expected
    assert "no label map holds" not in report.diagnosis.problems[0].text


def test_regions_and_the_ignore_label_keep_their_form(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 9}
    folder = write_pictures(tmp_path / "d", [make_map(1, 2, 4, 9)] * 5, labels=labels, channels="RGB")
    describe_dataset(folder, regions_class_order=[1, 2])
    lines = list_lines(check(folder))
    assert parse(lines[0])["labels"] == {"background": 0, "whole": [1, 2], "core": 2, "label_4": 4, "ignore": 9}
    assert parse(lines[1]) == {"regions_class_order": [1, 2, 4]}
    for line in lines:
        describe_dataset(folder, **parse(line))
    assert check(folder).problems == ()


def test_numbers_of_objects_are_not_proposed_as_classes(tmp_path):
    maps = [make_map(*range(1, 40 + index)) for index in range(5)]
    folder = write_pictures(tmp_path / "d", maps, labels={"background": 0, "x": 1}, channels="RGB")
    report = check(folder)
    (problem,) = report.diagnosis.problems
    assert "2 (5 cases, 5 voxels), 3 (5 cases, 5 voxels)" in problem.text
    assert "and 37 more up to 43" in problem.text
    assert "single objects (instances)" in problem.text
    assert report.diagnosis.corrections == ()


@pytest.mark.parametrize("kind", ["cut off", "empty", "other grid", "not finite"])
def test_other_problems_of_many_cases_are_one_line_too(dataset, kind):
    for path in sorted((dataset / "imagesTr").iterdir())[:5]:
        if kind == "cut off":
            path.write_bytes(path.read_bytes()[:200])
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            image = np.asarray(nib.load(path).dataobj).copy()
            if kind == "not finite":
                image[0, 0, : 1 + int(path.name[1])] = np.nan
            save_nifti(dataset / f"imagesTr/{path.name}", image[:-1] if kind == "other grid" else image)
    report = check(dataset)
    assert len(report.problems) == 5
    (problem,) = report.diagnosis.problems
    assert problem.cases == ("p1_a", "p1_b", "p2_a", "p2_b", "p3_a")
    if kind == "not finite":
        assert "found 2 or 3 or 4 voxels with NaN" in problem.text
    else:
        assert "imagesTr/p*_0000.nii.gz" in problem.text


def test_missing_files_of_many_cases_are_one_line(dataset):
    for path in sorted((dataset / "labelsTr").iterdir())[:5]:
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        read_dataset(dataset)
    assert f"(5 problems; autoseg check {dataset} --all lists them):" in str(caught.value)
    assert "  - 5 cases (p1_a, p1_b, p2_a, ...): the label map labelsTr/p*.nii.gz is missing" in str(caught.value)
    assert [problem.cases for problem in caught.value.problems][:2] == [("p1_a",), ("p1_b",)]
    assert len(check(dataset).diagnosis.problems) == 1


def test_planning_says_the_same_and_where_every_case_is_listed(tmp_path):
    folder = write_pictures(tmp_path / "d", [make_map(7)] * 6, labels={"background": 0, "x": 1})
    with pytest.raises(DatasetError) as caught:
        measure(folder, tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert len([line for line in lines if "6 cases (p0, p1, p2, ...)" in line]) == 2
    assert '    "labels": {"background": 0, "x": 7},' in lines
    assert '    "channel_names": {"0": "R", "1": "G", "2": "B"},' in lines
    assert f"autoseg check {folder} --all" in lines[-1]
    assert not (tmp_path / "run").exists()
