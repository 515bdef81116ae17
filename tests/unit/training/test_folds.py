import json
from typing import ClassVar

import pytest

from autoseg.dataset.folds import (
    Fold,
    Splits,
    find_folds_that_split,
    make_folds,
    make_group_folds,
    make_splits,
    read_foreign_splits,
    select_fold,
)
from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError, TrainingError


def name_cases(count):
    return [f"case_{index:02d}" for index in range(count)]


def test_thirteen_cases_are_split_as_the_reference_implementation_does():
    names = name_cases(13)
    held_out = [{0, 7, 9}, {3, 6, 10}, {8, 11, 12}, {1, 4}, {2, 5}]
    folds = make_folds(reversed(names))
    assert [fold.validation for fold in folds] == [tuple(names[i] for i in sorted(block)) for block in held_out]
    assert [fold.training for fold in folds] == [
        tuple(name for i, name in enumerate(names) if i not in block) for block in held_out
    ]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_cases_are_left_out_one_by_one(count):
    folds = make_folds(name_cases(count))
    assert len(folds) == count
    assert sorted(case for fold in folds for case in fold.validation) == name_cases(count)
    assert all(len(fold.training) == count - 1 and not set(fold.training) & set(fold.validation) for fold in folds)


@pytest.mark.parametrize("count", [5, 6, 9, 41])
def test_every_case_is_held_out_once(count):
    folds = make_folds(name_cases(count))
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold.validation) == name_cases(count)
    assert all(sorted((*fold.training, *fold.validation)) == name_cases(count) for fold in folds)


def test_one_case_cannot_be_split():
    with pytest.raises(TrainingError, match=r"at least two cases, found 1.*--fold all"):
        make_folds(["only"])


def test_splits_survive_the_disk(tmp_path):
    splits = Splits(folds=make_folds(name_cases(7)))
    write_document(tmp_path / "splits.json", splits)
    assert read_document(tmp_path / "splits.json", Splits) == splits


def test_folds_are_selected_by_name():
    splits = Splits(folds=make_folds(name_cases(6)))
    assert select_fold(splits, "3") == splits.folds[3]
    everything = tuple(name_cases(6))
    assert select_fold(splits, "all") == Fold(training=everything, validation=everything)


@pytest.mark.parametrize("name", ["5", "-1", "01", "x"])
def test_unknown_folds_are_refused(name):
    with pytest.raises(TrainingError, match="one of 0, 1, 2, 3, 4 or all"):
        select_fold(Splits(folds=make_folds(name_cases(6))), name)


def write_foreign(path, folds):
    path.write_text(json.dumps(folds))
    return path


def test_foreign_splits_are_read(tmp_path):
    path = write_foreign(tmp_path / "splits_final.json", [{"train": ["b", "a"], "val": ["c"]}])
    assert read_foreign_splits(path, ["a", "b", "c"]).folds == (Fold(training=("a", "b"), validation=("c",)),)


def test_the_dataset_s_own_splits_come_first(tmp_path):
    path = write_foreign(tmp_path / "splits_final.json", [{"train": ["a"], "val": ["b"]}])
    assert make_splits(["a", "b"], foreign=path).folds == (Fold(training=("a",), validation=("b",)),)
    assert make_splits(["a", "b"], foreign=None).folds == make_folds(["a", "b"])


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"train": ["a", "x"], "val": ["b", "c"]}], "unknown cases: x"),
        ([{"train": ["a"], "val": ["b"]}], "in no fold: c"),
        ([{"train": ["a", "b"], "val": ["b", "c"]}], "fold 0 has b in both"),
        ([{"train": ["a", "b", "c"], "val": []}], "fold 0: 'val' is empty"),
        ([], "in no fold: a, b, c"),
    ],
)
def test_foreign_splits_must_fit_the_dataset(tmp_path, folds, message):
    path = write_foreign(tmp_path / "splits_final.json", folds)
    with pytest.raises(TrainingError, match=message):
        read_foreign_splits(path, ["a", "b", "c"])


def test_foreign_splits_of_another_form_are_named_by_field(tmp_path):
    path = write_foreign(tmp_path / "splits_final.json", [{"train": ["a"]}])
    with pytest.raises(DocumentError, match=r"splits_final.json: folds.0.val: is missing"):
        read_foreign_splits(path, ["a"])


def name_groups(*sizes):
    return {f"g{group:02d}_{index}": f"g{group:02d}" for group, size in enumerate(sizes) for index in range(size)}


@pytest.mark.parametrize("sizes", [(1,) * 7, (3,) * 10, (9, 1, 1, 1, 1, 1), (4, 3, 2, 2, 1, 1, 1, 5, 2), (30, 2)])
def test_every_group_is_held_out_once_and_as_a_whole(sizes):
    groups = name_groups(*sizes)
    folds = make_group_folds(groups)
    assert len(folds) == min(5, len(sizes))
    assert sorted(case for fold in folds for case in fold.validation) == sorted(groups)
    for fold in folds:
        assert sorted((*fold.training, *fold.validation)) == sorted(groups)
        assert not {groups[case] for case in fold.training} & {groups[case] for case in fold.validation}


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ((1,) * 12, [2, 2, 2, 3, 3]),
        ((3,) * 10, [6] * 5),
        ((4, 3, 2, 2, 1, 1, 1, 5, 1), [3, 4, 4, 4, 5]),
        ((30, 2), [2, 30]),
    ],
)
def test_folds_of_groups_have_about_the_same_number_of_cases(sizes, counts):
    assert sorted(len(fold.validation) for fold in make_group_folds(name_groups(*sizes))) == counts


def test_folds_of_groups_are_always_the_same_and_shuffled():
    groups = name_groups(*(2,) * 10)
    folds = make_group_folds(groups)
    assert make_group_folds(dict(reversed(groups.items()))) == folds
    assert [case for fold in folds for case in fold.validation] != sorted(groups)


def test_one_group_cannot_be_split():
    with pytest.raises(TrainingError, match=r"at least two groups of cases, found 1 \(g00\)"):
        make_group_folds(name_groups(7))


def test_folds_that_tear_cases_apart_are_found():
    splits = Splits(folds=make_folds(name_cases(10)))
    first, second = splits.folds[0].validation[0], splits.folds[3].validation[0]
    assert find_folds_that_split(splits, [(first, second), splits.folds[0].validation]) == [(0, 3), ()]


class CountedName(str):
    """A name that counts how often it is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedName.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("count", [50, 400])
def test_each_case_is_found_among_the_others_without_looking_through_them(count):
    groups = {CountedName(f"case_{index:03d}"): f"g{index // 2}" for index in range(count)}
    CountedName.compared = 0
    make_group_folds(groups)
    assert CountedName.compared <= 2 * count


class CountedFold(Fold):
    """A fold that counts how often its cases are read."""

    reads: ClassVar[int] = 0

    def __getattribute__(self, name):
        CountedFold.reads += name in ("training", "validation")
        return super().__getattribute__(name)


@pytest.mark.parametrize("count", [2, 40])
def test_folds_are_read_once_however_many_groups_are_looked_for(count):
    splits = Splits.model_construct(folds=tuple(CountedFold(**dict(fold)) for fold in make_folds(name_cases(80))))
    CountedFold.reads = 0
    find_folds_that_split(splits, [(f"a{index}", f"b{index}") for index in range(count)])
    assert CountedFold.reads == 2 * len(splits.folds)
