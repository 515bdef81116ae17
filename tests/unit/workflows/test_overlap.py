import threading
import time

import pytest

from autoseg.processes.overlap import overlap_steps


class Stages:
    """Remembers what was done, and fails where told to."""

    def __init__(self, failing=()):
        self.failing, self.log, self.lock = set(failing), [], threading.Lock()

    def note(self, *entry):
        with self.lock:
            self.log.append(entry)
        if entry in self.failing:
            raise RuntimeError(*entry)

    def read(self, item):
        self.note("read", item)
        return item * 10

    def work(self, item, read):
        assert read == item * 10
        self.note("work", item)
        return read + 1

    def write(self, item, made):
        assert made == item * 10 + 1
        self.note("write", item)

    def run(self, items):
        return overlap_steps(items, read=self.read, work=self.work, write=self.write)


def test_every_item_goes_through_all_stages_in_order():
    stages = Stages()
    assert list(stages.run([1, 2, 3])) == [(1, None), (2, None), (3, None)]
    for stage in ("read", "work", "write"):
        assert [item for name, item in stages.log if name == stage] == [1, 2, 3]


def test_nothing_is_done_for_no_items():
    assert list(Stages().run([])) == []


@pytest.mark.parametrize("stage", ["read", "work", "write"])
@pytest.mark.parametrize("item", [1, 2, 3])
def test_an_error_stops_its_item_alone(stage, item):
    stages = Stages(failing=[(stage, item)])
    results = dict(stages.run([1, 2, 3]))
    assert set(results) == {1, 2, 3}
    assert {key for key, error in results.items() if error is not None} == {item}
    assert str(results[item]) == f"('{stage}', {item})"
    written = [key for name, key in stages.log if name == "write"]
    assert written == [key for key in (1, 2, 3) if key != item or stage == "write"]


def test_the_next_item_is_read_and_the_last_written_while_one_is_worked_on():
    """Each stage of the middle item waits for the others, which would never come one after the other."""
    meeting = threading.Barrier(3, timeout=20)

    class Meeting(Stages):
        def note(self, *entry):
            super().note(*entry)
            if entry in {("read", 3), ("work", 2), ("write", 1)}:
                meeting.wait()

    assert [error for _, error in Meeting().run([1, 2, 3])] == [None] * 3


def test_no_more_than_one_item_is_read_ahead():
    class Patient(Stages):
        def work(self, item, read):
            time.sleep(0.02)  # long enough for anything that was begun too early
            assert ("read", item + 2) not in self.log
            return super().work(item, read)

    assert [error for _, error in Patient().run([1, 2, 3, 4, 5])] == [None] * 5


def test_an_interruption_finishes_what_is_written_and_begins_nothing_new():
    class Interrupted(Stages):
        def work(self, item, read):
            if item == 2:
                raise KeyboardInterrupt
            return super().work(item, read)

    stages = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        list(stages.run([1, 2, 3, 4, 5]))
    assert ("write", 1) in stages.log
    assert ("read", 4) not in stages.log
    assert ("work", 3) not in stages.log
