import pytest

from autoseg.dataset.drafting.name_parts import parse_path
from autoseg.dataset.drafting.pairing import describe_pattern, pair_by_name


def pair(*paths):
    return pair_by_name([parse_path(path) for path in paths])


def list_cases(*paths):
    """Pairs files of which every one must be used."""
    pairing = pair(*paths)
    assert pairing.problems == []
    assert pairing.left_out == {}
    return [
        (sorted(image.path for image in case.images), {name: label.path for name, label in case.masks.items()})
        for case in pairing.cases
    ]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}.png", "labels/{}.png"),
        ("images/{}.jpg", "masks/{}.png"),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("{}_image.nii.gz", "{}_label.nii.gz"),
        ("{}.nii.gz", "{}_seg.nii.gz"),
        ("{}.nii.gz", "{}-seg.nii.gz"),
        ("{}.png", "{}_mask.png"),
        ("{}.nii.gz", "{}_gt.nii.gz"),
        ("Image_{}L.jpg", "Image_{}L_1stHO.png"),
        ("training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif"),
        ("{}/image.nii.gz", "{}/mask.nii.gz"),
        ("{}/imaging.nii.gz", "{}/segmentation.nii.gz"),
        ("{0}/{0}_frame01.nii.gz", "{0}/{0}_frame01_gt.nii.gz"),
        ("volume-{}.nii", "segmentation-{}.nii"),
        ("img/img{}.nii.gz", "label/label{}.nii.gz"),
        ("train/images/{}.png", "train/masks/{}.png"),
        ("images/train/{}.png", "masks/train/{}.png"),
        ("sub-{0}/anat/sub-{0}_T2w.nii.gz", "derivatives/labels/sub-{0}/anat/sub-{0}_T2w_seg-manual.nii.gz"),
        (
            "sub-{0}/ses-2/anat/sub-{0}_ses-2_T2w.nii.gz",
            "derivatives/labels/sub-{0}/ses-2/anat/sub-{0}_ses-2_T2w_seg-manual.nii.gz",
        ),
    ],
)
def test_common_layouts_pair_an_image_with_its_label_map(image, label):
    files = [pattern.format(case) for case in ("01", "02") for pattern in (image, label)]
    assert list_cases(*files) == [([files[0]], {"": files[1]}), ([files[2]], {"": files[3]})]


