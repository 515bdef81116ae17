"""Whole-volume validation of one training: predicts its held-out cases and scores them on their own grids."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from autoseg.document import Document, PackedSequence, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.evaluation.summary import SUMMARY_JSON, EvaluationSummary
from autoseg.geometry import Grid
from autoseg.inference.execution.preparation import AutocastNetwork
from autoseg.inference.held_out import load_held_out_model
from autoseg.inference.model import SegmentationModel, read_common_plan
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import Plan
from autoseg.plan.stages import BoxOfPreviousStage
from autoseg.preprocessing.cache import CachedCase
from autoseg.processes.progress import Progress
from autoseg.quality.features import NetworkFeatures
from autoseg.run_folder import FoldFolder, RunFolder, make_folder, remove_folder
from autoseg.runtime.precision import DtypeName
from autoseg.stages.box import covers_foreground
from autoseg.stages.training_cases import open_training_case, read_box, read_network_input
from autoseg.training.checkpoint import read_description
from autoseg.training.monitoring.pseudo_dice import compute_mean_dice, compute_pseudo_dice, count_overlaps
from autoseg.validation_conditions import ValidationConditions
from autoseg.volume_io import label_map_ending, write_label_map
from autoseg.workflows.cases.loop import (
    CaseOutput,
    complete_cases,
    predict_preprocessed_cases,
)
from autoseg.workflows.cases.network_features import (
    StoredFeatures,
    find_sources,
    measure_network_features,
    write_features,
)
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.evaluation import EvaluationJob, JobCodec, evaluate_jobs
from autoseg.workflows.folds.status import ValidationChoice
from autoseg.workflows.plan.preprocessing import check_preprocessed

LOG_NAME: Final = "validation.log"


class LabelMapOptions(Document):
    """How the label maps of a validation that has no mirrored views or less overlap were predicted; beside them."""

    schema_version: Literal[1] = 1
    mirroring: bool
    step_fraction: float


def validate_fold(
    run: RunFolder,
    configuration: str,
    fold: str,
    *,
    cases: Sequence[str],
    device: str,
    progress: Progress,
    choice: ValidationChoice | None = None,
) -> EvaluationSummary:
    """Predicts the cases that are not yet predicted, and evaluates all of them.

    Args:
        cases: All that the fold holds out.
        choice: Part of the validation that time allows; None for all of it. Label maps that were predicted in another
            way are discarded.

    Raises:
        RunError: A preprocessed case or reference is missing.
    """
    chosen = choice or ValidationChoice(cases=tuple(cases), held_out_cases=len(cases))
    folder = run.fold(configuration, fold)
    finished = read_finished_summary(folder.validation, chosen)
    if finished is not None:
        return finished
    _discard_unlike(folder, chosen.options)
    ending = label_map_ending(read_common_plan([folder], configuration).file_ending)
    outputs = {case: folder.validation / f"{case}{ending}" for case in chosen.cases}
    waiting = [case for case in chosen.cases if not outputs[case].is_file()]
    model = load_held_out_model(
        run, configuration=configuration, fold=fold, device=device, images=len(waiting), options=chosen.options
    )
    check_preprocessed(run, model.plan, model.configuration_plan.data_of, chosen.cases)
    _predict_cases(run, model, waiting, outputs=outputs, options=chosen.options, progress=progress)
    labels = model.plan.labels
    jobs = PackedSequence(
        JobCodec(labels),
        (
            EvaluationJob(case=case, prediction=outputs[case], reference=find_reference(run, case), labels=labels)
            for case in chosen.cases
        ),
    )
    conditions = _describe_conditions(run, folder, model, chosen)
    return evaluate_jobs(jobs, folder=folder.validation, progress=progress, validation=conditions)


def _discard_unlike(folder: FoldFolder, options: PredictionOptions) -> None:
    """Removes label maps that were predicted in another way, and notes in which way those to come are."""
    record = folder.validation_options
    wanted = LabelMapOptions(mirroring=options.mirroring, step_fraction=options.step_fraction)
    found = read_document(record, LabelMapOptions) if record.is_file() else USUAL_OPTIONS
    if found != wanted:
        remove_folder(folder.validation)
    make_folder(folder.validation)
    if wanted != USUAL_OPTIONS:
        write_document(record, wanted)


USUAL_OPTIONS: Final = LabelMapOptions(mirroring=DEFAULT_OPTIONS.mirroring, step_fraction=DEFAULT_OPTIONS.step_fraction)


def _describe_conditions(
    run: RunFolder, folder: FoldFolder, model: SegmentationModel, choice: ValidationChoice
) -> ValidationConditions:
    return ValidationConditions(
        mirroring=choice.options.mirroring,
        step_fraction=choice.options.step_fraction,
        validated_cases=len(choice.cases),
        held_out_cases=choice.held_out_cases,
        trained_iterations=read_description(folder.final_checkpoint).trained_iterations,
        sufficient_iterations=model.configuration_plan.training.sufficient_iterations,
        box_recall=measure_box_recall(run, model.plan, model.configuration, choice.cases),
        box_share=measure_box_share(run, model.plan, model.configuration, choice.cases),
    )


def measure_box_recall(run: RunFolder, plan: Plan, configuration: str, cases: Sequence[str]) -> float | None:
    """Measures the fraction of preprocessed cases whose foreground lies wholly in the box of the previous stage.

    Returns None for a configuration without such a box.
    """
    stage = plan.configurations[configuration].previous_stage
    if not isinstance(stage, BoxOfPreviousStage):
        return None
    opened = (open_training_case(run, plan, configuration, case) for case in cases)
    inside = [
        covers_foreground(read_box(case, plan, configuration), case.label_map[:], plan.labels.foreground_labels)
        for case in opened
    ]
    return sum(inside) / len(inside)


def measure_box_share(run: RunFolder, plan: Plan, configuration: str, cases: Sequence[str]) -> float | None:
    """Measures the share of preprocessed images that the box of the previous stage holds, the mean over the cases.

    An image without a box counts as 1, as all of it is predicted. Returns None for a configuration without such boxes.
    """
    if not isinstance(plan.configurations[configuration].previous_stage, BoxOfPreviousStage):
        return None
    shares = []
    for case in cases:
        opened = open_training_case(run, plan, configuration, case)
        box, extents = read_box(opened, plan, configuration), opened.label_map.shape
        inside = extents if box is None else [end - first for first, end in box]
        shares.append(math.prod(inside) / math.prod(extents))
    return sum(shares) / len(shares)


def measure_volume_dice(
    network: SegmentationNetwork,
    *,
    run: RunFolder,
    plan: Plan,
    configuration: str,
    cases: Sequence[str],
    dtype: DtypeName = "float32",
) -> float:
    """Mean Dice over classes and whole preprocessed cases, without mirroring; for following a training.

    Classes that a case neither has nor is predicted to have do not count.

    Args:
        dtype: The dtype in which the network computes, with weights in single precision.
    """
    device = next(network.parameters()).device
    own = network if dtype == "float32" else AutocastNetwork(network, device, dtype)
    with network.single_output():
        model = SegmentationModel(
            plan=plan,
            configuration=configuration,
            folds=("",),  # the weights are not, or not yet, those of a fold of the run
            networks=(own.eval(),),
            device=device,
            dtype=dtype,
        )
        means = [_measure_case_dice(model, open_training_case(run, plan, configuration, case)) for case in cases]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else 0.0


def _measure_case_dice(model: SegmentationModel, case: CachedCase) -> float | None:
    image = read_network_input(case, model.plan, model.configuration)
    box = read_box(case, model.plan, model.configuration)
    logits = model.predict_preprocessed(image, box=box, options=PredictionOptions(mirroring=False))
    label_map = torch.from_numpy(np.maximum(case.label_map[:], 0).astype(np.int16))
    counts = count_overlaps(logits[None].cpu(), label_map[None], model.plan.labels)
    return compute_mean_dice(compute_pseudo_dice([counts]))


def read_finished_summary(folder: Path, choice: ValidationChoice) -> EvaluationSummary | None:
    """The summary of an earlier validation, if it is complete and was made in the chosen way."""
    try:
        summary = read_document(folder / SUMMARY_JSON, EvaluationSummary)
    except DocumentError:
        return None
    found, options = summary.validation, DEFAULT_OPTIONS
    if found is not None:
        options = PredictionOptions(mirroring=found.mirroring, step_fraction=found.step_fraction)
    is_same = [entry.case for entry in summary.metric_per_case] == list(choice.cases) and options == choice.options
    return summary if is_same else None


def _predict_cases(
    run: RunFolder,
    model: SegmentationModel,
    cases: Sequence[str],
    *,
    outputs: dict[str, Path],
    options: PredictionOptions,
    progress: Progress,
) -> None:
    def restore(case: str, predicted: Sequence[CaseOutput]) -> tuple[np.ndarray, Grid, NetworkFeatures]:
        (output,) = predicted
        label_map = model.restore_label_map(output.logits, output.geometry)
        return (
            label_map,
            output.geometry.grid,
            measure_network_features([output.image], [output.logits], output.geometry, model.plan, models=[model]),
        )

    def write(case: str, restored: tuple[np.ndarray, Grid, NetworkFeatures]) -> None:
        label_map, grid, features = restored
        sources = tuple(find_sources(run, model.plan, model.configuration, model.folds[0], case=case))
        write_features(outputs[case].parent, case, StoredFeatures(sources=sources, features=features))
        write_label_map(outputs[case], label_map, grid=grid, like=find_reference(run, case))

    events = predict_preprocessed_cases(
        run, [model], cases, finish=restore, write=write, options=options, progress=progress
    )
    complete_cases(events, progress=progress, label="Validating", total=len(cases), log=run.logs / LOG_NAME)
