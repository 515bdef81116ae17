import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from builders.datasets import describe_dataset
from builders.volumes import AFFINE, save_nifti
from PIL import Image

from autoseg.processes.progress import SilentProgress
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.splitting import SplitRequest


@pytest.fixture
def check_whole(dataset):
    def run(*, fix_geometry=False, **split):
        request = CheckRequest(split=SplitRequest(**split), fix_geometry=fix_geometry, workers=1)
        return check_dataset(dataset, request, progress=SilentProgress())

    return run


@pytest.fixture
def check(check_whole):
    """Leaves out the note about the labels 2 and 5, which every dataset here has; it has a test of its own."""

    def run(**options):
        report = check_whole(**options)
        others = tuple(note for note in report.notes if "cannot be exported to nnU-Net" not in note)
        return replace(report, notes=others)

    return run


def load(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_good_dataset_has_no_problems_and_a_count_of_every_class(check):
    report = check()
    assert (report.problems, report.notes, report.duplicates) == ((), (), ())
    assert report.cases == 6
    assert report.orientations == (("LPS", 6),)
    assert [(c.name, c.values, c.cases, c.voxels) for c in report.classes] == [
        ("big", (2,), 6, 6 * 27),
        ("small", (5,), 6, 6),
    ]


def test_labels_with_gaps_keep_models_from_nnunet_which_is_no_problem(check_whole, dataset):
    report = check_whole()
    assert report.problems == ()
    (note,) = report.notes
    assert note.startswith("models of this dataset cannot be exported to nnU-Net (autoseg export --format nnunet): ")
    assert note.endswith("without gaps, but this model's are 0, 2, 5")


def test_images_that_nnunet_cannot_read_keep_models_from_it_which_is_no_problem(check_whole, dataset):
    describe_dataset(dataset, file_ending=".jpg", labels={"background": 0, "big": 1})
    for part, ending, value in (("imagesTr", ".jpg", 90), ("labelsTr", ".png", 1)):
        shutil.rmtree(dataset / part)
        (dataset / part).mkdir()
        for name in "abcdef":
            picture = np.zeros((8, 9), np.uint8)
            picture[2:6, ord(name) - ord("a") :] = value
            Image.fromarray(picture).save(dataset / part / f"{name}{ending}")
    report = check_whole()
    assert report.problems == ()
    assert [note for note in report.notes if "nnU-Net" in note] == [
        "models of this dataset cannot be exported to nnU-Net (autoseg export --format nnunet): nnU-Net does not read "
        ".jpg files, only .nii.gz .nrrd .mha .gipl .nii .png .bmp .tif .tiff"
    ]


def test_all_problems_of_all_cases_are_listed_with_their_case(check, dataset):
    label_map = load(dataset / "labelsTr" / "p1_a.nii.gz")
    label_map[0, 0, :3] = 77
    save_nifti(dataset / "labelsTr/p1_a.nii.gz", label_map)
    (dataset / "imagesTr" / "p2_b_0000.nii.gz").write_bytes(b"no image")
    (dataset / "splits_final.json").write_text("[]")
    problems = {problem.cases: problem.text for problem in check().problems}
    assert set(problems) == {(), ("p1_a",), ("p2_b",)}
    assert "label value 77 (3 voxels)" in problems[("p1_a",)]
    assert "splits_final.json does not fit" in problems[()]


def test_what_is_wrong_with_the_description_is_reported_too(check, dataset):
    (dataset / "labelsTr" / "p1_a.nii.gz").unlink()
    (dataset / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}))
    report = check()
    assert {problem.cases for problem in report.problems} == {(), ("p1_a",)}
    assert "channel_names" in " ".join(problem.text for problem in report.problems)
    assert report.diagnosis.problems == report.problems


def test_rare_classes_are_warned_of(check, dataset):
    for name in ("p1_a", "p2_b"):
        label_map = load(dataset / "labelsTr" / f"{name}.nii.gz")
        label_map[label_map == 5] = 0
        save_nifti(dataset / f"labelsTr/{name}.nii.gz", label_map)
    report = check()
    assert [count.cases for count in report.classes] == [6, 4]
    (note,) = report.notes
    assert note.startswith("warning: class 'small' occurs in only 4 of 6 cases")


