import json
from dataclasses import replace

import pytest

from autoseg.dataset import read_dataset
from autoseg.errors import TrainingError
from autoseg.workflows.plan.splitting import SplitRequest, describe_duplicates, divide_into_folds


@pytest.fixture
def divide(dataset):
    return lambda **request: divide_into_folds(read_dataset(dataset), SplitRequest(**request))


def list_patients(names):
    return {name.partition("_")[0] for name in names}


def test_a_pattern_keeps_patients_together_and_says_how_many_folds_that_leaves(divide):
    division = divide(group_by=r"^(p\d)_")
    assert len(division.splits.folds) == 3
    for fold in division.splits.folds:
        assert not list_patients(fold.training) & list_patients(fold.validation)
    assert division.notes == ("warning: only 3 groups of cases: cross-validation uses 3 folds",)
    assert division.groups == {f"p{patient}_{scan}": f"p{patient}" for patient in (1, 2, 3) for scan in "ab"}


def test_groups_beside_the_dataset_are_used_unless_a_pattern_is_given(divide, dataset):
    names = [case.name for case in read_dataset(dataset).cases]
    (dataset / "groups.json").write_text(json.dumps({name: name[-1] for name in names}))
    assert [len(fold.validation) for fold in divide().splits.folds] == [3, 3]
    assert len(divide(group_by=r"^(p\d)_").splits.folds) == 3


def test_enough_groups_give_five_folds_and_no_warning(divide):
    division = divide(group_by=".*")
    assert len(division.splits.folds) == 5
    assert division.notes == ("the images of each of 6 groups are kept together in one of 5 folds",)


def write_splits(path):
    names = [f"p{patient}_{scan}" for patient in (1, 2, 3) for scan in "ab"]
    path.write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    return path


def test_a_file_of_folds_comes_first_and_torn_groups_are_named(divide, dataset, tmp_path):
    path = write_splits(dataset / "splits_final.json")
    assert divide().splits.folds[0].validation == ("p1_a",)
    names = [case.name for case in read_dataset(dataset).cases]
    (dataset / "groups.json").write_text(json.dumps({name: name[:2] for name in names}))
    first, second = divide().notes
    assert str(path) in first
    assert second == "warning: the group 'p1' of groups.json is in training and validation of fold 0"


def test_a_file_of_folds_may_lie_elsewhere(divide, tmp_path):
    path = write_splits(tmp_path / "mine.json")
    assert divide(splits_file=path).splits.folds[0].validation == ("p1_a",)
    assert divide(splits_file=path).groups == {}
    assert SplitRequest(splits_file=path, group_by="a b").options == ("--group-by", "a b", "--splits", str(path))


def test_a_file_and_a_pattern_contradict(divide, dataset):
    write_splits(dataset / "splits_final.json")
    with pytest.raises(TrainingError, match=r"splits_final.json or from --group-by, found both"):
        divide(group_by="^(..)")


def test_few_cases_are_warned_of(dataset):
    whole = read_dataset(dataset)
    division = divide_into_folds(replace(whole, cases=whole.cases[:3]), SplitRequest())
    assert division.notes[0].startswith("warning: only 3 cases: cross-validation uses 3 folds of one case each")


def test_copies_are_described_with_the_folds_that_they_spoil(divide):
    splits = divide().splits
    first, second = splits.folds[0].validation[0], splits.folds[2].validation[0]
    (text,) = describe_duplicates([(first, second)], splits)
    assert f"{first} and {second} have the same image and lie in different folds: folds 0, 2 would validate" in text
    assert "on an image that they train on" in text
    (text,) = describe_duplicates([splits.folds[0].validation], splits)
    assert "different folds" not in text
