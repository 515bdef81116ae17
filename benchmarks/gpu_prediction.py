"""Prediction of volumes on a GPU: all steps, overlapping as in `autoseg predict`, and the share of the network."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.geometry import IntTriple
from autoseg.inference.execution.choice import PreparedNetworks, Setting, prepare_networks
from autoseg.inference.execution.preparation import ExecutionChoice
from autoseg.inference.options import ONE_IMAGE
from autoseg.inference.restoring.resample_labels import iterate_label_slabs
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.networks.families import build_network
from autoseg.plan import ConfigurationPlan
from autoseg.workflows.cases.loop import predict_each
from benchmarks.gpu_networks import LABELS

VOLUMES: Final = ("first", "second")
FINER: Final = 4 / 3  # the grid of the file along the first axis


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionTime:
    """Seconds of all volumes, and those of the network in them."""

    seconds: float
    network_seconds: float

    def describe(self) -> list[str]:
        """Cells of a table."""
        share = self.network_seconds / self.seconds
        return [f"{self.seconds:.2f} s", f"{share:.0%} in the network"]


@dataclass(slots=True, kw_only=True)
class NetworkClock:
    """Sums up the time of a network on its device, which is not waited for in between."""

    device: torch.device
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    seconds: float = 0.0

    def call(self, network: nn.Module, image: Tensor) -> Any:
        """Calls a network."""
        if self.device.type != "cuda":
            begin = time.perf_counter()
            outputs = network(image)
            self.seconds += time.perf_counter() - begin
            return outputs
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        outputs = network(image)
        after.record()
        self.events.append((before, after))
        return outputs

    def read(self) -> float:
        """Waits for the device and returns the seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.seconds + sum(before.elapsed_time(after) for before, after in self.events) / 1e3


class TimedNetwork(nn.Module):
    """A network with a clock."""

    def __init__(self, network: nn.Module, clock: NetworkClock) -> None:
        super().__init__()
        self.network, self.clock = network, clock

    def forward(self, image: Tensor) -> Any:
        """Calls the network."""
        return self.clock.call(self.network, image)


def prepare(plan: ConfigurationPlan, setting: Setting, choice: ExecutionChoice) -> PreparedNetworks:
    """Prepares a network with random weights."""
    network = build_network(plan.network, torch.Generator().manual_seed(0)).eval()
    network.set_deep_supervision(enabled=False)
    return prepare_networks([network], setting, choice=choice, workload=ONE_IMAGE)


def time_prediction(
    plan: ConfigurationPlan,
    prepared: PreparedNetworks,
    device: torch.device,
    *,
    extent: IntTriple,
    axes: tuple[int, ...],
) -> PredictionTime:
    """Times the prediction of random volumes: reading, network, restoring on a finer grid, and leaving the device."""
    clock = NetworkClock(device=device)
    networks = [TimedNetwork(network, clock) for network in prepared.networks]
    finer = (round(extent[0] * FINER), extent[1], extent[2])

    def read(name: str) -> np.ndarray:
        return np.random.default_rng(len(name)).standard_normal((1, *extent), np.float32)

    def predict(name: str, image: np.ndarray) -> Tensor:
        return predict_logits(
            networks,
            torch.from_numpy(image),
            configuration=plan,
            mirror_axes=axes,
            device=device,
            inference_batch_size=prepared.inference_batch_size,
        )

    def restore(name: str, logits: Tensor) -> list[np.ndarray]:
        return list(_iterate_label_maps(logits, finer))

    begin = time.perf_counter()
    failures = predict_each(
        VOLUMES, get_name=str, read=read, predict=predict, finish=restore, write=lambda name, made: None, device=device
    )
    problems = [failure.describe() for failure in failures if failure is not None]
    if problems:
        raise RuntimeError(problems)
    return PredictionTime(seconds=time.perf_counter() - begin, network_seconds=clock.read())


def time_volume(
    plan: ConfigurationPlan, prepared: PreparedNetworks, device: torch.device, *, extent: IntTriple
) -> float:
    """Times the prediction of one volume without mirroring, from its image to its label map, both on the CPU."""
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *extent), np.float32))
    begin = time.perf_counter()
    logits = predict_logits(
        prepared.networks,
        image,
        configuration=plan,
        mirror_axes=(),
        device=device,
        inference_batch_size=prepared.inference_batch_size,
    )
    assert sum(len(slab) for slab in _iterate_label_maps(logits, extent)) == extent[0], "every slice is written"
    return time.perf_counter() - begin


@torch.inference_mode()
def _iterate_label_maps(logits: Tensor, shape: IntTriple) -> Iterator[np.ndarray]:
    for _, slab in iterate_label_slabs(logits, shape, LABELS, is_nearest=(False, False, False)):
        yield slab.cpu().numpy()