def test_a_class_is_not_called_rare_for_cases_that_could_not_be_counted(check, dataset):
    for name in ("p1_a", "p2_b"):
        (dataset / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(b"no image")
    report = check()
    assert [count.cases for count in report.classes] == [4, 4]
    assert report.notes == ()


def test_the_same_image_under_two_names_is_found_even_if_stored_otherwise(check, dataset):
    original = nib.load(dataset / "imagesTr" / "p1_a_0000.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("SAR"))
    for part, name in (("imagesTr", "p1_a_0000"), ("labelsTr", "p1_a")):
        source = nib.load(dataset / part / f"{name}.nii.gz")
        nib.save(source.as_reoriented(turn), dataset / part / f"{name.replace('p1_a', 'p3_b')}.nii.gz")
    assert original.shape != nib.load(dataset / "imagesTr" / "p3_b_0000.nii.gz").shape
    report = check()
    assert report.duplicates == (("p1_a", "p3_b"),)
    assert any("p1_a and p3_b have the same image" in note for note in report.notes)


def test_copies_in_different_folds_are_called_what_they_are(check, dataset):
    shutil.copy(dataset / "imagesTr" / "p1_a_0000.nii.gz", dataset / "imagesTr" / "p1_b_0000.nii.gz")
    (note,) = check().notes
    assert "lie in different folds" in note
    assert "--group-by" in note
    grouped = [note for note in check(group_by=r"^(p\d)").notes if "same image" in note]
    assert len(grouped) == 1
    assert "different folds" not in grouped[0]


def test_mixed_orientations_are_counted(check, dataset):
    turn = nib.orientations.ornt_transform(nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt("RAS"))
    for path in (dataset / "imagesTr" / "p2_a_0000.nii.gz", dataset / "labelsTr" / "p2_a.nii.gz"):
        turned = nib.load(path).as_reoriented(turn)
        np.asarray(turned.dataobj)
        path.unlink()
        nib.save(turned, path)
    report = check()
    assert report.orientations == (("LPS", 5), ("RAS", 1))
    (note,) = report.notes
    assert "2 orientations: LPS (5), RAS (1)" in note


def test_rounding_of_headers_is_noted_and_nothing_else(check, dataset):
    rounded = AFFINE.copy()
    rounded[0, 3] = 0.0005
    save_nifti(dataset / "labelsTr/p2_a.nii.gz", load(dataset / "labelsTr" / "p2_a.nii.gz"), rounded)
    report = check()
    assert report.problems == ()
    (note,) = report.notes
    assert "0.001 mm" in note
    assert "p2_a" in note


def test_cases_with_missing_files_hide_no_problem_of_the_others(check, dataset):
    (dataset / "labelsTr" / "p1_a.nii.gz").unlink()
    (dataset / "imagesTr" / "p2_a_0000.nii.gz").write_bytes(b"no image")
    report = check()
    assert report.cases == 6
    assert [problem.cases for problem in report.problems] == [("p1_a",), ("p2_a",)]
    assert "label map labelsTr/p1_a.nii.gz is missing" in report.problems[0].text
    assert report.classes[0].cases == 4
    assert not any("occurs in" in note for note in report.notes)  # each of the two others may contain every class


def test_a_dataset_without_a_complete_case_is_checked_as_far_as_it_can_be(check, dataset):
    for path in (dataset / "labelsTr").iterdir():
        path.unlink()
    report = check()
    assert len(report.problems) == 6
    assert {entry.cases for entry in report.classes} == {0}


def test_another_grid_is_a_problem_that_names_the_remedy_or_a_fix_that_is_listed(check, dataset):
    label_map = load(dataset / "labelsTr" / "p2_a.nii.gz")
    save_nifti(dataset / "labelsTr/p2_a.nii.gz", np.pad(label_map, ((0, 1), (0, 0), (0, 0))), AFFINE)
    (problem,) = check().problems
    assert problem.cases == ("p2_a",)
    assert problem.text.count("voxels (z, y, x)") == 2
    assert "--fix-geometry" in problem.text
    report = check(fix_geometry=True)
    assert report.problems == ()
    (note,) = report.notes
    assert "although" not in note
    assert note.startswith(
        "case p2_a: --fix-geometry resamples p2_a.nii.gz by nearest neighbour onto the grid of p2_a_0000"
    )
    assert [count.cases for count in report.classes] == [6, 6]


def test_a_header_that_moves_the_same_voxels_is_to_be_repaired_and_not_resampled(check, dataset):
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    save_nifti(dataset / "labelsTr/p2_a.nii.gz", load(dataset / "labelsTr" / "p2_a.nii.gz"), moved)
    (problem,) = check().problems
    assert "--fix-geometry" not in problem.text
    assert "one header places the same voxels wrongly, by up to 1 mm" in problem.text
    assert "origin (1, 0, 0) mm in RAS" in problem.text
    assert "SimpleITK: second.CopyInformation(first); it shows origins in LPS" in problem.text
    (note,) = check(fix_geometry=True).notes
    assert "although shape and spacing agree: if one header is wrong, it moves what the voxels show" in note


def test_contradicting_headers_are_noted_once_with_their_number(check, dataset, caplog):
    moved = AFFINE.copy()
    moved[0, 3] = 5.0
    for path in sorted(dataset.glob("*/p1_*.nii.gz")):
        image = nib.Nifti1Image(load(path), AFFINE)
        image.set_qform(moved, code=1)
        image.set_sform(AFFINE, code=1)
        nib.save(image, path)
    report = check()
    assert report.problems == ()
    (note,) = report.notes
    assert "p1_a_0000.nii.gz: sform and qform differ by up to 5; the sform is used (and so in 3 other files)" in note


def test_a_channel_on_another_grid_is_a_problem_or_a_fix_too(check, dataset):
    add_second_channel(dataset)
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    second = dataset / "imagesTr/p2_a_0001.nii.gz"
    save_nifti(second, load(second), moved)
    assert "--fix-geometry" not in check().problems[0].text
    save_nifti(second, load(second)[1:], moved)
    (problem,) = check().problems
    assert problem.cases == ("p2_a",)
    assert "p2_a_0001.nii.gz (found)" in problem.text
    assert "--fix-geometry" in problem.text
    report = check(fix_geometry=True)
    assert report.problems == ()
    (note,) = report.notes
    assert "resamples p2_a_0001.nii.gz by linear interpolation onto the grid of p2_a_0000.nii.gz" in note


def add_second_channel(dataset):
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(description | {"channel_names": {"0": "T1", "1": "T2"}}))
    for path in sorted(dataset.glob("imagesTr/*_0000.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))


@pytest.mark.parametrize("fix_geometry", [False, True])
@pytest.mark.parametrize("file", ["labelsTr/p2_a.nii.gz", "imagesTr/p2_a_0001.nii.gz"])
def test_a_file_that_lost_its_spacing_is_to_be_repaired_and_never_resampled(check, dataset, file, fix_geometry):
    if file.startswith("imagesTr"):
        add_second_channel(dataset)
    save_nifti(dataset / file, load(dataset / file), np.eye(4))
    report = check(fix_geometry=fix_geometry)
    (problem,) = report.problems
    assert problem.cases == ("p2_a",)
    assert "the shape agrees and the spacings, 2 x 1 x 1 and 1 x 1 x 1 mm, do not" in problem.text
    assert "copy the right header to the other file" in problem.text
    assert "--fix-geometry" not in problem.text
    assert not any("--fix-geometry" in note for note in report.notes)


@pytest.mark.parametrize("fix_geometry", [False, True])
def test_files_in_different_units_are_told_by_the_factor_of_their_spacings(check, dataset, fix_geometry):
    path = dataset / "imagesTr/p2_a_0000.nii.gz"
    image = nib.Nifti1Image(load(path), AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, path)
    report = check(fix_geometry=fix_geometry)
    (problem,) = report.problems
    assert "2000 x 1000 x 1000 and 2 x 1 x 1 mm, differ by a factor of 1,000, so the files state different units" in (
        problem.text
    )
    assert "--fix-geometry" not in "".join((problem.text, *report.notes))


def test_lost_spacings_and_other_units_are_problems_of_two_kinds(check, dataset):
    for name, affine in (("p1_a", np.eye(4)), ("p1_b", np.diag([3.0, 3.0, 3.0, 1.0])), ("p2_a", AFFINE / 1000)):
        affine[3, 3] = 1.0
        save_nifti(dataset / f"labelsTr/{name}.nii.gz", load(dataset / f"labelsTr/{name}.nii.gz"), affine)
    problems = check().diagnosis.problems
    assert [problem.cases for problem in problems] == [("p1_a", "p1_b"), ("p2_a",)]
    assert "lost its spacing" in problems[0].text
    assert "different units" in problems[1].text


def test_pictures_of_another_size_stay_a_problem(check, dataset):
    shutil.rmtree(dataset / "imagesTr")
    shutil.rmtree(dataset / "labelsTr")
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(description | {"file_ending": ".png"}))
    for name, size in (("a", (8, 9)), ("b", (8, 8))):
        for part, shape in (("imagesTr", (8, 9)), ("labelsTr", size)):
            (dataset / part).mkdir(exist_ok=True)
            picture = np.random.default_rng(ord(name)).choice([0, 2, 5], shape).astype(np.uint8)
            Image.fromarray(picture).save(dataset / part / f"{name}.png")
    problems = check(fix_geometry=True).problems
    assert {problem.cases for problem in problems} == {("b",)}
    assert "no place in the world" in problems[0].text
    assert "--fix-geometry" not in check().problems[0].text


def test_a_label_map_elsewhere_cannot_be_fixed(check, dataset):
    moved = AFFINE.copy()
    moved[0, 3] = 1000.0
    save_nifti(dataset / "labelsTr/p2_a.nii.gz", load(dataset / "labelsTr" / "p2_a.nii.gz"), moved)
    (problem,) = check(fix_geometry=True).problems
    assert "do not overlap" in problem.text


def change(dataset, name, change):
    path = dataset / "imagesTr" / f"{name}_0000.nii.gz"
    image = load(path).copy()
    save_nifti(path, change(image).astype(np.float32))


def put(value, *, everywhere=False):
    def run(image):
        image[1, 1, 1] = value
        return np.full_like(image, value) if everywhere else image

    return run


def test_a_diverged_voxel_is_a_problem_or_a_warning_of_its_case(check, dataset):
    change(dataset, "p1_a", put(1e25))
    change(dataset, "p1_b", put(1e9))
    change(dataset, "p2_a", put(0, everywhere=True))
    report = check()
    (problem,) = report.problems
    assert problem.cases == ("p1_a",)
    assert problem.text.startswith("channel 0 (MR) has 1 voxel of 1e+25 (")
    assert [note[:60] for note in report.notes] == [
        "warning: case p1_b: channel 0 (MR) has 1 voxel of 1e+09 (the",
        "warning: case p2_a: all voxels of channel 0 (MR) have the sa",
    ]


def test_ct_with_equal_intensities_in_the_foreground_is_a_problem(check, dataset):
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(description | {"channel_names": {"0": "CT"}}))
    assert check().problems == ()
    for path in dataset.glob("imagesTr/*"):
        label_map = load(dataset / "labelsTr" / path.name.replace("_0000", ""))
        save_nifti(path, (label_map > 0).astype(np.float32))
    (problem,) = check().problems
    assert problem.cases == ()
    assert problem.text.startswith("channel 0 (CT): the standard deviation of its foreground")


def test_a_spacing_in_another_unit_is_a_warning(check, dataset):
    for part in ("imagesTr/p1_a_0000.nii.gz", "labelsTr/p1_a.nii.gz"):
        larger = np.diag([1000.0, 1000, 1000, 1]) @ AFFINE
        save_nifti(dataset / part, load(dataset / part).copy(), larger)
    report = check()
    assert report.problems == ()
    (note,) = report.notes
    assert "case p1_a: the spacing" in note
    assert "1000 times that of the median case" in note
