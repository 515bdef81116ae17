import pytest

from autoseg.dataset.drafting.name_parts import parse_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("imagesTr/a_0001.nii.gz", ("image", (), "a_0001", "a", "0001")),
        ("labelsTr/a.nii.gz", ("label", (), "a", "a", "")),
        ("Image_01L_1stHO.png", ("label", (), "01L", "01L", "")),
        ("training/1st_manual/21_manual1.gif", ("label", ("training",), "21", "21", "")),
        ("training/images/21_training.tif", ("image", ("training",), "21", "21", "")),
        ("p1/p1-t1ce.nii.gz", ("unknown", ("p1",), "p1-t1ce", "p1", "t1ce")),
        ("p1/p1-seg.nii.gz", ("label", ("p1",), "p1", "p1", "")),
        ("s1/ct.nii.gz", ("unknown", ("s1",), "ct", "", "ct")),
        ("s1/segmentations/liver.nii.gz", ("label", ("s1",), "liver", "liver", "")),
        ("sub-1/anat/sub-1_T2w.nii.gz", ("unknown", ("sub-1", "anat"), "sub-1_T2w", "sub-1", "t2w")),
        ("derivatives/x/sub-1/sub-1_T2w_seg-manual.nii.gz", ("label", ("sub-1",), "sub-1_T2w", "sub-1", "t2w")),
        ("derivatives/labels/sub-1/anat/sub-1_T2w.nii.gz", ("label", ("sub-1", "anat"), "sub-1_T2w", "sub-1", "t2w")),
        ("derivatives/prep/sub-1/anat/sub-1_T2w.nii.gz", ("unused", ("sub-1", "anat"), "sub-1_T2w", "sub-1", "t2w")),
        ("volume-0.nii", ("image", (), "0", "0", "")),
        ("segmentation-0.nii", ("label", (), "0", "0", "")),
        ("img/img0001.nii.gz", ("image", (), "0001", "0001", "")),
        ("images/a_image_0000.png", ("image", (), "a_image_0000", "a", "0000")),
        ("imagesTs/b_0000.nii.gz", ("unused", ("imagesTs",), "b_0000", "b", "0000")),
        ("test/images/b.png", ("unused", ("test", "images"), "b", "b", "")),
        ("images/a_mask.png", ("label", (), "a", "a", "")),
        ("labels/a_image.png", ("label", (), "a", "a", "")),
        ("scanner/unmasked.png", ("unknown", ("scanner",), "unmasked", "unmasked", "")),
    ],
)  # fmt: skip
def test_folders_and_words_tell_role_case_and_channel(path, expected):
    """Expected are role, folders, stem, base and channel."""
    parts = parse_path(path)
    assert (parts.role, parts.folders, parts.stem, parts.base, parts.channel) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [("Image_01L.jpg", "Image_01L"), ("volume-0.nii", "volume-0"), ("a_image.png", "a"), ("c/image.png", "")],
)
def test_a_case_is_called_as_its_image_but_for_the_words_at_the_end(path, name):
    assert parse_path(path).name == name
