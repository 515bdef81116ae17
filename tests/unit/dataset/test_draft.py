import pytest

from autoseg.dataset.drafting.draft import draft_cases, name_channels, suggest_group_pattern
from autoseg.dataset.drafting.name_parts import parse_path
from autoseg.dataset.drafting.pairing import pair_by_name


def draft(*paths, is_explicit=False):
    return draft_cases(pair_by_name([parse_path(path) for path in paths]).cases, is_explicit=is_explicit)


def list_groups(*paths):
    return {case.name: case.group for case in draft(*paths).cases}


def test_channels_are_ordered_by_number():
    (case,) = draft("imagesTr/a_0001.png", "imagesTr/a_0000.png", "labelsTr/a.png").cases
    assert (case.name, case.images) == ("a", ("imagesTr/a_0000.png", "imagesTr/a_0001.png"))


def test_named_channels_have_one_order_in_all_cases():
    found = draft(*(f"{p}/{p}_{word}.nii.gz" for p in "ab" for word in ("seg", "flair", "t1ce", "t2", "t1")))
    assert found.channels == ("t1", "t1ce", "t2", "flair")
    assert [case.images[3] for case in found.cases] == ["a/a_flair.nii.gz", "b/b_flair.nii.gz"]


def test_a_case_that_lacks_a_channel_is_left_out_by_name():
    found = draft(
        *(f"{p}/{p}_{word}.nii.gz" for p in "ab" for word in ("t1", "flair", "seg")), "c/c_t1.nii.gz", "c/c_seg.nii.gz"
    )
    assert [case.name for case in found.cases] == ["a", "b"]
    assert found.left_out == {"c/c_t1.nii.gz": "its channels are T1, not T1 + FLAIR"}


def test_no_set_of_channels_is_chosen_where_none_has_the_majority():
    found = draft("a_T1w.nii.gz", "a_T1w_seg.nii.gz", "b_T2w.nii.gz", "b_T2w_seg.nii.gz")
    assert found.cases == ()
    assert found.problems == (
        "cases have different channels: T1w (1 cases), T2w (1 cases); no set of channels belongs to more than half "
        "of them",
    )


def test_images_that_the_user_named_are_one_channel_whatever_they_are_called():
    found = draft("a_T1w.nii.gz", "a_T1w_seg.nii.gz", "b_T2w.nii.gz", "b_T2w_seg.nii.gz", is_explicit=True)
    assert found.channels == ("",)
    assert len(found.cases) == 2


@pytest.mark.parametrize(
    ("words", "per_file", "is_picture", "names"),
    [
        (("",), 3, True, ("R", "G", "B")),
        (("0000",), 3, True, ("R", "G", "B")),
        (("",), 3, False, ("channel_0", "channel_1", "channel_2")),
        (("",), 2, True, ("channel_0", "channel_1")),
        (("",), 1, True, ("image",)),
        (("0000",), 1, False, ("image",)),
        (("ct",), 1, False, ("CT",)),
        (("0000", "0001"), 1, False, ("channel_0", "channel_1")),
        (("t1n", "t1c", "t2w", "t2f"), 1, False, ("T1n", "T1c", "T2w", "T2f")),
    ],
)
def test_channels_are_named_by_the_files_and_pictures_by_their_colours(words, per_file, is_picture, names):
    assert name_channels(words, per_file=per_file, is_picture=is_picture) == names


def test_images_of_one_folder_belong_to_one_patient():
    groups = list_groups(
        *(f"{p}/{p}_frame{i}{word}.nii.gz" for p in ("p1", "p2") for i in "12" for word in ("", "_gt"))
    )
    assert groups == {"p1_frame1": "p1", "p1_frame2": "p1", "p2_frame1": "p2", "p2_frame2": "p2"}


def test_folders_that_all_cases_share_or_that_only_split_are_no_patients():
    paths = [f"study/{split}/{p}/{i}{word}.png" for split, p in (("train", "p1"), ("val", "p2")) for i in "12"
             for word in ("", "_mask")]  # fmt: skip
    assert set(list_groups(*paths).values()) == {"p1", "p2"}


def test_sessions_of_a_bids_subject_belong_together():
    image, label = (
        "sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_T2w",
        "derivatives/labels/sub-{0}/ses-{1}/anat/sub-{0}_ses-{1}_T2w_seg",
    )
    paths = [f"{text.format(s, t)}.nii.gz" for s in "12" for t in "ab" for text in (image, label)]
    assert list_groups(*paths) == {
        "sub-1_ses-a": "sub-1", "sub-1_ses-b": "sub-1", "sub-2_ses-a": "sub-2", "sub-2_ses-b": "sub-2",
    }  # fmt: skip


def test_the_subject_may_stand_in_the_file_name_alone():
    groups = list_groups(*(f"{folder}/sub-7_ses-{t}_T1w.nii.gz" for folder in ("images", "labels") for t in "ab"))
    assert set(groups.values()) == {"sub-7"}


def test_two_labelled_channels_of_one_case_belong_to_one_patient():
    paths = [
        f"{folder}/{case}_{word}.nii.gz" for folder in ("images", "labels") for case in "ab" for word in ("adc", "dwi")
    ]
    found = draft(*paths, is_explicit=True)
    assert [(case.name, case.group) for case in found.cases] == [
        ("a_adc", "a"),
        ("a_dwi", "a"),
        ("b_adc", "b"),
        ("b_dwi", "b"),
    ]


def test_numbered_pictures_are_no_patient():
    groups = list_groups(*(f"{folder}/pic_000{index}.png" for folder in ("images", "labels") for index in range(3)))
    assert len(set(groups.values())) == 3


def test_equal_names_in_different_folders_get_the_folders_before_them():
    names = list_groups(*(f"p{i}/{word}.nii.gz" for i in "12" for word in ("scan7_image", "scan7_mask")))
    assert list(names) == ["p1_scan7", "p2_scan7"]


def test_images_that_are_called_nothing_but_image_are_named_by_their_folder():
    assert list(list_groups(*(f"p{i}/{word}.nii.gz" for i in "12" for word in ("image", "mask")))) == ["p1", "p2"]


def test_a_mask_of_the_background_is_left_out_by_name():
    found = draft("a.png", "a_liver.png", "a_background.png")
    assert [dict(case.masks) for case in found.cases] == [{"liver": "a_liver.png"}]
    assert found.left_out == {"a_background.png": "background is what no mask holds"}


def test_bids_words_before_a_structure_are_no_part_of_its_name():
    found = draft("s_T2w.nii.gz", "s_T2w_label-SC_mask.nii.gz", "s_T2w_label-GM_mask.nii.gz")
    assert [list(case.masks) for case in found.cases] == [["GM", "SC"]]


@pytest.mark.parametrize(
    ("names", "has_pattern"),
    [
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R"], True),
        (["p1_visit1", "p1_visit2", "p2_visit1"], True),
        (["p1_left", "p1_right"], True),
        (["p1_left", "p2_right"], False),
        (["a", "b"], False),
        (["Image_01L", "Image_01R", "overview"], False),
    ],
)
def test_sides_and_times_in_names_are_pointed_out(names, has_pattern):
    assert (suggest_group_pattern(names) is not None) is has_pattern
