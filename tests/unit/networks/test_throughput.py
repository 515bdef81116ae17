import itertools
import logging

import pytest
import torch
from builders.cpu_readings import build_cpu_reading

from autoseg.networks import throughput
from autoseg.networks.throughput import (
    FEWEST_REPETITIONS,
    LONGEST_SECONDS,
    WIDTHS,
    measure_gpu,
    measure_host,
    warn_of_implausible_rates,
)


@pytest.fixture(scope="module")
def host():
    """The CPU of these tests, measured once."""
    return measure_host()


def test_the_cpu_is_measured_at_every_width(host):
    assert set(host.convolution_flops) == set(WIDTHS)
    assert host.number_type in {"float32", "bfloat16"}
    # Any CPU that runs these tests manages a billion operations and a million elements, none a thousand times
    # the fastest of today: a mistake in units would show.
    assert all(1e8 < rate < 1e15 for rate in host.convolution_flops.values())
    assert 1e5 < host.elementwise_rate < 1e12
    assert host.cores >= 1
    assert host.memory_gb > 0.5
    assert 0 < host.received_share <= 1


def test_a_gpu_is_measured_at_every_width_and_for_small_layers(monkeypatch):
    monkeypatch.setattr(throughput, "LARGEST_EXTENT_VOXELS", 8)
    monkeypatch.setattr(throughput, "FEWEST_REPETITIONS", 1)
    monkeypatch.setattr(throughput, "GPU_WIDTHS", (16, 32))
    measured = measure_gpu(torch.device("cpu"), name="a GPU", memory_bytes=8_000_000_000)
    assert (measured.device, measured.is_cpu, measured.memory_gb) == ("a GPU", False, 8.0)
    assert set(measured.convolution_flops) == {16, 32}
    assert all(1e7 < rate < 1e15 for rate in measured.convolution_flops.values())
    assert 1e4 < measured.elementwise_rate < 1e12
    assert 1e-6 < measured.layer_seconds < 1.0


class CpuClock:
    """A second passes between two looks; this process gets part of it and misses another."""

    def __init__(self, *, received, missed, cores=2, granted=2.0):
        self.received, self.missed, self.seconds = received, missed, itertools.count()
        self.cores, self.granted = cores, granted

    def read(self):
        second = float(next(self.seconds))
        return build_cpu_reading(
            second,
            cores=self.cores,
            granted=self.granted,
            own=second * self.received,
            waiting={1: second * self.missed},
        )


def test_rates_are_those_that_last_beside_other_programs(monkeypatch):
    monkeypatch.setattr(throughput.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(throughput, "_measure_convolution", lambda width: width * 1e9)
    monkeypatch.setattr(throughput, "_measure_elementwise", lambda: 3e8)
    monkeypatch.setattr(throughput, "CpuClock", lambda: CpuClock(received=0.5, missed=0.25))
    host = measure_host()
    assert host.convolution_flops == pytest.approx({width: width * 1e9 * 2 / 3 for width in WIDTHS})
    assert host.elementwise_rate == pytest.approx(2e8)
    assert (host.cores, host.received_share) == (2, 0.25)


@pytest.mark.parametrize(("granted", "cores"), [(2.0, 2), (1.5, 2), (0.5, 1)])
def test_a_container_that_grants_few_of_many_cores_is_measured_as_it_is(monkeypatch, granted, cores):
    monkeypatch.setattr(throughput.torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(throughput, "_measure_convolution", lambda width: width * 1e9)
    monkeypatch.setattr(throughput, "_measure_elementwise", lambda: 3e8)
    clock = CpuClock(received=granted, missed=0.0, cores=64, granted=granted)
    monkeypatch.setattr(throughput, "CpuClock", lambda: clock)
    host = measure_host()
    assert (host.cores, host.received_share) == (cores, 1.0)


def measure_seconds(monkeypatch, durations, threads=None):
    """What repetitions that take these durations come to, and how many there were."""
    clock, done = [0.0], [0]

    def compute():
        clock[0] += durations[min(done[0], len(durations) - 1)]
        done[0] += 1
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    if threads is not None:
        monkeypatch.setattr(throughput.torch, "get_num_threads", lambda: threads(done[0]))
    return throughput._time(compute), done[0]


def test_a_layer_is_computed_until_the_fastest_repetitions_agree(monkeypatch):
    assert measure_seconds(monkeypatch, [0.01] * 20) == (pytest.approx(0.01), FEWEST_REPETITIONS)
    disturbed = [0.01, *[0.02, 0.03, 0.025, 0.04] * 3, 0.0101, 0.05, 0.0102]
    seconds, repetitions = measure_seconds(monkeypatch, disturbed)
    assert (seconds, repetitions) == (pytest.approx(0.01), len(disturbed))


def test_a_layer_that_never_agrees_with_itself_is_not_computed_for_ever(monkeypatch):
    seconds, repetitions = measure_seconds(monkeypatch, [1.1**count * 0.3 for count in range(20)])
    assert seconds == pytest.approx(0.3)
    assert repetitions == FEWEST_REPETITIONS
    slow = [0.5 * 2**count for count in range(20)]
    assert sum(slow[:FEWEST_REPETITIONS]) > LONGEST_SECONDS
    assert measure_seconds(monkeypatch, slow)[1] == FEWEST_REPETITIONS


def test_repetitions_with_another_number_of_threads_do_not_count(monkeypatch):
    seconds, _ = measure_seconds(monkeypatch, [0.01] * 5 + [0.02] * 20, threads=lambda done: 2 if done < 5 else 1)
    assert seconds == pytest.approx(0.02)


def test_rates_that_no_cpu_has_are_said(host, caplog):
    plausible = host.model_copy(
        update={"cores": 2, "convolution_flops": dict.fromkeys(WIDTHS, 1e11), "elementwise_rate": 1e9}
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_implausible_rates(plausible)
        assert caplog.text == ""
        warn_of_implausible_rates(plausible.model_copy(update={"elementwise_rate": 4.5e7, "received_share": 0.4}))
    assert "2 cores, of whose time this process got 40 %" in caplog.text
    assert "45 million normalized elements/s" in caplog.text
    assert "GFLOP/s" not in caplog.text
