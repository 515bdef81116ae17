"""What `autoseg init` makes of small folders; the names alone are tested beside `autoseg.dataset`."""

import json

import nibabel as nib
import numpy as np
import pytest
from builders.volumes import AFFINE, save_nifti
from PIL import Image

from autoseg.dataset import read_dataset
from autoseg.errors import DatasetError, RunError
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.init.file_pairing import FilePatterns
from autoseg.workflows.init.initializing import InitRequest, init_dataset
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.splitting import SplitRequest, divide_into_folds

SHAPE = (9, 8, 7)  # x, y, z


def save_image(path, seed=0, lowest=100.0):
    save_nifti(path, np.random.default_rng(seed).normal(lowest, 10, SHAPE).astype(np.float32))


def make_mask(start, stop):
    mask = np.zeros(SHAPE, np.uint8)
    mask[start:stop, 2:5, 2:5] = 1
    return mask


def save_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def init(folder, *, overwrite=False, images=None, labels=None):
    patterns = None if images is None else FilePatterns(images=images, labels=labels)
    return init_dataset(
        folder, InitRequest(patterns=patterns, overwrite=overwrite, workers=1), progress=SilentProgress()
    )


def check(folder):
    request = CheckRequest(split=SplitRequest(), workers=1)
    return [problem.text for problem in check_dataset(folder, request, progress=SilentProgress()).problems]


def read_description(folder):
    return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


def refuse(folder, **options):
    before = sorted(folder.rglob("*"))
    with pytest.raises(DatasetError) as caught:
        init(folder, **options)
    assert sorted(folder.rglob("*")) == before
    return str(caught.value)


@pytest.fixture
def patients(tmp_path):
    """Two patients with two frames each."""
    folder = tmp_path / "patients"
    for index, name in enumerate(("p1", "p2")):
        for frame in "12":
            save_image(folder / name / f"{name}_frame{frame}.nii.gz", seed=2 * index + int(frame))
            save_nifti(folder / name / f"{name}_frame{frame}_gt.nii.gz", make_mask(1, 3) * 2)
    return folder


@pytest.fixture
def tumours(tmp_path):
    """Two cases of nested masks: enhancing in core in whole; the second one has no enhancing part."""
    folder = tmp_path / "tumours"
    for name, masks in {
        "a": {"whole": (1, 7), "core": (2, 5), "enhancing": (3, 4)},
        "b": {"whole": (1, 5), "core": (1, 5), "enhancing": (0, 0)},
    }.items():
        for channel in ("flair", "t1ce"):
            save_image(folder / name / f"{channel}.nii.gz", seed=len(name + channel))
        for structure, (start, stop) in masks.items():
            save_nifti(folder / name / "segmentations" / f"{structure}.nii.gz", make_mask(start, stop))
    return folder


def test_files_are_listed_where_they_lie_and_the_check_passes(patients):
    before = {path: path.read_bytes() for path in patients.rglob("*.nii.gz")}
    report = init(patients)
    assert {path: path.read_bytes() for path in patients.rglob("*.nii.gz")} == before
    assert read_description(patients)["dataset"]["p1_frame1"] == {
        "images": ["p1/p1_frame1.nii.gz"],
        "label": "p1/p1_frame1_gt.nii.gz",
    }
    assert check(patients) == []
    assert len(report.cases) == 4


def test_labels_have_their_values_cases_and_share_of_voxels(patients):
    report = init(patients)
    assert read_description(patients)["labels"] == {"background": 0, "label_2": 2}
    background, label = report.labels
    assert (label.name, label.values, label.cases) == ("label_2", (2,), 4)
    assert label.voxel_fraction == pytest.approx(18 / np.prod(SHAPE))
    assert background.voxel_fraction == pytest.approx(1 - label.voxel_fraction)


def test_images_of_a_patient_land_in_one_fold(patients):
    report = init(patients)
    assert report.groups == {"p1": ("p1_frame1", "p1_frame2"), "p2": ("p2_frame1", "p2_frame2")}
    division = divide_into_folds(read_dataset(patients), SplitRequest())
    assert [fold.validation for fold in division.splits.folds] in (
        [("p1_frame1", "p1_frame2"), ("p2_frame1", "p2_frame2")],
        [("p2_frame1", "p2_frame2"), ("p1_frame1", "p1_frame2")],
    )


