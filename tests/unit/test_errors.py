import inspect
import pickle
from pathlib import Path

import pytest

from autoseg import errors
from autoseg.errors import (
    AutosegError,
    CasesFailedError,
    ChannelCount,
    DatasetError,
    Problem,
    ProblemsError,
    UndeclaredValues,
    describe_folds,
    merge_by_fold,
    quote_path,
)

PROBLEMS = (
    Problem(text="a", cases=("x",), finding=UndeclaredValues(voxels={0: 5, 7: 2}, undeclared=(7,))),
    Problem(text="b", cases=("y",), finding=ChannelCount(found=3, is_picture=True)),
)
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_everything_that_the_user_can_put_right_has_one_root():
    assert len(KINDS) > 5
    assert all(issubclass(kind, AutosegError) for kind in KINDS)


def test_one_fold_is_no_plural():
    assert [describe_folds(folds) for folds in (("all",), ("0",), (0, 2))] == ["fold all", "fold 0", "folds 0, 2"]


def test_what_is_said_of_several_folds_is_said_once():
    remarks = [("0", "trained briefly"), ("1", "other data"), ("2", "trained briefly")]
    assert merge_by_fold(remarks) == ["folds 0, 2: trained briefly", "fold 1: other data"]


def test_problems_are_listed_below_their_heading():
    error = DatasetError("two things are wrong:", [Problem(text="first"), Problem(text="second")])
    assert str(error) == "two things are wrong:\n  - first\n  - second"
    assert [problem.text for problem in error.problems] == ["first", "second"]
    assert error.heading == "two things are wrong:"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_the_way_out_of_a_worker_process(kind):
    error = kind("heading", PROBLEMS) if issubclass(kind, ProblemsError) else kind("message")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is kind
    assert str(restored) == str(error)
    if isinstance(restored, ProblemsError):
        assert restored.problems == PROBLEMS


def test_failed_cases_are_no_dataset_error():
    assert not issubclass(CasesFailedError, DatasetError)


@pytest.mark.parametrize(("system", "quoted"), [("posix", "'my run'"), ("nt", '"my run"')])
def test_a_path_with_a_space_is_one_word_of_a_command(monkeypatch, system, quoted):
    path, other = Path("my run"), Path("abdomen.autoseg")
    monkeypatch.setattr(errors.os, "name", system)
    found, plain = quote_path(path), quote_path(other)
    monkeypatch.undo()
    assert (found, plain) == (quoted, "abdomen.autoseg")
