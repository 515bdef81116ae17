import inspect
import pickle

import pytest

from autoseg import errors
from autoseg.errors import AutosegError, CasesFailedError, DatasetError, ProblemsError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_everything_that_the_user_can_put_right_has_one_root():
    assert len(KINDS) > 5
    assert all(issubclass(kind, AutosegError) for kind in KINDS)


def test_problems_are_listed_below_their_heading():
    error = DatasetError("two things are wrong:", ["first", "second"])
    assert str(error) == "two things are wrong:\n  - first\n  - second"
    assert error.problems == ("first", "second")
    assert error.heading == "two things are wrong:"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_the_way_out_of_a_worker_process(kind):
    error = kind("heading", ["a", "b"]) if issubclass(kind, ProblemsError) else kind("message")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is kind
    assert str(restored) == str(error)
    if isinstance(restored, ProblemsError):
        assert restored.problems == ("a", "b")


def test_failed_cases_are_no_dataset_error():
    assert not issubclass(CasesFailedError, DatasetError)
