import shutil

import pytest
import torch
from builders.hosts import HOST, build_host

from autoseg.document import read_document
from autoseg.errors import DeviceError
from autoseg.fingerprint import TimedSteps
from autoseg.network_cost import StepCost
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.plan import machine_survey
from autoseg.workflows.plan.machine_survey import (
    Gpu,
    find_available_ram,
    may_have_gpu,
    survey_cpu,
    survey_gpu,
    time_on_gpu,
    time_planned_steps,
)
from autoseg.workflows.plan.planning import find_network_cost

COST = StepCost(iteration_seconds=2.0, validation_seconds=0.5, window_seconds=0.1, memory_bytes=10**9)
GPU = Gpu(device=torch.device("cpu"), name="a GPU", memory_bytes=8 * 10**9)


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def plan(run):
    return read_document(run.plan, Plan)


def survey(plan, measure):
    return survey_cpu(
        plan,
        ["2d", "3d_lowres"],
        estimate=lambda configuration, host, cost: COST,
        measure=measure,
        measure_cost=find_network_cost,
    )


def test_a_cpu_is_measured_and_its_costs_are_estimated(plan):
    found = survey(plan, lambda: HOST)
    assert found.costs == {"2d": COST, "3d_lowres": COST}
    assert not found.has_gpu
    assert "core" in found.device
    assert "measured speed of this CPU" in found.how


def test_a_measurement_that_others_disturbed_is_no_promise(plan):
    found = survey(plan, lambda: build_host(received_share=0.25))
    assert "left 25%" in found.how
    assert "right within" not in found.how


@pytest.mark.parametrize(
    "error", [ImportError("no torch"), RuntimeError("no kernel"), DeviceError("no device"), OSError()]
)
def test_where_nothing_can_be_measured_the_reason_is_told(plan, error):
    def fail():
        raise error

    found = survey(plan, fail)
    assert found.costs == {}
    assert set(found.problems) == {"2d", "3d_lowres"}
    assert str(error) in found.how or "OSError" in found.how


def test_steps_are_timed_on_a_gpu_once(plan, monkeypatch):
    first = time_on_gpu(plan, GPU, "2d")
    assert first.iteration_seconds > 0
    monkeypatch.setattr("autoseg.training.network_timing.time_network", lambda *_, **__: COST)
    assert time_on_gpu(plan, GPU, "2d") == first
    assert time_on_gpu(plan, GPU, "3d_lowres") == COST
    other = Gpu(device=GPU.device, name="another GPU", memory_bytes=GPU.memory_bytes)
    assert time_on_gpu(plan, other, "2d") == COST


def test_steps_of_a_plan_are_timed_with_one_patch_and_with_two(plan, monkeypatch, caplog):
    gpu = Gpu(device=torch.device("cuda"), name="a GPU", memory_bytes=8 * 10**9)
    (name, first), *_ = plan.configurations.items()
    seconds = {1: 0.25, 2: 0.375}

    def time(configuration, labels, *, device, dtype):
        assert (device.type, configuration.network) == ("cuda", first.network)
        if configuration.training.batch_size not in seconds:
            msg = "CUDA out of memory\nmore"
            raise torch.OutOfMemoryError(msg)
        return COST.model_copy(update={"iteration_seconds": seconds[configuration.training.batch_size]})

    monkeypatch.setattr("autoseg.training.network_timing.time_network", time)
    monkeypatch.setattr("autoseg.runtime.precision.find_dtype", lambda device, precision: "bfloat16")
    for found in (None, Gpu(device=torch.device("mps"), name="another", memory_bytes=1)):
        monkeypatch.setattr(machine_survey, "find_gpu", lambda found=found: found)
        assert time_planned_steps(plan) is None
    monkeypatch.setattr(machine_survey, "find_gpu", lambda: gpu)
    assert time_planned_steps(plan) == TimedSteps(configuration=name, seconds=(0.25, 0.375))
    shutil.rmtree(find_measurement_cache("gpu_steps"))
    del seconds[2]
    assert time_planned_steps(plan) == TimedSteps(configuration=name, seconds=(0.25,))
    assert (
        f"a step of {name} with a batch of 2 could not be timed on a GPU (CUDA out of memory): planning" in caplog.text
    )
    shutil.rmtree(find_measurement_cache("gpu_steps"))
    seconds.clear()
    assert time_planned_steps(plan) is None


def test_a_configuration_too_large_for_the_gpu_leaves_the_others_their_times():
    def time(name):
        if name == "2d":
            msg = "CUDA out of memory. Tried to allocate 3 GiB\nmore"
            raise torch.OutOfMemoryError(msg)
        return COST

    found = survey_gpu(["2d", "3d_lowres"], GPU, time=time, progress=SilentProgress())
    assert found.has_gpu
    assert found.costs == {"3d_lowres": COST}
    assert "Tried to allocate 3 GiB)" in found.problems["2d"]
    assert "--memory-gb" in found.problems["2d"]


def test_torch_without_cuda_is_not_loaded_to_look_for_a_gpu():
    assert not may_have_gpu("2.9.0+cpu")


def test_memory_is_what_a_container_grants(tmp_path):
    everything = find_available_ram(tmp_path, tmp_path / "none")
    assert everything > 10**8
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert find_available_ram(tmp_path, tmp_path / "own") == everything
    (tmp_path / "memory.max").write_text("100000000\n")
    assert find_available_ram(tmp_path, tmp_path / "own") == 10**8
