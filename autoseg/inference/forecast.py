"""Forecasts how long networks take for an image: the number of patches times the measured speed of this machine."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final, Literal

import torch
from torch import nn

from autoseg.document import Document, Part
from autoseg.geometry import Grid
from autoseg.inference.execution.batch_size import InferenceConditions, find_inference_conditions
from autoseg.inference.execution.preparation import Execution
from autoseg.inference.image_checks import compute_whole_geometry
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window.prediction import compute_inference_batch_size
from autoseg.inference.sliding_window.windows import count_passes
from autoseg.networks.parts.planes import list_planes
from autoseg.runtime.captured_network import PASSES_BEFORE, CapturedNetwork
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.measurement_cache import (
    find_measurement,
    find_measurement_cache,
    read_measurement,
    write_measurement,
)

SUBJECT: Final = "pass_times"
REPETITIONS: Final = 3
"""The first pass of a shape is also a warm-up. The median counts: the fastest pass would promise too much on a machine
that others use, too."""

logger = logging.getLogger(__name__)


class PassConditions(Part):
    """Everything that the duration of a pass depends on."""

    inference: InferenceConditions
    device: str
    execution: Execution
    inference_batch_size: int


class PassTime(Document):
    """Measured duration of passes through one network.

    Attributes:
        single_seconds: Duration of a pass of one patch.
        seconds_per_patch: Duration divided by the patches, where as many as are predicted at once take part.
    """

    schema_version: Literal[1] = 1
    conditions: PassConditions
    single_seconds: float
    seconds_per_patch: float

    def estimate_seconds(self, patches: int) -> float:
        """Estimates the duration of many passes; a few patches take at least as long as one."""
        return max(patches * self.seconds_per_patch, self.single_seconds if patches else 0.0)


def find_pass_time(model: SegmentationModel) -> PassTime:
    """Returns what a pass through a network of a model takes here: a cached or a new measurement.

    A new one takes a few passes, and is cached for all models of the same network, patch, dtype and device.
    """
    batch_size = model.inference_batch_size or compute_inference_batch_size(model.configuration_plan, model.device)
    conditions = PassConditions(
        inference=find_inference_conditions(model.configuration_plan, model.dtype),
        device=torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
        execution=model.execution,
        inference_batch_size=batch_size,
    )
    path: Path = find_measurement(find_measurement_cache(SUBJECT), conditions)
    known = read_measurement(path, PassTime)
    if known is not None and known.conditions == conditions:
        return known
    single = _time_passes(model, 1)
    together = single if batch_size == 1 else _time_passes(model, batch_size)
    measured = PassTime(
        conditions=conditions,
        single_seconds=min(single, together),  # the first passes of a process may have been disturbed
        seconds_per_patch=together / batch_size,
    )
    logger.info("a patch takes %.3g s here; cached in %s", measured.seconds_per_patch, path)
    write_measurement(path, measured, what="the time of a patch")
    return measured


def forecast_fold_seconds(model: SegmentationModel, grids: Sequence[Grid], options: PredictionOptions) -> float:
    """Forecasts the mean seconds that one network of a model, without previous stages, takes for uncropped images."""
    pass_time = find_pass_time(model)
    return fmean(pass_time.estimate_seconds(_count_patches(model, grid, options)) for grid in grids)


def _count_patches(model: SegmentationModel, grid: Grid, options: PredictionOptions) -> int:
    shape = compute_whole_geometry(grid, model.plan, model.configuration).resampled_shape_voxels
    return count_passes(shape, model.configuration_plan, options)


@torch.inference_mode()
def _time_passes(model: SegmentationModel, count: int) -> float:
    configuration = model.configuration_plan
    shape = (count, configuration.network.input_channels, *configuration.patch_voxels)
    patches, network = torch.zeros(shape, device=model.device), list_planes(model.networks[0])[0]
    with adaptive_cpu_threads(model.device):
        for _ in range(PASSES_BEFORE + 1 if isinstance(network, CapturedNetwork) else 0):
            network(patches)  # later passes are replayed, which takes less
        return median(_time_pass(network, patches) for _ in range(REPETITIONS))


def _time_pass(network: nn.Module, patches: torch.Tensor) -> float:
    started = time.perf_counter()
    float(network(patches)[0].flatten()[0])  # reading a value waits for the device
    return time.perf_counter() - started
