import time

from autoseg.networks.throughput import WIDTHS, measure_host


def test_the_processor_is_measured_at_every_width():
    host = measure_host()
    assert set(host.convolution_flops) == set(WIDTHS)
    assert host.number_type in {"float32", "bfloat16"}
    # Any processor that runs these tests manages a billion operations and a million elements, none a thousand times
    # the fastest of today: a mistake in units would show.
    assert all(1e9 < rate < 1e15 for rate in host.convolution_flops.values())
    assert 1e6 < host.elementwise_rate < 1e12
    assert host.cores >= 1
    assert host.memory_gb > 0.5


def test_cores_that_did_not_compute_show_in_the_share(monkeypatch):
    assert 0 < measure_host().received_share <= 1

    def wait(width):
        time.sleep(0.1)
        return width * 1e9

    monkeypatch.setattr("autoseg.networks.throughput._measure_convolution", wait)
    assert measure_host().received_share < 0.2