@pytest.mark.parametrize(
    ("images", "label"),
    [
        (["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "labelsTr/a.nii.gz"),
        (["p1/p1-t1c.nii.gz", "p1/p1-t1n.nii.gz", "p1/p1-t2f.nii.gz", "p1/p1-t2w.nii.gz"], "p1/p1-seg.nii.gz"),
        (["p1/p1_flair.nii.gz", "p1/p1_t1ce.nii.gz"], "p1/p1_seg.nii.gz"),
        (["p1/flair.nii.gz", "p1/t1.nii.gz"], "p1/seg.nii.gz"),
    ],
)
def test_channels_of_a_case_belong_to_one_label_map(images, label):
    assert list_cases(*images, label) == [(images, {"": label})]


@pytest.mark.parametrize(
    ("image", "liver", "spleen"),
    [
        ("s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s1/segmentations/spleen.nii.gz"),
        ("s1/ct.nii.gz", "s1/liver.nii.gz", "s1/spleen.nii.gz"),
        ("a.nii.gz", "a_liver.nii.gz", "a_spleen.nii.gz"),
        ("a_ct.nii.gz", "a_liver.nii.gz", "a_spleen.nii.gz"),
        ("images/a.png", "masks/liver/a.png", "masks/spleen/a.png"),
        ("images/a.png", "masks/a/liver.png", "masks/a/spleen.png"),
        ("images/a.png", "masks/a_liver.png", "masks/a_spleen.png"),
        ("p1/scan7.nii.gz", "p1/liver_mask.nii.gz", "p1/spleen_mask.nii.gz"),
    ],
)
def test_masks_of_structures_belong_to_one_image(image, liver, spleen):
    assert list_cases(image, liver, spleen) == [([image], {"liver": liver, "spleen": spleen})]


def test_digits_that_the_label_map_has_too_number_cases_and_not_channels():
    files = [f"{folder}/pic_{index:04d}.png" for folder in ("images", "labels") for index in range(3)]
    pairing = pair(*files)
    assert [(case.images[0].name, case.images[0].channel) for case in pairing.cases] == [
        ("pic_0000", ""),
        ("pic_0001", ""),
        ("pic_0002", ""),
    ]


def test_a_label_map_that_names_one_channel_belongs_to_it_alone_and_the_other_is_named():
    pairing = pair("a_T1w.nii.gz", "a_T2w.nii.gz", "a_T2w_seg.nii.gz")
    assert [[image.path for image in case.images] for case in pairing.cases] == [["a_T2w.nii.gz"]]
    assert pairing.left_out == {"a_T1w.nii.gz": "no label map belongs to it"}


def test_two_candidates_for_one_image_are_named_and_none_is_chosen():
    pairing = pair("Image_01L.jpg", "Image_01L_1stHO.png", "Image_01L_2ndHO.png")
    assert pairing.cases == []
    assert pairing.problems == [
        "Image_01L.jpg: 2 label maps could belong to it: Image_01L_1stHO.png or Image_01L_2ndHO.png"
    ]


def test_masks_beside_a_whole_label_map_are_two_candidates():
    pairing = pair("a.png", "a_mask.png", "a_mask_1.png")
    assert pairing.cases == []
    assert "a.png: 2 label maps could belong to it" in pairing.problems[0]


def test_two_images_for_one_label_map_are_named():
    pairing = pair("images/a.png", "images/a.jpg", "labels/a.png")
    assert pairing.cases == []
    assert pairing.problems == ["labels/a.png: 2 images could belong to it: images/a.jpg or images/a.png"]


def test_the_same_doubt_about_many_cases_is_one_problem():
    pairing = pair(*(f"{case}{word}.png" for case in "abc" for word in ("", "_1stHO", "_2ndHO")))
    (problem,) = pairing.problems
    assert problem.endswith("; and 2 others of such names")


def test_images_without_label_maps_and_label_maps_without_images_are_named():
    pairing = pair("images/a.png", "images/b.png", "labels/a.png", "labels/c.png")
    assert len(pairing.cases) == 1
    assert pairing.problems == []
    assert pairing.left_out == {
        "images/b.png": "no label map belongs to it",
        "labels/c.png": "no image belongs to it",
    }


def test_a_kind_of_label_map_of_which_none_has_an_image_is_a_problem():
    pairing = pair("images/a.png", "labels/a.png", "images/b.png", "labels/b.png", "masks/7.png", "masks/8.png")
    assert pairing.problems == ["masks/*.png: no image belongs to its 2 files, the first is masks/7.png"]


def test_files_outside_of_image_and_label_folders_are_named_and_not_used():
    pairing = pair("images/a.png", "labels/a.png", "overview.png", "imagesTs/z.png", "instancesTr/a.png")
    assert len(pairing.cases) == 1
    assert sorted(pairing.left_out) == ["imagesTs/z.png", "instancesTr/a.png", "overview.png"]


def test_a_name_of_its_own_in_every_folder_is_no_structure():
    pairing = pair("p1/x7.nii.gz", "p1/drawn_9_mask.nii.gz", "p2/x8.nii.gz", "p2/drawn_5_mask.nii.gz")
    assert [list(case.masks) for case in pairing.cases] == [[""], [""]]


def test_different_structures_of_different_cases_stay_different():
    pairing = pair("a.nii.gz", "a_liver.nii.gz", "b.nii.gz", "b_spleen.nii.gz")
    assert [list(case.masks) for case in pairing.cases] == [["liver"], ["spleen"]]


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("images/a_0000.png", "images/*_0000.png"),
        ("Image_01L_1stHO.png", "Image_*_1stHO.png"),
        ("p1/p1-seg.nii.gz", "*/*-seg.nii.gz"),
        ("p1/mask.nii.gz", "*/mask.nii.gz"),
    ],
)
def test_the_pattern_of_a_file_has_a_star_for_what_differs(path, pattern):
    assert describe_pattern(parse_path(path)) == pattern
