"""Estimates the duration of a validation from one of its cases, and fits a validation into a time.

Mirroring is dropped first, then overlap of windows, then cases.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from autoseg.files.temporary_files import make_temporary_folder
from autoseg.inference.execution.choice import PreparedNetworks, Setting, prepare_networks
from autoseg.inference.execution.preparation import prepare_network
from autoseg.inference.held_out import find_held_out_execution
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions, Workload
from autoseg.inference.sliding_window.prediction import compute_inference_batch_size
from autoseg.inference.sliding_window.windows import count_views, count_windows
from autoseg.networks.families import build_network
from autoseg.networks.parts.planes import change_planes
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.label_prior import find_label_autoencoder
from autoseg.preprocessing.cache import CachedCase
from autoseg.run_folder import RunFolder
from autoseg.runtime.captured_network import PASSES_BEFORE, CapturedNetwork
from autoseg.runtime.precision import find_dtype
from autoseg.stages.training_cases import open_training_case, read_box, read_network_input
from autoseg.volume_io import label_map_ending, write_label_map
from autoseg.workflows.cases.network_features import measure_network_features
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.evaluation import EvaluationJob, count_evaluation_workers, evaluate_job
from autoseg.workflows.folds.status import ValidationChoice

LARGER_STEP_FRACTION: Final = 0.75
"""Neighbouring windows still overlap by a quarter of the patch, so that no voxel is at the border of all windows."""
ESTIMATE_MARGIN: Final = 1.1  # cases differ in more than their number of voxels
WORKER_START_SECONDS: Final = 2.0  # approximately, once: evaluating processes import their modules
LARGEST_SHARE_FOR_MEASURING: Final = 0.05  # of the available time, if one case can be predicted in it


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationCost:
    """Measured costs of predicting and evaluating on this machine.

    Attributes:
        shapes_voxels: Shapes of the preprocessed cases by name.
        configuration: Configuration that predicts.
        mirrored_views: Number of mirrored views that prediction averages.
        window_seconds: Time for one view of one window.
        finishing_seconds_per_voxel: Time for resampling to the grid of the file, writing, and the plausibility.
        evaluation_seconds_per_voxel: Time for evaluating in one process.
    """

    shapes_voxels: Mapping[str, tuple[int, ...]]
    configuration: ConfigurationPlan
    mirrored_views: int
    window_seconds: float
    finishing_seconds_per_voxel: float
    evaluation_seconds_per_voxel: float

    def estimate_seconds(self, cases: Sequence[str], options: PredictionOptions) -> float:
        """Estimates the time for predicting and evaluating cases."""
        windows, voxels = self.measure_cases(cases, options.step_fraction).sum(axis=0).tolist()
        return self.compute_seconds(windows, voxels, options, workers=count_evaluation_workers(len(cases)))

    def compute_seconds(self, windows: int, voxels: int, options: PredictionOptions, *, workers: int) -> float:
        """Computes the time for cases that have so many windows and voxels together."""
        views = self.mirrored_views if options.mirroring else 1
        per_voxel = self.finishing_seconds_per_voxel + self.evaluation_seconds_per_voxel / workers
        seconds = windows * views * self.window_seconds + voxels * per_voxel
        return seconds * ESTIMATE_MARGIN + WORKER_START_SECONDS

    def measure_cases(self, cases: Sequence[str], step_fraction: float) -> Int64[np.ndarray, "case 2"]:
        """Counts the windows and the voxels of each case."""
        sizes = [(self.count_windows(case, step_fraction), math.prod(self.shapes_voxels[case])) for case in cases]
        return np.array(sizes, np.int64).reshape(-1, 2)

    def count_windows(self, case: str, step_fraction: float) -> int:
        """Counts the windows of one case."""
        return count_windows(self.shapes_voxels[case], self.configuration, step_fraction)


def fit_validation(cost: ValidationCost, cases: Sequence[str], *, limit_seconds: float) -> ValidationChoice:
    """Returns the least reduced validation that fits into the limit; one of a single case if none fits."""
    whole = cost.estimate_seconds(cases, DEFAULT_OPTIONS)
    ways = [DEFAULT_OPTIONS]
    if cost.mirrored_views > 1:
        ways.append(PredictionOptions(mirroring=False))
    ways.append(PredictionOptions(mirroring=cost.mirrored_views == 1, step_fraction=LARGER_STEP_FRACTION))
    for choice in _list_choices(cost, cases, ways):
        if choice[2] <= limit_seconds:
            break
    count, options, seconds = choice
    return ValidationChoice(
        cases=sample_cases(cases, count),
        held_out_cases=len(cases),
        options=options,
        seconds=seconds,
        whole_seconds=whole,
    )


def _list_choices(
    cost: ValidationCost, cases: Sequence[str], ways: Sequence[PredictionOptions]
) -> Iterator[tuple[int, PredictionOptions, float]]:
    """Lists number of cases, options and seconds of all choices, the least reduced first: all cases in each way, then
    ever fewer of them in the last way."""
    for options in ways:
        yield len(cases), options, cost.estimate_seconds(cases, options)
    sizes, workers = cost.measure_cases(cases, ways[-1].step_fraction), count_evaluation_workers(len(cases))
    for count in range(len(cases) - 1, 0, -1):
        windows, voxels = sizes[sample_places(len(cases), count)].sum(axis=0).tolist()
        yield count, ways[-1], cost.compute_seconds(windows, voxels, ways[-1], workers=min(count, workers))


def sample_cases(cases: Sequence[str], count: int) -> tuple[str, ...]:
    """Samples `count` cases, evenly spaced in their order; always the same ones."""
    return tuple(cases[place] for place in sample_places(len(cases), count).tolist())


def sample_places(case_count: int, count: int) -> Int64[np.ndarray, " place"]:
    """Returns the places of the sampled cases in their order."""
    return np.arange(count) * case_count // count


def measure_validation_cost(
    run: RunFolder, plan: Plan, configuration: str, *, cases: Sequence[str], device: torch.device, limit_seconds: float
) -> ValidationCost:
    """Predicts and evaluates the case of median size, without mirroring if that would take too long.

    An untrained network predicts it. As an untrained network finds classes everywhere, the reference is evaluated in
    place of the prediction: the time for surface distances grows with the size of the classes.

    Args:
        run: Run folder.
        plan: Plan of the run.
        configuration: Name of the configuration.
        cases: Names of one or more cases.
        device: Device that predicts.
        limit_seconds: Available time, of which measuring takes a small share if one case can be predicted in it.

    Raises:
        RunError: A preprocessed case or reference is missing.
    """
    model = _build_untrained_model(plan, configuration, device, images=len(cases))
    open_one = partial(open_training_case, run, plan, configuration)
    rough = ValidationCost(
        shapes_voxels={case: open_one(case).label_map.shape for case in cases},
        configuration=model.configuration_plan,
        mirrored_views=count_views(model.configuration_plan),
        window_seconds=_time_window(model),
        finishing_seconds_per_voxel=0.0,
        evaluation_seconds_per_voxel=0.0,
    )
    name, options = _select_measured_case(rough, limit_seconds)
    return _measure(model, open_one(name), name, options, run=run, rough=rough)


def _build_untrained_model(plan: Plan, configuration: str, device: torch.device, *, images: int) -> SegmentationModel:
    dtype, chosen = find_dtype(device, "auto"), plan.configurations[configuration]
    network = build_network(chosen.network)
    network.set_deep_supervision(enabled=False)
    choice = find_held_out_execution(device)
    if choice == "eager":
        prepared = change_planes(network.eval(), partial(prepare_network, device=device, dtype=dtype))
        ready = PreparedNetworks(networks=(prepared.eval(),), execution="eager", inference_batch_size=None)
    else:
        setting = Setting(configuration=chosen, device=device, dtype=dtype)
        ready = prepare_networks([network.eval()], setting, choice=choice, workload=Workload(images=images))
    return SegmentationModel(
        plan=plan,
        configuration=configuration,
        folds=("",),  # of no fold of the run
        networks=ready.networks,
        device=device,
        dtype=dtype,
        execution=ready.execution,
        inference_batch_size=ready.inference_batch_size,
        label_autoencoders=_build_untrained_autoencoders(chosen),
    )


def _build_untrained_autoencoders(configuration: ConfigurationPlan) -> tuple[nn.Module, ...]:
    """Builds the label autoencoder by which the plausibility of held-out cases will be measured, if there is one."""
    held, trained = configuration.network.find_label_autoencoder(), find_label_autoencoder(configuration)
    planned = held if trained is None else trained[0]
    return () if planned is None else (build_network(planned).eval(),)


def _time_window(model: SegmentationModel) -> float:
    """Measures the seconds for a patch in a second call, or a replayed one; the first calls select kernels."""
    configuration = model.configuration_plan
    patches = model.inference_batch_size or compute_inference_batch_size(configuration, model.device)
    shape = (patches, configuration.network.input_channels, *configuration.patch_voxels)
    seconds = 0.0
    is_replayed = any(isinstance(module, CapturedNetwork) for module in model.networks[0].modules())
    with torch.inference_mode():
        for _ in range(PASSES_BEFORE + 2 if is_replayed else 2):
            start = time.perf_counter()
            model.networks[0](torch.zeros(shape, device=model.device))[0].sum().item()
            seconds = time.perf_counter() - start
    return seconds / patches


def _select_measured_case(rough: ValidationCost, limit_seconds: float) -> tuple[str, PredictionOptions]:
    """Chooses case and options to measure: the smallest case only if the median one would take too long."""
    sizes = sorted(rough.shapes_voxels, key=lambda case: math.prod(rough.shapes_voxels[case]))
    median, smallest = sizes[len(sizes) // 2], sizes[0]
    plain = PredictionOptions(mirroring=False)
    for case, options in ((median, PredictionOptions()), (median, plain)):
        views = rough.mirrored_views if options.mirroring else 1
        seconds = rough.count_windows(case, options.step_fraction) * views * rough.window_seconds
        if seconds <= LARGEST_SHARE_FOR_MEASURING * limit_seconds:
            return case, options
    return smallest, plain


def _measure(
    model: SegmentationModel,
    case: CachedCase,
    name: str,
    options: PredictionOptions,
    *,
    run: RunFolder,
    rough: ValidationCost,
) -> ValidationCost:
    predicted, finished, evaluated = _time_steps(model, case, name, options, run=run)
    views = rough.mirrored_views if options.mirroring else 1
    voxels = math.prod(rough.shapes_voxels[name])
    return replace(
        rough,
        window_seconds=predicted / (rough.count_windows(name, options.step_fraction) * views),
        finishing_seconds_per_voxel=finished / voxels,
        evaluation_seconds_per_voxel=evaluated / voxels,
    )


def _time_steps(
    model: SegmentationModel, case: CachedCase, name: str, options: PredictionOptions, *, run: RunFolder
) -> Iterator[float]:
    """Yields the seconds for the logits, for writing the label map and its plausibility, and for evaluating it."""
    reference, labels = find_reference(run, name), model.plan.labels
    start = time.perf_counter()
    image = read_network_input(case, model.plan, model.configuration)
    box = read_box(case, model.plan, model.configuration)
    logits = model.predict_preprocessed(image, box=box, options=options)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    yield time.perf_counter() - start
    start = time.perf_counter()
    if model.label_autoencoders:
        measure_network_features([image], [logits], case.geometry, model.plan, models=(model,))
    label_map = model.restore_label_map(logits, case.geometry)
    with make_temporary_folder() as folder:
        target = folder / f"{name}{label_map_ending(model.plan.file_ending)}"
        write_label_map(target, label_map, grid=case.geometry.grid, like=reference)
    yield time.perf_counter() - start
    start = time.perf_counter()
    evaluate_job(EvaluationJob(case=name, prediction=reference, reference=reference, labels=labels))
    yield time.perf_counter() - start
