"""Files of one case that other programs saved differently: taken where the meaning is certain, else named."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from builders.datasets import describe_dataset
from builders.volumes import AFFINE, save_nifti
from PIL import Image

from autoseg.dataset import find_images, read_dataset
from autoseg.errors import DatasetError, EvaluationError
from autoseg.workflows.cases.reading import read_labelled_case
from autoseg.workflows.evaluate.evaluation import pair_label_maps

GREY = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8)
DRAWN = (GREY > 100).astype(np.uint8)
VOLUME = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
LABELS = (VOLUME > 50).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    return tmp_path


def describe(root, *, ending=".nii.gz", channels=("MR",), labels=None):
    describe_dataset(
        root,
        channel_names={str(index): name for index, name in enumerate(channels)},
        labels=labels or {"background": 0, "organ": 1},
        numTraining=2,
        file_ending=ending,
    )


def read(root, name="a"):
    dataset = read_dataset(root)
    case = next(case for case in dataset.cases if case.name == name)
    return read_labelled_case(case, labels=dataset.labels, channel_names=dataset.channel_names)


def get_problems(root, name="a"):
    with pytest.raises(DatasetError) as caught:
        read(root, name)
    return str(caught.value)


@pytest.mark.parametrize("is_image_flat", [True, False])
@pytest.mark.parametrize("affine", [AFFINE, np.array([[0, -2, 0, 1], [0, 0, 3, 2], [1.5, 0, 0, 3], [0, 0, 0, 1.0]])])
def test_an_image_in_2d_fits_a_label_map_with_a_third_axis_of_1(root, affine, is_image_flat):
    for name in "ab":
        image, label_map = VOLUME[:, :, 0], LABELS[:, :, :1]
        if not is_image_flat:
            image, label_map = VOLUME[:, :, :1], LABELS[:, :, 0]
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", image, affine)
        save_nifti(root / "imagesTr" / f"{name}_0001.nii.gz", VOLUME[:, :, :1], affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label_map, affine)
    describe(root, channels=("T1", "T2"))
    case = read(root)
    np.testing.assert_array_equal(case.label_map[0].T, LABELS[:, :, 0])
    np.testing.assert_array_equal(case.image[1], case.image[0])


def test_an_image_in_2d_with_another_spacing_in_plane_is_refused(root):
    for name in "ab":
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", VOLUME[:, :, 0], AFFINE)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", LABELS[:, :, :1], np.diag([-1, -1.5, 2, 1.0]))
    describe(root)
    assert "differ in spacing (by 0.5 mm)" in get_problems(root)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_a_grey_picture_is_one_channel_however_it_is_saved(root, mode):
    for name in "ab":
        Image.fromarray(GREY).convert(mode).save(root / "imagesTr" / f"{name}_0000.png")
        Image.fromarray(DRAWN).save(root / "labelsTr" / f"{name}.png")
    describe(root, ending=".png")
    np.testing.assert_array_equal(read(root).image[0, 0], GREY)


def test_a_coloured_picture_among_greys_and_a_grey_one_among_colours_are_named_as_such(root):
    colours = np.stack([GREY, GREY, GREY // 2], axis=-1)
    for name, picture in (("a", colours), ("b", GREY)):
        Image.fromarray(picture).save(root / "imagesTr" / f"{name}_0000.png")
        Image.fromarray(DRAWN).save(root / "labelsTr" / f"{name}.png")
    describe(root, ending=".png")
    differing = np.count_nonzero(GREY != GREY // 2)
    assert f"in colour (red, green and blue differ in {differing} of 96 pixels): save it as grey" in get_problems(root)
    describe(root, ending=".png", channels=("R", "G", "B"))
    assert "the picture is grey: save it in colour (RGB)" in get_problems(root, "b")


def test_a_picture_to_be_shown_turned_fits_a_label_map_that_was_drawn_on_what_is_shown(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, drawn in (("a", np.rot90(DRAWN, -1)), ("b", DRAWN)):
        Image.fromarray(GREY).save(root / "imagesTr" / f"{name}_0000.png", exif=exif)
        Image.fromarray(np.ascontiguousarray(drawn)).save(root / "labelsTr" / f"{name}.png")
    describe(root, ending=".png")
    for name in "ab":
        np.testing.assert_array_equal(read(root, name).label_map[0], DRAWN)


def test_a_picture_upside_down_with_a_label_map_that_does_not_say_so_is_refused(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in "ab":
        Image.fromarray(GREY).save(root / "imagesTr" / f"{name}_0000.png", exif=exif)
        Image.fromarray(DRAWN).save(root / "labelsTr" / f"{name}.png")
    describe(root, ending=".png")
    assert "by its EXIF orientation the image is to be shown turned by 180 degrees" in get_problems(root)


def save_segmentation(path, segments, voxels=LABELS):
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T), isVector=voxels.ndim == 4)
    for number, (name, value) in enumerate(segments.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.parametrize("segments", [{}, {"Organ": 1}, {"Segment_1": 1}])
def test_segmentations_of_3d_slicer_are_label_maps(root, segments):
    for name in "ab":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME.T), str(root / "imagesTr" / f"{name}_0000.nrrd"))
        save_segmentation(root / "labelsTr" / f"{name}.seg.nrrd", segments)
    describe(root, ending=".nrrd")
    np.testing.assert_array_equal(read(root).label_map, LABELS.T)


def test_a_segment_whose_value_is_another_in_dataset_json_is_named(root):
    for name in "ab":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME.T), str(root / "imagesTr" / f"{name}_0000.nrrd"))
        save_segmentation(root / "labelsTr" / f"{name}.seg.nrrd", {"tumour": 1, "organ": 2})
    describe(root, ending=".nrrd", labels={"background": 0, "organ": 1, "tumour": 2})
    problems = get_problems(root)
    assert "a.seg.nrrd: the segment 'tumour' has the value 1 in the file, but dataset.json says 2" in problems
    assert "the segment 'organ' has the value 2 in the file, but dataset.json says 1" in problems


def test_overlapping_segments_are_named(root):
    for name in "ab":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME.T), str(root / "imagesTr" / f"{name}_0000.nrrd"))
        save_segmentation(root / "labelsTr" / f"{name}.seg.nrrd", {"organ": 1}, voxels=np.stack([LABELS, LABELS]))
    describe(root, ending=".nrrd")
    assert "found 2; these are overlapping segments of 3D Slicer: export them as a labelmap" in get_problems(root)


def test_two_label_maps_of_a_case_are_named(root):
    for name in "ab":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME.T), str(root / "imagesTr" / f"{name}_0000.nrrd"))
        save_segmentation(root / "labelsTr" / f"{name}.seg.nrrd", {})
    save_segmentation(root / "labelsTr" / "a.nrrd", {})
    describe(root, ending=".nrrd")
    assert "two label maps, a.nrrd and a.seg.nrrd; remove one" in get_problems(root)


@pytest.mark.parametrize(
    ("folder", "first", "second"),
    [
        ("imagesTr", "a_0000.nii.gz", "a_0000.nii"),
        ("imagesTr", "a_0000.nii.gz", "a_0000.hdr"),
        ("labelsTr", "a.nii.gz", "a.nii"),
    ],
)
def test_a_file_that_stands_twice_is_refused_with_both_names(root, folder, first, second):
    for name in "ab":
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", VOLUME)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", LABELS)
    kind = nib.Nifti1Pair if second.endswith(".hdr") else nib.Nifti1Image
    nib.save(kind(VOLUME, AFFINE), root / folder / second)
    describe(root)
    listed = second.replace(".hdr", ".*")  # the line for header and voxels
    assert f"{folder} holds {first} and {listed}, which may differ; keep one of them" in get_problems(root)


def test_links_in_a_ring_are_a_problem_of_their_case_alone(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", VOLUME)
    (tmp_path / "b.nii.gz").symlink_to("c.nii.gz")
    (tmp_path / "c.nii.gz").symlink_to("b.nii.gz")
    cases, problems = find_images(tmp_path, channel_count=1, file_ending=".nii.gz")
    assert [case.name for case in cases] == ["a"]
    assert [problem.text for problem in problems] == [
        f"{tmp_path / name} is a link to a file that does not exist, or to itself" for name in ("b.nii.gz", "c.nii.gz")
    ]


def test_in_prediction_and_evaluation_no_file_that_stands_twice_is_taken(tmp_path):
    for name in ("a.nii.gz", "a.nii", "b_0000.nii.gz", "b_0000.nii", "c.nii.gz"):
        save_nifti(tmp_path / name, VOLUME)
    Image.fromarray(GREY).save(tmp_path / "c.png")  # a preview is no second image
    cases, problems = find_images(tmp_path, channel_count=1, file_ending=".nii.gz")
    assert [case.name for case in cases] == ["c"]
    assert [problem.describe() for problem in problems] == [
        f"case {case}: {tmp_path.name} holds {stem}.nii.gz and {stem}.nii, which may differ; keep one of them"
        for case, stem in (("a", "a"), ("b", "b_0000"))
    ]
    with pytest.raises(EvaluationError, match=r"holds a\.nii and a\.nii\.gz, which may differ"):
        pair_label_maps(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("a.nii.gz", "a.png"), None),  # a picture of a slice would be compared with one
        (("a.nii.gz", "a.nrrd"), None),
        (("a.hdr", "a.img"), "a.img"),
        (("a.nii.gz", "a.nrrd.txt"), "a.nii.gz"),
        (("a.jpg", "a.png"), "a.png"),
        (("a.nii.gz", "a.seg.nrrd"), "a.seg.nrrd"),
    ],
)
def test_an_evaluation_takes_no_label_map_by_chance(tmp_path, names, taken):
    for name in names:
        (tmp_path / name).touch()
    if taken is None:
        with pytest.raises(EvaluationError, match=rf"holds {names[0]} and {names[1]}, which may differ; keep one"):
            pair_label_maps(tmp_path, tmp_path)
    else:
        assert pair_label_maps(tmp_path, tmp_path) == [("a", tmp_path / taken, tmp_path / taken)]


def test_a_folder_in_place_of_an_image_or_a_label_map_is_a_problem(root):
    for name in "ab":
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", VOLUME)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", LABELS)
    describe(root)
    (root / "imagesTr" / "c_0000.nii.gz").mkdir()
    (root / "labelsTr" / "b.nii.gz").unlink()
    (root / "labelsTr" / "b.nii.gz").mkdir()
    problems = get_problems(root)
    assert "imagesTr/c_0000.nii.gz is a folder, though named like an image" in problems
    assert "the label map labelsTr/b.nii.gz is missing; labelsTr/b.nii.gz is a folder" in problems
    _, found = find_images(root / "imagesTr", channel_count=1, file_ending=".nii.gz")
    assert [problem.cases for problem in found] == [("c_0000.nii.gz",)]
    assert "is a folder, though named like an image" in found[0].text
