import pytest

from autoseg.errors import Problem, describe_cases, group_problems, has_unnamed_cases


def group(*texts: str, start: int = 1) -> list[str]:
    problems = [Problem(text=text, cases=(f"img_{index:02d}",)) for index, text in enumerate(texts, start=start)]
    return [problem.describe() for problem in group_problems(problems)]


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "img_1"), (3, "3 cases (img_1, img_2, img_3)"), (24, "24 cases (img_1, img_2, img_3, ...)")],
)
def test_the_first_cases_are_named_and_all_are_counted(count, words):
    assert describe_cases([f"img_{index}" for index in range(1, count + 1)]) == words
    assert has_unnamed_cases([Problem(text="x", cases=("a",) * count)]) == (count > 3)


def test_what_only_differs_in_files_and_numbers_is_one_line_with_pattern_and_range():
    texts = [
        f"/my data/labelsTr/img_{index:02d}.nii.gz: expected {1000 * index} bytes, found {index + 1}; copy it again"
        for index in range(1, 25)
    ]
    assert group(*texts) == [
        "24 cases (img_01, img_02, img_03, ...): /my data/labelsTr/img_*.nii.gz: expected 1000 to 24000 bytes, "
        "found 2 to 25; copy it again"
    ]


def test_few_different_numbers_are_all_named_in_ascending_order():
    assert group("found 7; x", "found 255; x", "found 3; x") == [
        "3 cases (img_01, img_02, img_03): found 3 or 7 or 255; x"
    ]
    assert group("found -1.5; x", "found -1.5; x") == ["2 cases (img_01, img_02): found -1.5; x"]


def test_lists_of_numbers_are_compared_as_a_whole():
    assert group("found 20 x 22 x 12 voxels", "found 20 x 23 x 12 voxels") == [
        "2 cases (img_01, img_02): found 20 x 22 x 12 (and others) voxels"
    ]


def test_a_number_and_a_list_of_numbers_are_merged_in_either_order():
    assert group("found 5", "found 5, 6") == ["2 cases (img_01, img_02): found 5 (and others)"]
    assert group("found 5, 6", "found 5") == ["2 cases (img_01, img_02): found 5, 6 (and others)"]


def test_a_number_and_a_range_are_told_apart():
    assert group("found 5", "found 5 to 6") == ["case img_01: found 5", "case img_02: found 5 to 6"]


def test_ranges_of_numbers_are_joined():
    assert group("values from 1.5e+18 to 2.018e+19; x", "values from -2e+18 to 9.5e+18; x") == [
        "2 cases (img_01, img_02): values from -2e+18 to 2.018e+19; x"
    ]
    assert group("values from 0 to 5; x", "values from 0 to 5; x") == [
        "2 cases (img_01, img_02): values from 0 to 5; x"
    ]


def test_different_sentences_stay_apart_in_the_order_found():
    assert group("is empty", "is cut off", "is empty") == [
        "2 cases (img_01, img_03): is empty",
        "case img_02: is cut off",
    ]


def test_the_channel_that_is_missing_is_part_of_what_is_wrong():
    lines = group("channel 1 is missing: expected a_0001.png", "channel 2 is missing: expected b_0002.png")
    assert lines == [
        "case img_01: channel 1 is missing: expected a_0001.png",
        "case img_02: channel 2 is missing: expected b_0002.png",
    ]


def test_details_that_differ_are_those_of_the_first_case_and_say_so():
    assert group("the grids differ\n    expected 3", "the grids differ\n    expected 4") == [
        "2 cases (img_01, img_02): the grids differ\n    for example in img_01:\n    expected 3"
    ]
    assert group("the grids differ\n    repair it", "the grids differ\n    repair it") == [
        "2 cases (img_01, img_02): the grids differ\n    repair it"
    ]


def test_problems_of_the_dataset_are_not_grouped():
    texts = ["labels: 1 is twice", "labels: 2 is twice"]
    assert [problem.text for problem in group_problems(Problem(text=text) for text in texts)] == texts


def test_grouping_twice_changes_nothing():
    problems = [Problem(text=f"found {index}", cases=(f"c{index}",)) for index in range(9)]
    once = group_problems(problems)
    assert group_problems(once) == once
    assert once[0].cases == tuple(f"c{index}" for index in range(9))
