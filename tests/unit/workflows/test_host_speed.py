import logging

import pytest
from builders.hosts import HOST, build_host

from autoseg.workflows.plan import host_speed
from autoseg.workflows.plan.host_speed import find_host_speed

DISTURBED = build_host(received_share=0.5)


class Measurement:
    """Counts how often it is made."""

    def __init__(self, host=HOST):
        self.host, self.count = host, 0

    def __call__(self):
        self.count += 1
        return self.host


def test_a_computer_is_measured_once(tmp_path):
    first, second = Measurement(), Measurement()
    assert find_host_speed(tmp_path, measure=first) == HOST
    assert find_host_speed(tmp_path, measure=second) == HOST
    assert (first.count, second.count) == (1, 0)


def test_a_measurement_that_others_disturbed_counts_once(tmp_path):
    measure = Measurement(DISTURBED)
    assert find_host_speed(tmp_path, measure=measure) == DISTURBED
    assert find_host_speed(tmp_path, measure=measure) == DISTURBED
    assert measure.count == 2
    assert find_host_speed(tmp_path, measure=Measurement()) == HOST


@pytest.mark.parametrize("changed", ["processor", "cores", "threads_variable", "torch", "autoseg"])
def test_another_computer_or_library_is_measured_anew(tmp_path, monkeypatch, changed):
    find_host_speed(tmp_path, measure=Measurement())
    here = host_speed.find_circumstances()
    other = here.model_copy(update={changed: 77 if changed == "cores" else "another"})
    monkeypatch.setattr(host_speed, "find_circumstances", lambda: other)
    measure = Measurement()
    find_host_speed(tmp_path, measure=measure)
    assert measure.count == 1


def test_a_damaged_record_is_replaced(tmp_path):
    find_host_speed(tmp_path, measure=Measurement())
    (record,) = tmp_path.iterdir()
    record.write_text("{")
    measure = Measurement()
    assert find_host_speed(tmp_path, measure=measure) == HOST
    assert measure.count == 1
    assert find_host_speed(tmp_path, measure=measure) == HOST
    assert measure.count == 1


def test_a_folder_that_cannot_be_written_is_announced(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert find_host_speed(tmp_path / "file", measure=Measurement()) == HOST
    assert "measured in every call" in caplog.text
