"""Whole-volume validation of one training: predicts its held-out cases and scores them on their own grids."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from autoseg.document import read_document
from autoseg.errors import DocumentError
from autoseg.evaluation.summary import SUMMARY_JSON, EvaluationSummary
from autoseg.inference.execution import prepare_network
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window import compute_patches_per_pass
from autoseg.networks import SegmentationNetwork, build_network
from autoseg.networks.precision import NumberType, find_number_type
from autoseg.plan import Plan
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.previous_stage import read_network_input
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder, make_folder
from autoseg.training.pseudo_dice import compute_mean_dice, compute_pseudo_dice, count_overlaps
from autoseg.volume_io import label_map_ending, write_label_map
from autoseg.workflows.cascade import open_input_case
from autoseg.workflows.evaluation import EvaluationJob, count_evaluation_workers, evaluate_job, evaluate_jobs
from autoseg.workflows.preprocessing import check_preprocessed
from autoseg.workflows.references import find_reference

ESTIMATE_MARGIN: Final = 1.1  # cases differ in more than their number of voxels
WORKER_START_SECONDS: Final = 2.0  # once, about: the processes that evaluate load their modules


def validate_fold(
    run: RunFolder, configuration: str, fold: str, *, cases: Sequence[str], device: str, progress: Progress
) -> EvaluationSummary:
    """Predicts the cases that are not yet predicted, and evaluates all of them.

    Raises:
        RunError: A preprocessed case or reference is missing.
    """
    folder = make_folder(run.fold(configuration, fold).validation)
    finished = read_finished_summary(folder, cases)
    if finished is not None:
        return finished
    # The first stage of a cascade has predicted these cases already.
    model = load_model(
        run, configuration=configuration, folds=(fold,), device=device, execution="eager", with_previous=False
    )
    check_preprocessed(run, model.plan, model.configuration_plan.data_of, cases)
    ending = label_map_ending(model.plan.file_ending)
    outputs = {case: folder / f"{case}{ending}" for case in cases}
    waiting = [case for case in cases if not outputs[case].is_file()]
    work = _predict_each(run, model, waiting, outputs=outputs, progress=progress)
    for _ in progress.track(work, label="Validating", total=len(waiting), unit="case"):
        pass
    jobs = [
        EvaluationJob(
            case=case, prediction=outputs[case], reference=find_reference(run, case), labels=model.plan.labels
        )
        for case in cases
    ]
    return evaluate_jobs(jobs, folder=folder, progress=progress)


def estimate_validation_seconds(
    run: RunFolder, plan: Plan, configuration: str, *, cases: Sequence[str], device: torch.device
) -> float:
    """How long it will take to predict and evaluate some cases, by what one of them takes.

    It is predicted by an untrained network. As that finds classes everywhere, which no trained one does, the reference
    is evaluated in place of the prediction: distances between surfaces take as long as the classes are large.

    Raises:
        RunError: A preprocessed case or reference is missing.
    """
    if not cases:
        return 0.0
    number_type = find_number_type(device, "auto")
    network = build_network(plan.configurations[configuration].network)
    network.deep_supervision = False
    prepared = prepare_network(network.eval(), device=device, number_type=number_type)
    model = _wrap(plan, configuration, prepared, device, number_type=number_type)
    opened = {case: open_input_case(run, plan, configuration, case) for case in cases}
    voxels = {name: math.prod(case.label_map.shape) for name, case in opened.items()}
    chosen = sorted(cases, key=voxels.__getitem__)[len(cases) // 2]
    case = opened[chosen]
    reference = find_reference(run, chosen)
    if device.type == "cuda":
        _warm_up(model)
    start = time.perf_counter()
    logits = model.predict_preprocessed(read_network_input(case, plan.labels.foreground_labels))
    label_map = model.restore_label_map(logits, case.geometry)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{chosen}{label_map_ending(plan.file_ending)}"
        write_label_map(target, label_map, grid=case.geometry.grid, like=reference)
    predicted = time.perf_counter()
    evaluate_job(EvaluationJob(case=chosen, prediction=reference, reference=reference, labels=plan.labels))
    evaluation_seconds = (time.perf_counter() - predicted) / count_evaluation_workers(len(cases))
    seconds = predicted - start + evaluation_seconds
    return seconds * sum(voxels.values()) / voxels[chosen] * ESTIMATE_MARGIN + WORKER_START_SECONDS


def _warm_up(model: SegmentationModel) -> None:
    """Has a GPU load libraries and look for kernels, which takes seconds, whatever is predicted then."""
    configuration = model.configuration_plan
    patches = compute_patches_per_pass(configuration, model.device)
    shape = (patches, configuration.network.input_channels, *configuration.patch_voxels)
    with torch.inference_mode():
        for network in model.networks:
            network(torch.zeros(shape, device=model.device))[0].sum().item()


def measure_volume_dice(
    network: SegmentationNetwork, *, run: RunFolder, plan: Plan, configuration: str, cases: Sequence[str]
) -> float:
    """Mean Dice over classes and whole preprocessed cases, without mirroring; for following a training.

    Classes that a case neither has nor is predicted to have do not count.
    """
    device = next(network.parameters()).device
    supervised, network.deep_supervision = network.deep_supervision, False
    try:
        model = _wrap(plan, configuration, network, device)
        means = [_measure_case_dice(model, open_input_case(run, plan, configuration, case)) for case in cases]
    finally:
        network.deep_supervision = supervised
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else 0.0


def _measure_case_dice(model: SegmentationModel, case: CachedCase) -> float | None:
    image = read_network_input(case, model.plan.labels.foreground_labels)
    logits = model.predict_preprocessed(image, options=PredictionOptions(mirroring=False))
    label_map = torch.from_numpy(np.maximum(case.label_map[:], 0).astype(np.int16))
    counts = count_overlaps(logits[None].cpu(), label_map[None], model.plan.labels)
    return compute_mean_dice(compute_pseudo_dice([counts]))


def _wrap(
    plan: Plan, configuration: str, network: nn.Module, device: torch.device, *, number_type: NumberType = "float32"
) -> SegmentationModel:
    """A model of a network that is not, or not yet, one of the run's."""
    return SegmentationModel(
        plan=plan,
        configuration=configuration,
        folds=("",),
        networks=(network.eval(),),
        device=device,
        number_type=number_type,
    )


def read_finished_summary(folder: Path, cases: Sequence[str]) -> EvaluationSummary | None:
    """The summary of an earlier validation, if it is complete."""
    try:
        summary = read_document(folder / SUMMARY_JSON, EvaluationSummary)
    except DocumentError:
        return None
    return summary if [entry.case for entry in summary.metric_per_case] == list(cases) else None


def _predict_each(
    run: RunFolder, model: SegmentationModel, cases: Sequence[str], *, outputs: dict[str, Path], progress: Progress
) -> Iterator[str]:
    for name in cases:
        case = open_input_case(run, model.plan, model.configuration, name)
        image = read_network_input(case, model.plan.labels.foreground_labels)
        logits = model.predict_preprocessed(image, on_window=partial(progress.show_part, name))
        label_map = model.restore_label_map(logits, case.geometry)
        del logits  # or a GPU would hold them beside those of the next case
        write_label_map(outputs[name], label_map, grid=case.geometry.grid, like=find_reference(run, name))
        yield name
