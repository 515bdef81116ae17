import math

import pytest
import torch

from autoseg.networks.cost import measure_cost
from autoseg.training.data.data_placement import (
    BYTES_PER_OUTPUT,
    FreeMemory,
    estimate_training_bytes,
    measure_device_memory,
    measure_host_memory,
    place_data,
)
from autoseg.training.data.held_cases import DataSize

GIB = 2**30
SIZE = DataSize(arrays_bytes=10 * GIB, locations_bytes=GIB)
ROOMY = FreeMemory(free_bytes=100 * GIB, reserve_bytes=50 * GIB)


def leave(room_gib):
    return FreeMemory(free_bytes=int((room_gib + 5) * GIB), reserve_bytes=5 * GIB)


@pytest.mark.parametrize(
    ("device", "host", "where"),
    [
        (ROOMY, ROOMY, "device"),
        (leave(10), leave(1), "device"),
        (leave(10), leave(0.9), "disk"),
        (leave(9.9), leave(11), "host"),
        (leave(9.9), leave(10.9), "disk"),
        (None, leave(11), "host"),
        (None, leave(10.9), "disk"),
    ],
)
def test_cases_lie_in_the_fastest_memory_that_keeps_its_reserve(device, host, where):
    assert place_data(SIZE, device=device, host=host).where == where


def test_the_reason_names_what_is_needed_free_and_reserved():
    placement = place_data(SIZE, device=leave(1), host=leave(2))
    assert placement.because == (
        "the cases take 10.0 GiB; the device's memory has 6.0 GiB free, of which 5.0 GiB are kept free; "
        "RAM has 7.0 GiB free, of which 5.0 GiB are kept free"
    )


def test_free_memory_of_a_gpu_counts_what_torch_holds_unused(monkeypatch, plan_configuration):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    plan = plan_configuration()
    memory = measure_device_memory(torch.device("cuda"), plan)
    assert memory == FreeMemory(free_bytes=120, reserve_bytes=estimate_training_bytes(plan))
    assert measure_device_memory(torch.device("cpu"), plan) is None


@pytest.mark.parametrize(("count", "free_bytes"), [("1", 870), ("3", 303), ("", 870)])
def test_processes_that_share_a_gpu_share_its_memory(monkeypatch, plan_configuration, count, free_bytes):
    """All begin at the same time, and each sees the memory that the others will take as free."""
    monkeypatch.setenv("AUTOSEG_PROCESSES_ON_DEVICE", count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (850, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    memory = measure_device_memory(torch.device("cuda"), plan_configuration())
    assert memory is not None
    assert memory.free_bytes == free_bytes


def test_the_reserve_grows_with_the_classes(plan_configuration):
    few, many = (plan_configuration(network={"output_channels": count}) for count in (2, 118))
    voxels = few.training.batch_size * math.prod(few.patch_voxels)
    difference = estimate_training_bytes(many) - estimate_training_bytes(few)
    assert 116 * voxels * BYTES_PER_OUTPUT <= difference <= 116 * voxels * BYTES_PER_OUTPUT * 8 / 7


@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
def test_the_reserve_is_twice_what_the_network_itself_keeps(plan_configuration, family):
    plan = plan_configuration(network={"family": family})
    cost = measure_cost(plan.network, plan.patch_voxels, plan.training.batch_size)
    rest = 20 * cost.parameter_count + BYTES_PER_OUTPUT * cost.output_elements + 2 * GIB
    batch = 200 * plan.training.batch_size * math.prod(plan.patch_voxels)
    assert estimate_training_bytes(plan) == 2 * cost.kept_bytes + batch + rest


def test_only_a_share_of_the_ram_is_used():
    memory = measure_host_memory()
    assert memory.has_room(int(0.24 * memory.free_bytes))
    assert not memory.has_room(int(0.26 * memory.free_bytes))


def test_the_reserve_grows_with_batch_and_patch(plan_configuration):
    base = 2 * GIB
    one, two = (estimate_training_bytes(plan_configuration(batch_size=size)) - base for size in (2, 4))
    assert one < two < 2 * one
    assert estimate_training_bytes(plan_configuration(dimensions=3)) > base + one