def test_no_groups_are_written_where_every_patient_has_one_case(tmp_path):
    for name in "ab":
        save_image(tmp_path / name / "image.nii.gz")
        save_nifti(tmp_path / name / "mask.nii.gz", make_mask(1, 3))
    assert init(tmp_path).groups == {}
    assert not (tmp_path / "groups.json").exists()


def test_nested_masks_become_regions_that_the_check_takes(tumours):
    report = init(tumours)
    content = read_description(tumours)
    assert content["labels"] == {"background": 0, "whole": [3, 1, 2], "core": [1, 2], "enhancing": 2}
    assert content["regions_class_order"] == [3, 1, 2]
    assert content["channel_names"] == {"0": "T1ce", "1": "FLAIR"}
    assert check(tumours) == []
    assert report.joined == tumours / "labels_joined"
    joined = np.asarray(nib.load(tumours / "labels_joined" / "a.nii.gz").dataobj)
    assert joined[:, 3, 3].tolist() == [0, 3, 1, 2, 1, 3, 3, 0, 0]


def test_where_nested_masks_are_equal_the_inner_one_is_written(tumours):
    init(tumours)
    joined = np.asarray(nib.load(tumours / "labels_joined" / "b.nii.gz").dataobj)
    assert joined[:, 3, 3].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]


def test_shares_of_nested_structures_count_all_that_lies_in_them(tumours):
    rows = {row.name: row for row in init(tumours).labels}
    total = 2 * np.prod(SHAPE)
    assert rows["whole"].voxel_fraction == pytest.approx((6 + 4) * 9 / total)
    assert rows["core"].voxel_fraction == pytest.approx((3 + 4) * 9 / total)
    assert rows["background"].voxel_fraction == pytest.approx(1 - (6 + 4) * 9 / total)
    assert rows["enhancing"].cases == 1


def test_joined_label_maps_lie_on_the_grid_of_the_masks(tumours):
    init(tumours)
    joined = nib.load(tumours / "labels_joined" / "a.nii.gz")
    np.testing.assert_array_equal(joined.affine, AFFINE)
    assert joined.get_data_dtype() == np.uint8


def test_masks_that_share_a_few_voxels_are_joined_with_a_warning_that_counts_them(tmp_path):
    for name, sticks_out in (("a", False), ("b", True)):
        image = np.random.default_rng(1).normal(100, 10, (40, 20, 20)).astype(np.float32)
        save_nifti(tmp_path / f"{name}.nii.gz", image)
        liver, spleen = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
        liver[:20], spleen[20:35] = 1, 1
        liver[20, 0, :3] = sticks_out
        save_nifti(tmp_path / f"{name}_liver.nii.gz", liver)
        save_nifti(tmp_path / f"{name}_spleen.nii.gz", spleen)
    report = init(tmp_path)
    assert "warning: spleen and liver share 3 voxels in 1 case (b: 3), which are written as spleen" in report.notes
    assert report.region_order == ()
    joined = np.asarray(nib.load(tmp_path / "labels_joined" / "b.nii.gz").dataobj)
    assert (joined[20, 0, :3] == 2).all()
    assert check(tmp_path) == []


