import os

import pytest

from autoseg.errors import DatasetError, VolumeError
from autoseg.progress import Silent
from autoseg.workflows.case_pool import (
    Failure,
    compute_worker_count,
    describe_failures,
    run_over_cases,
    write_failure_log,
)


def halve(number: int) -> int:
    if number == 7:
        msg = "seven is broken"
        raise VolumeError(msg)
    if number == 9:
        heading = "nine"
        raise DatasetError(heading, ["one thing", "another thing"])
    if number % 2:
        raise ValueError(number)
    return number // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_cases_are_named_and_the_others_finished(workers):
    jobs = [(f"case{number}", number) for number in (2, 7, 4, 9, 3, 6)]
    outcome = run_over_cases(halve, jobs, workers=workers, label="Halving", progress=Silent())
    assert outcome.results == (1, 2, 3)
    assert [failure.case for failure in outcome.failures] == ["case7", "case9", "case3"]
    assert outcome.failures[0].problems == ("seven is broken",)
    assert outcome.failures[1].problems == ("one thing", "another thing")
    assert outcome.failures[0].traceback is None
    assert "ValueError" in (outcome.failures[2].traceback or "")


def test_a_problem_that_many_cases_share_is_said_once():
    failures = [Failure(case=f"c{index}", problems=("same",), traceback=None) for index in range(5)]
    assert describe_failures(failures) == ("c0, c1, c2 and 2 more: same",)


def test_tracebacks_go_to_the_log(tmp_path):
    write_failure_log(tmp_path / "logs" / "x.log", [Failure(case="c", problems=("p",), traceback="Trace")])
    assert "c: p" in (tmp_path / "logs" / "x.log").read_text()
    assert "Trace" in (tmp_path / "logs" / "x.log").read_text()


def test_the_number_of_workers_follows_cases_memory_and_request():
    assert compute_worker_count(requested=3, case_count=2, bytes_per_case=1) == 2
    assert compute_worker_count(requested=None, case_count=10, bytes_per_case=2**60) == 1
    assert 1 <= compute_worker_count(requested=None, case_count=10, bytes_per_case=1) <= (os.cpu_count() or 1)
