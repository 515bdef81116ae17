import gc
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from autoseg.runtime.cuda_graphs import CudaGraphs, postpone_garbage_collection, rehearse
from autoseg.runtime.streams import copy_to_device, find_stream, postpone_on_gpu, start_copy_to_cpu

CPU = torch.device("cpu")
VALUES = torch.arange(4.0)
PLACES = torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("work", "obstacle"),
    [
        (lambda: float(VALUES.sum()), "_local_scalar_dense waits for the device"),
        (lambda: VALUES.nonzero(), "nonzero waits for the device"),
        (lambda: VALUES[VALUES > 1], "index with a mask waits for the device"),
        (lambda: torch.equal(VALUES, VALUES), "equal waits for the device"),
        (lambda: VALUES.to("meta"), "_to_copy copies between the device and the CPU"),
        (lambda: VALUES[PLACES] + VALUES.double()[:2], None),
        (lambda: torch.tensor([1.0, 2.0]) + 1, "torch.tensor copies numbers to the device"),
        (lambda: VALUES.new_tensor([1.0, 2.0]) + 1, "torch.tensor copies numbers to the device"),
        (lambda: VALUES.clone().__setitem__(0, 5.0), None),
        (lambda: torch.where(VALUES > 1, VALUES, 0.0), None),
        (lambda: float(torch.zeros((), device="cpu")), "_local_scalar_dense waits for the device"),
    ],
)
def test_a_rehearsal_names_the_first_operation_that_a_graph_cannot_hold(work, obstacle):
    assert rehearse(work, CPU)[1] == obstacle
    with torch.inference_mode():
        assert rehearse(work, CPU)[1] == obstacle


def test_values_of_another_device_may_be_read_in_a_rehearsal():
    result, obstacle = rehearse(lambda: float(VALUES.sum()), torch.device("meta"))
    assert (result, obstacle) == (6.0, None)


def test_indices_of_the_cpu_are_an_obstacle():
    values = torch.zeros(4, device="meta")
    assert rehearse(lambda: values[PLACES], values.device)[1] == "index copies its indices to the device"
    assert rehearse(lambda: values[PLACES.to("meta")], CPU)[1] is not None  # a copy
    places = PLACES.to("meta")
    assert rehearse(lambda: values[places], values.device)[1] is None


def test_a_rehearsal_sees_the_backward_pass():
    class Reading(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            return values.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float(gradient.sum())

    weights = torch.ones(3, requires_grad=True)
    _, obstacle = rehearse(lambda: Reading.apply(weights).sum().backward(), CPU)
    assert obstacle == "_local_scalar_dense waits for the device"


def test_garbage_is_collected_before_a_capture_and_not_within():
    assert gc.isenabled()
    with postpone_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_on_a_cpu_copies_and_postponed_work_are_made_at_once():
    done = []
    finish = postpone_on_gpu(lambda: done.append(1) or "made", CPU)
    assert done == [1]
    assert (finish(), finish(), done) == ("made", "made", [1])
    assert copy_to_device(VALUES, CPU) is VALUES
    assert start_copy_to_cpu(VALUES)() is VALUES


without_cuda = pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this PyTorch has streams of its own")


class Stream(torch.cuda.Stream):
    """A stream without a device."""

    def __new__(cls, *arguments):
        return object.__new__(cls)

    def __init__(self, *arguments):
        pass

    def wait_stream(self, stream):
        pass


@without_cuda
def test_graphs_of_many_networks_are_captured_on_one_stream_that_nothing_else_uses(monkeypatch):
    device, used = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(used.append(stream)))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, stream: None)
    find_stream.cache_clear()
    for _ in range(40):
        CudaGraphs(device=device).warm_up(lambda: VALUES)
    others = {id(find_stream(device, purpose)) for purpose in ("copies", "postponed work", "batches")}
    find_stream.cache_clear()
    assert len({id(stream) for stream in used}) == 1
    assert len(others - {id(used[0])}) == 3


@without_cuda
@pytest.mark.parametrize("is_over", [False, True])
def test_allocator_and_generator_are_told_that_a_capture_which_failed_is_over(monkeypatch, *, is_over):
    """Before version 2.13 of PyTorch a capture that cannot be ended leaves them as if one were under way."""
    told, streams, states = [], [], []
    generator = SimpleNamespace(clone_state=lambda: "another state", graphsafe_set_state=states.append)

    @contextmanager
    def record(graph, *, pool, stream, capture_error_mode):
        yield
        msg = "operation failed due to a previous error during capture"
        raise RuntimeError(msg)

    def end(index, pool):
        told.append((index, pool))
        if is_over:
            msg = "not currently recording to the pool"
            raise RuntimeError(msg)

    replaced = {"Stream": Stream, "CUDAGraph": object, "graph": record, "device": nullcontext}
    replaced |= {"current_stream": lambda device: "current", "set_stream": streams.append}
    replaced |= {"graph_pool_handle": lambda: "pool", "current_device": lambda: 1}
    replaced["default_generators"] = (None, generator)
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end)
    find_stream.cache_clear()
    with pytest.raises(RuntimeError, match="a previous error during capture"):
        CudaGraphs(device=torch.device("cuda", 1)).capture(lambda: VALUES)
    find_stream.cache_clear()
    assert told == [(1, "pool")]
    assert (streams, states) == (["current"], [] if is_over else ["another state"])
    assert gc.isenabled()