def test_masks_that_share_much_without_one_lying_in_the_other_are_refused(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        save_nifti(tmp_path / f"{name}_liver.nii.gz", make_mask(1, 5))
        save_nifti(tmp_path / f"{name}_spleen.nii.gz", make_mask(4, 7))
    message = refuse(tmp_path)
    assert "spleen and liver share 18 voxels in 2 cases (a: 9, b: 9), up to 33% of the smaller one" in message


def test_masks_that_are_the_same_in_every_case_are_refused(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        for structure in ("liver", "copy"):
            save_nifti(tmp_path / f"{name}_{structure}.nii.gz", make_mask(1, 5))
    assert "copy and liver have the same voxels in every case" in refuse(tmp_path)


def test_a_structure_whose_masks_are_all_empty_is_refused(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        save_nifti(tmp_path / f"{name}_liver.nii.gz", make_mask(1, 5))
        save_nifti(tmp_path / f"{name}_spleen.nii.gz", make_mask(0, 0))
    assert "spleen: all of its masks are empty" in refuse(tmp_path)


def test_a_missing_mask_is_taken_as_absent_and_said_so(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        save_nifti(tmp_path / f"{name}_liver.nii.gz", make_mask(1, 3))
    save_nifti(tmp_path / "a_spleen.nii.gz", make_mask(4, 6))
    report = init(tmp_path)
    assert "warning: 1 of 2 cases have no mask of spleen and are taken to have no spleen: b" in report.notes


def test_a_mask_with_several_values_leaves_its_case_out_by_name(tumours):
    save_nifti(tumours / "a" / "segmentations" / "core.nii.gz", make_mask(2, 5) + make_mask(3, 4))
    save_image(tumours / "c" / "flair.nii.gz")
    save_image(tumours / "c" / "t1ce.nii.gz")
    save_nifti(tumours / "c" / "segmentations" / "whole.nii.gz", make_mask(2, 5))
    save_nifti(tumours / "c" / "segmentations" / "core.nii.gz", make_mask(2, 3))
    save_nifti(tumours / "c" / "segmentations" / "enhancing.nii.gz", make_mask(2, 3))
    report = init(tumours)
    assert [case.name for case in report.cases] == ["b", "c"]
    ((reason, names),) = report.left_out.items()
    assert names == ("a",)
    assert "holds 0 and one other value, found 1, 2" in reason
    assert not (tumours / "labels_joined" / "a.nii.gz").exists()


def test_masks_on_different_grids_are_not_joined(tumours):
    moved = AFFINE.copy()
    moved[0, 3] = 3
    for name in "ab":
        save_nifti(tumours / name / "segmentations" / "core.nii.gz", make_mask(2, 3), moved)
    assert "the grids differ in origin" in refuse(tumours)


def test_single_masks_give_their_name_and_stay_where_they_are(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        save_nifti(tmp_path / f"{name}_liver.nii.gz", make_mask(1, 3) * 255)
    report = init(tmp_path)
    assert read_description(tmp_path)["labels"] == {"background": 0, "liver": 255}
    assert report.joined is None
    assert not (tmp_path / "labels_joined").exists()


def test_colour_pictures_have_three_channels_and_jpeg_goes_with_png(tmp_path):
    random = np.random.default_rng(0)
    for name in ("Image_01L", "Image_01R"):
        save_picture(tmp_path / f"{name}.jpg", random.integers(0, 255, (12, 10, 3), np.uint8))
        save_picture(tmp_path / f"{name}_1stHO.png", (random.random((12, 10)) < 0.4).astype(np.uint8) * 255)
    report = init(tmp_path)
    content = read_description(tmp_path)
    assert content["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert content["labels"] == {"background": 0, "label_255": 255}
    assert content["file_ending"] == ".jpg"
    assert check(tmp_path) == []
    assert any("--group-by" in note for note in report.notes)


def test_label_maps_that_cannot_be_read_are_named_with_what_to_do(tmp_path):
    for name in "ab":
        save_picture(tmp_path / "images" / f"{name}.png", np.eye(9, dtype=np.uint8))
        save_picture(tmp_path / "labels" / f"{name}.gif", np.eye(9, dtype=np.uint8))
    assert "labels/a.gif, labels/b.gif: .gif files are not read; save it as PNG" in refuse(tmp_path)


def test_jpeg_label_maps_are_refused_with_the_reason(tmp_path):
    for name in "ab":
        for folder in ("images", "masks"):
            save_picture(tmp_path / folder / f"{name}.jpg", np.eye(9, dtype=np.uint8))
    assert "JPEG changes label values on saving; save label maps as PNG" in refuse(tmp_path)


def test_a_label_map_that_cannot_be_read_leaves_its_case_out_by_name(patients):
    (patients / "p1" / "p1_frame1_gt.nii.gz").write_bytes(b"nothing")
    report = init(patients)
    assert len(report.cases) == 3
    assert list(report.left_out.values()) == [("p1_frame1",)]
    assert check(patients) == []


def test_an_image_taken_for_a_label_map_is_refused(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        for folder in ("images", "labels"):
            save_picture(tmp_path / folder / f"{name}.png", random.integers(0, 255, (64, 64), np.uint8))
    assert "different values, from 0 to" in refuse(tmp_path)


def test_numbered_objects_are_refused(tmp_path):
    for index, name in enumerate("abc"):
        save_picture(tmp_path / "images" / f"{name}.png", np.eye(12, dtype=np.uint8))
        objects = np.arange(144, dtype=np.uint16).reshape(12, 12) + 100 * index
        save_picture(tmp_path / "labels" / f"{name}.png", objects)
    assert "hold 344 different values, as numbered objects do" in refuse(tmp_path)


def test_label_maps_of_background_alone_are_refused(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
        save_nifti(tmp_path / f"{name}_seg.nii.gz", make_mask(0, 0))
    assert "nothing but background" in refuse(tmp_path)


def test_a_doubt_is_refused_with_patterns_that_settle_it(tmp_path):
    for name in ("Image_01L", "Image_02L"):
        for word in ("", "_1stHO", "_2ndHO"):
            save_picture(tmp_path / f"{name}{word}.png", np.eye(9, dtype=np.uint8))
    message = refuse(tmp_path)
    assert "Image_01L.png: 2 label maps could belong to it: Image_01L_1stHO.png or Image_01L_2ndHO.png" in message
    assert "--images 'Image_*.png' --labels 'Image_*_1stHO.png'" in message
    report = init(tmp_path, images="Image_*.png", labels="Image_*_1stHO.png")
    assert [dict(case.masks) for case in report.cases] == [
        {"": "Image_01L_1stHO.png"},
        {"": "Image_02L_1stHO.png"},
    ]
    assert sorted(path for paths in report.left_out.values() for path in paths) == [
        "Image_01L_2ndHO.png",
        "Image_02L_2ndHO.png",
    ]


def test_images_without_any_label_map_are_refused(tmp_path):
    save_image(tmp_path / "a.nii.gz")
    message = refuse(tmp_path)
    assert "no label map belongs to any image" in message
    assert "--labels" in message


def test_a_folder_without_images_is_refused(tmp_path):
    assert "there is no image file in it" in refuse(tmp_path)


def test_a_pattern_that_matches_nothing_is_refused(patients):
    message = refuse(patients, images="*/*.nii.gz", labels="*/*_drawn.nii.gz")
    assert "--labels '*/*_drawn.nii.gz' matches none of the 8 image files" in message


def test_label_maps_and_masks_are_not_mixed(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz")
    save_nifti(tmp_path / "a_seg.nii.gz", make_mask(1, 3))
    save_nifti(tmp_path / "b_liver.nii.gz", make_mask(1, 3))
    save_nifti(tmp_path / "b_spleen.nii.gz", make_mask(4, 5))
    assert "a has one label map (a_seg.nii.gz), b has masks (b_liver.nii.gz, b_spleen.nii.gz)" in refuse(tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "groups.json"])
def test_what_is_there_is_not_replaced_unless_asked(patients, name):
    (patients / name).write_text("{}")
    with pytest.raises(RunError, match=f"{name} exists already"):
        init(patients)
    assert (patients / name).read_text() == "{}"
    init(patients, overwrite=True)
    assert check(patients) == []


def test_joined_label_maps_that_are_there_are_not_replaced_unless_asked(tumours):
    (tumours / "labels_joined").mkdir()
    with pytest.raises(RunError, match="labels_joined exists already"):
        init(tumours)
    assert not any((tumours / "labels_joined").iterdir())
    init(tumours, overwrite=True)
    assert check(tumours) == []


def test_ct_is_recognized_by_its_intensities_and_only_mentioned(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.nii.gz", lowest=-1000.0)
        save_nifti(tmp_path / f"{name}_seg.nii.gz", make_mask(1, 3))
    report = init(tmp_path)
    assert report.channels == ("image",)
    assert "as in CT" in report.notes[0]


def test_label_maps_on_another_grid_are_kept_and_pointed_out(patients):
    save_nifti(patients / "p1" / "p1_frame1_gt.nii.gz", make_mask(1, 3)[:, :, 1:])
    report = init(patients)
    assert len(report.cases) == 4
    assert any(
        note.startswith("warning: image and label map differ in shape in 1 of 4 cases (p1_frame1)")
        for note in report.notes
    )
    assert any("p1_frame1_gt.nii.gz" in problem for problem in check(patients))


def test_folds_of_ones_own_are_mentioned(patients):
    (patients / "splits_final.json").write_text("[]")
    assert "splits_final.json exists and determines the folds" in init(patients).notes
