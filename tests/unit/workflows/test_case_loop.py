import threading

import pytest
import torch

from autoseg.errors import CasesFailedError, RunError
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.cases import loop
from autoseg.workflows.cases.loop import check_failures, collect_failures, complete_cases, predict_each


class Steps:
    """Four steps, of which one fails for some cases."""

    def __init__(self, **failing):
        self.failing, self.written, self.threads = failing, [], {}

    def take(self, step, case):
        self.threads[step] = threading.current_thread()
        error = self.failing.get(step, {}).get(case)
        if error is not None:
            raise error

    def read(self, case):
        self.take("read", case)
        return f"{case} read"

    def predict(self, case, read):
        self.take("predict", case)
        return f"{read}, predicted"

    def finish(self, case, predicted):
        self.take("finish", case)
        return f"{predicted}, finished"

    def write(self, case, predicted):
        self.take("write", case)
        self.written.append(predicted)

    def run(self, cases, *, get_name=str):
        return predict_each(
            cases,
            get_name=get_name,
            read=self.read,
            predict=self.predict,
            finish=self.finish,
            write=self.write,
            device=torch.device("cpu"),
        )


def collect(events, total=3):
    return collect_failures(events, progress=SilentProgress(), label="Predicting", total=total)


def test_every_case_is_read_predicted_and_written():
    steps = Steps()
    assert list(steps.run(["a", "b"])) == [None, None]
    assert steps.written == ["a read, predicted, finished", "b read, predicted, finished"]


def test_only_the_callers_thread_predicts_and_finishes():
    steps = Steps()
    collect(steps.run(["a"]))
    assert steps.threads["predict"] is steps.threads["finish"] is threading.current_thread()
    assert len(set(steps.threads.values())) == 3


def test_what_a_gpu_predicted_is_finished_beside_the_next_case(monkeypatch):
    monkeypatch.setattr(loop, "postpone_on_gpu", lambda work, device: work)
    steps = Steps(finish={"b": RunError("it is damaged")})
    (failure,) = collect(steps.run(["a", "b", "c"]))
    assert failure.describe() == ("case b: it is damaged",)
    assert steps.written == ["a read, predicted, finished", "c read, predicted, finished"]
    assert steps.threads["finish"] is steps.threads["write"] is not threading.current_thread()


@pytest.mark.parametrize("step", ["read", "predict", "finish", "write"])
def test_a_case_that_fails_is_reported_by_name_and_does_not_stop_the_others(step):
    steps = Steps(**{step: {"b": RunError("it is damaged")}})
    (failure,) = collect(steps.run(["a", "b", "c"], get_name=lambda case: f"case_{case}"))
    assert (failure.case, failure.describe()) == ("case_b", ("case case_b: it is damaged",))
    assert steps.written == ["a read, predicted, finished", "c read, predicted, finished"]


def test_failures_are_raised_together_and_unexpected_ones_leave_their_traceback(tmp_path):
    steps = Steps(read={"a": RunError("it is damaged")}, predict={"c": ZeroDivisionError("a defect")})
    failures = collect(steps.run(["a", "b", "c"]))
    log = tmp_path / "logs" / "x.log"
    with pytest.raises(CasesFailedError, match=r"2 of 3 cases failed; the others are written:") as caught:
        check_failures(failures, total=3, log=log)
    assert "a: it is damaged" in str(caught.value)
    assert "unexpected ZeroDivisionError: a defect" in str(caught.value)
    assert "Traceback" in log.read_text()


def test_where_nothing_failed_nothing_is_raised_and_no_log_is_written(tmp_path):
    check_failures([], total=3, log=tmp_path / "x.log")
    assert list(tmp_path.iterdir()) == []


def test_cases_of_a_run_are_all_tried_and_what_failed_is_raised_at_the_end(tmp_path):
    steps = Steps(read=dict.fromkeys("bcde", RunError("it is damaged")))
    with pytest.raises(CasesFailedError, match=r"4 of 6 cases failed; the others are written:"):
        complete_cases(steps.run(list("abcdef")), progress=SilentProgress(), label="", total=6, log=tmp_path / "x.log")
    assert steps.written == ["a read, predicted, finished", "f read, predicted, finished"]
