import os
import signal
import sys
import threading
from contextlib import nullcontext

import pytest

from autoseg.processes import signals
from autoseg.processes.signals import TERMINATION_SIGNALS, StopRequest, StopSignal, list_unignored_signals

REQUESTS = [signal.SIGINT, *([] if sys.platform == "win32" else [signal.SIGTERM, signal.SIGHUP])]


@pytest.fixture(autouse=True)
def _as_usual():
    """A test may run where Ctrl-C is ignored, as in the background of a shell, or a hang-up, as under nohup."""
    before = {number: signal.getsignal(number) for number in REQUESTS}
    for number in REQUESTS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def told():
    return []


@pytest.fixture
def stop(told):
    return StopRequest(tell=told.append)


@pytest.mark.parametrize("number", REQUESTS)
def test_a_request_ends_work_at_once(stop, number):
    done = []

    def work():
        with stop.handle_signals():
            signal.raise_signal(number)
            done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == []


@pytest.mark.parametrize("number", REQUESTS)
def test_a_postponed_request_is_told_and_answered_at_the_end_of_the_work(stop, told, number):
    done = []

    def work():
        with stop.handle_signals(), stop.postpone_stop("the cake is baked"):
            done.append(stop.is_requested)
            signal.raise_signal(number)
            done.append(stop.is_requested)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [False, True]
    assert told == ["stopping as soon as the cake is baked"]


def test_of_three_requests_the_last_one_does_not_wait(stop, told):
    done = []

    def work():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            done.append(stop.is_requested)

    with pytest.raises(KeyboardInterrupt), stop.handle_signals(), stop.postpone_stop("the cake is baked"):
        work()
    assert done == [True, True]
    assert "once more" in told[1]


def test_within_postponed_work_a_part_may_be_interrupted_once(stop):
    done = []

    def interrupt():
        with stop.allow_immediate_stop():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                done.append("tidied up")

    def work():
        with stop.handle_signals(), stop.postpone_stop("the cake is baked"):
            with pytest.raises(KeyboardInterrupt):
                interrupt()
            done.append("saved")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["tidied up", "saved"]


def test_an_earlier_request_is_not_answered_twice(stop):
    with stop.handle_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with stop.postpone_stop("all is saved"):
            assert not stop.is_requested


def test_without_requests_nothing_happens(stop, told):
    with stop.handle_signals(), stop.postpone_stop("the cake is baked"):
        pass
    assert told == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_the_main_thread_nothing_is_heard(stop):
    handlers = []

    def listen():
        with stop.handle_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no hang-up")
def test_what_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert list_unignored_signals(TERMINATION_SIGNALS) == [signal.SIGTERM]
    with StopRequest().handle_signals():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process instead")
def test_a_signal_that_is_repeated_at_once_does_not_disturb_the_tidying_up(stop):
    with stop.handle_signals():
        with pytest.raises(StopSignal):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process instead")
@pytest.mark.parametrize("is_postponed", [False, True])
def test_a_later_signal_ends_work_that_the_first_one_did_not_end(stop, monkeypatch, is_postponed):
    monkeypatch.setattr(signals, "SECONDS_OF_REPETITION", 0.0)
    with stop.handle_signals():
        with pytest.raises(StopSignal), stop.postpone_stop("all is saved") if is_postponed else nullcontext():
            signal.raise_signal(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(StopSignal):
                signal.raise_signal(signal.SIGTERM)
