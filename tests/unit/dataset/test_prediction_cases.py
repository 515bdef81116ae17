from pathlib import Path

import pytest

from autoseg.dataset import find_images
from autoseg.errors import PredictionError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def find(path: Path, channel_count: int = 1, file_ending: str = ".nii.gz") -> dict[str, list[str]]:
    cases, problems = find_images(path, channel_count=channel_count, file_ending=file_ending)
    assert all(case.label_path is None for case in cases)
    assert not problems
    return {case.name: [image.name for image in case.image_paths] for case in cases}


def test_channel_files_and_plain_files_of_a_folder_are_cases(tmp_path):
    make(tmp_path, "b_0000.nii.gz", "a.nii.gz", "._a.nii.gz", "notes.txt", "c_0000.nii", "sub/d.nii.gz")
    assert find(tmp_path) == {"a": ["a.nii.gz"], "b": ["b_0000.nii.gz"]}


def test_channels_are_sorted_into_cases(tmp_path):
    make(tmp_path, "a_0001.mha", "a_0000.mha", "b_0000.mha", "b_0001.mha")
    assert find(tmp_path, 2, ".MHA") == {"a": ["a_0000.mha", "a_0001.mha"], "b": ["b_0000.mha", "b_0001.mha"]}


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_a_file_may_hold_all_channels(tmp_path, suffix):
    make(tmp_path, f"a{suffix}.png", f"b{suffix}.png")
    assert find(tmp_path, 3, ".png") == {"a": [f"a{suffix}.png"], "b": [f"b{suffix}.png"]}
    assert find(tmp_path / f"a{suffix}.png", 3, ".png") == {"a": [f"a{suffix}.png"]}


def test_digits_that_can_be_no_channel_belong_to_the_name(tmp_path):
    make(tmp_path, "scan_2020.nii.gz", "scan_2021.nii.gz")
    assert find(tmp_path) == {"scan_2020": ["scan_2020.nii.gz"], "scan_2021": ["scan_2021.nii.gz"]}


def test_all_missing_and_superfluous_channels_are_named(tmp_path):
    make(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c_0001.nii.gz", "b_0002.nii.gz")
    with pytest.raises(PredictionError) as caught:
        find(tmp_path, 2)
    message = str(caught.value)
    assert "case a: channel 1 is missing: expected a_0001.nii.gz" in message
    assert "case c: channel 0 is missing: expected c_0000.nii.gz" in message
    assert "b_0002.nii.gz is superfluous: channels are numbered 0 to 1" in message


def test_complete_cases_are_found_beside_incomplete_ones(tmp_path):
    make(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz")
    cases, problems = find_images(tmp_path, channel_count=2, file_ending=".nii.gz")
    assert [case.name for case in cases] == ["a"]
    assert [problem.describe() for problem in problems] == [
        "case b: channel 1 is missing: expected b_0001.nii.gz",
        "case c: c_0002.nii.gz is superfluous: channels are numbered 0 to 1; move it out of the folder",
    ]


def test_numbers_beyond_the_channels_make_every_file_of_the_group_a_case(tmp_path, caplog):
    make(tmp_path, "img_0000.nii.gz", "img_0001.nii.gz", "img_0002.nii.gz", "a_0000.nii.gz", "b.nii.gz")
    numbered = {f"img_{index:04d}": [f"img_{index:04d}.nii.gz"] for index in range(3)}
    assert find(tmp_path) == {"a": ["a_0000.nii.gz"], "b": ["b.nii.gz"]} | numbered
    for name, files in numbered.items():
        assert find(tmp_path / files[0]) == {name: files}
    (record,) = caplog.records
    assert record.getMessage() == (
        "img_0000: the numbers at the end of the names go beyond the single channel of the model, so every such file "
        "is an image of its own"
    )


def test_names_of_nnunet_are_no_numbers_of_cases(tmp_path, caplog):
    make(tmp_path, "scan_0000_0000.nii.gz", "scan_0001_0000.nii.gz", "a_0000.nii.gz")
    assert list(find(tmp_path)) == ["a", "scan_0000", "scan_0001"]
    assert caplog.records == []


def test_numbered_files_of_several_channels_are_cases(tmp_path):
    make(tmp_path, *(f"img_{index:04d}.png" for index in range(5)))
    numbered = {f"img_{index:04d}": [f"img_{index:04d}.png"] for index in range(5)}
    assert find(tmp_path, 3, ".png") == numbered
    assert find(tmp_path / "img_0002.png", 3, ".png") == {"img_0002": ["img_0002.png"]}


def test_one_file_is_a_case_whatever_its_neighbours_are(tmp_path):
    make(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b.mha", "x.txt")
    assert find(tmp_path / "a_0000.nii.gz") == {"a_0000": ["a_0000.nii.gz"]}
    assert find(tmp_path / "a_0001.nii.gz") == {"a_0001": ["a_0001.nii.gz"]}
    assert find(tmp_path / "b.mha") == {"b": ["b.mha"]}


def test_the_other_channels_of_a_file_are_found_beside_it(tmp_path):
    make(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "aa_0001.nii.gz", "a_0002.nii.gz", "a_0001.nii")
    assert find(tmp_path / "a_0001.nii.gz", 2) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    with pytest.raises(PredictionError, match="channel 0 is missing: expected aa_0000"):
        find(tmp_path / "aa_0001.nii.gz", 2)


def test_a_folder_without_fitting_images_is_an_error_that_says_what_is_there(tmp_path):
    make(tmp_path, "a.nii", "b.nii", "c.png", "imagesTs/d.nii.gz")
    with pytest.raises(PredictionError) as caught:
        find(tmp_path)
    assert "no file ending in .nii.gz" in str(caught.value)
    assert "it holds 2 x .nii, 1 x .png; did you mean its folder imagesTs?" in str(caught.value)


def test_what_is_neither_image_nor_folder_is_an_error(tmp_path):
    make(tmp_path, "x.txt")
    with pytest.raises(PredictionError, match="does not exist"):
        find(tmp_path / "nowhere")
    with pytest.raises(PredictionError, match=r"ending of .*x\.txt cannot be read"):
        find(tmp_path / "x.txt")


def test_two_files_that_could_be_the_same_case_are_named(tmp_path):
    make(tmp_path, "p_0001.nii.gz", "p_0001_0000.nii.gz", "q.nii.gz")
    cases, problems = find_images(tmp_path, channel_count=1, file_ending=".nii.gz")
    assert [case.name for case in cases] == ["q"]
    assert [problem.describe() for problem in problems] == [
        "case p_0001: two files could be this case: p_0001.nii.gz and p_0001_0000.nii.gz; rename one"
    ]


def test_one_file_is_predicted_though_another_one_could_be_its_case(tmp_path):
    make(tmp_path, "p_0001.nii.gz", "p_0001_0000.nii.gz", "q_0000.nii.gz", "q.nii.gz")
    assert find(tmp_path / "p_0001_0000.nii.gz") == {"p_0001": ["p_0001_0000.nii.gz"]}
    assert find(tmp_path / "q.nii.gz") == {"q": ["q.nii.gz"]}
    assert find(tmp_path / "q_0000.nii.gz") == {"q": ["q_0000.nii.gz"]}
