"""Calibrates estimates of quality on the held-out predictions of the selected models.

Features of probabilities are stored by validations, and where other options of prediction are measured. Where they are
missing, the case is predicted once more, by the network that held it out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from autoseg import __version__
from autoseg.document import write_document
from autoseg.errors import CasesFailedError, RunError
from autoseg.evaluation.case_metrics import evaluate_case
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.plan.document import Plan
from autoseg.postprocessing.application import apply_rules
from autoseg.postprocessing.rules import Rule
from autoseg.preprocessing.case import compute_plan_axes
from autoseg.processes.case_pool import Failure, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration, ScoredCase, fit_calibration
from autoseg.quality.features import MM3_PER_ML, CaseFeatures, NetworkFeatures
from autoseg.quality.objects import ScoredObjects, fit_objects
from autoseg.quality.shapes import measure_shapes
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.loop import CaseOutput, complete_cases, predict_preprocessed_cases
from autoseg.workflows.cases.network_features import average_features
from autoseg.workflows.evaluate.evaluation import (
    SURFACE_TOLERANCE_MM,
    EvaluationJob,
    count_evaluation_workers,
    read_pair,
)
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.selection_document import NAMES_JOINED_BY, Selection
from autoseg.workflows.select.stored_predictions import VariantJob, get_configuration, measure_outputs

LOG_NAME: Final = "quality.log"


def calibrate_quality(
    run: RunFolder,
    held_out: Sequence[HeldOut],
    jobs: Sequence[EvaluationJob],
    selection: Selection,
    *,
    blocks: Int64[np.ndarray, " case"],
    objects: Sequence[ScoredObjects] | None = None,
    device: str,
    progress: Progress,
) -> QualityCalibration:
    """Fits the estimates to what the selection predicts for its held-out cases, and writes them into the run.

    They hold for the options that were chosen.

    Args:
        run: The run.
        held_out: The selected configurations.
        jobs: Predictions of the selection with its options, and references.
        selection: The selection.
        blocks: Number of the block of each job; blocks are left out in turn.
        objects: Objects of each job; None where they are not told apart.
        device: Device for cases that have to be predicted.
        progress: Progress display.

    Raises:
        RunError: The run cannot be written.
        CasesFailedError: Some cases could not be predicted or compared.
    """
    scored = score_held_out(run, held_out, jobs, selection, device=device, progress=progress)
    plan, is_scored = held_out[0].plan, [job.case in scored for job in jobs]
    classes, distribution = fit_calibration(
        list(scored.values()),
        blocks[is_scored],
        channel_names=[channel.name for channel in plan.channels],
        class_names=plan.labels.class_names,
    )
    calibration = QualityCalibration(
        autoseg_version=__version__,
        weights_sha256=selection.weights_sha256,
        postprocessing=tuple(rule.describe() for rule in selection.postprocessing.rules),
        mirroring=selection.options.mirroring,
        step_fraction=selection.options.step_fraction,
        decoding=selection.options.decoding,
        cases=len(scored),
        class_names=plan.labels.class_names,
        classes=classes,
        distribution=distribution,
        objects=None
        if objects is None
        else fit_objects(
            [entry.features.network for entry in scored.values()],
            [entry for entry, is_known in zip(objects, is_scored, strict=True) if is_known],
            blocks[is_scored],
            class_names=plan.dataset_labels.class_names,
        ),
    )
    write_document(run.root / CALIBRATION_NAME, calibration)
    return calibration


def score_held_out(
    run: RunFolder,
    held_out: Sequence[HeldOut],
    jobs: Sequence[EvaluationJob],
    selection: Selection,
    *,
    device: str,
    progress: Progress,
) -> dict[str, ScoredCase]:
    """Measures and scores what the selection predicts for its held-out cases, by case, in the order of the jobs.

    For a pair of configurations, features of probabilities are the means over both, each on its own grid; features of
    label maps, and scores, are those of the pair. Cases that have no stored features and are not preprocessed any more
    are left out, with a note. Arguments as in `calibrate_quality`.

    Raises:
        RunError: The run cannot be written.
        CasesFailedError: Some cases could not be predicted or compared.
    """
    plan, rules = held_out[0].plan, selection.postprocessing.rules
    whole = VariantJob(
        run=run,
        members=tuple(held_out),
        cases=tuple(job.case for job in jobs),
        pruned_depth=selection.members[0].pruned_depth,
        device=device,
    )
    options = replace(selection.options, decoding=DEFAULT_OPTIONS.decoding)  # any decoding has the same logits
    of_parts = [_complete_features(part, options, progress=progress) for part in _list_parts(whole, options)]
    chosen = [
        (job.case, (job, average_features([features[job.case] for features in of_parts])))
        for job in jobs
        if all(job.case in features for features in of_parts)
    ]
    outcome = run_over_cases(
        partial(_score_case, plan=plan, rules=rules),
        chosen,
        workers=count_evaluation_workers(len(chosen)),
        label="Calibrating quality",
        progress=progress,
    )
    if outcome.failures:
        heading = f"{len(outcome.failures)} of {len(chosen)} held-out predictions cannot be used:"
        raise CasesFailedError(heading, list_problems(outcome.failures))
    return {case: result for (case, _), result in zip(chosen, outcome.results, strict=True)}


def _list_parts(job: VariantJob, options: PredictionOptions) -> tuple[VariantJob, ...]:
    """Lists the parts whose features are stored apart: each member by itself, as validated, or all as one variant."""
    if options != DEFAULT_OPTIONS:
        return (job,)
    return tuple(replace(job, members=(member,)) for member in job.members)


def _find_folder(part: VariantJob, options: PredictionOptions, case: str) -> Path:
    """Finds the folder of the features of a case."""
    if options != DEFAULT_OPTIONS:
        return part.find_folder(options)
    (member,) = part.members
    if part.pruned_depth is not None:
        return part.run.pruned(member.configuration, part.pruned_depth)
    return part.run.fold(member.configuration, member.holders[case]).validation


def _complete_features(
    part: VariantJob, options: PredictionOptions, *, progress: Progress
) -> dict[str, NetworkFeatures]:
    """Reads the stored features of all cases; those that are missing are measured and stored."""

    def read(case: str) -> NetworkFeatures | None:
        return part.read_features(_find_folder(part, options, case), case)

    found = {case: read(case) for case in part.cases}
    waiting = [case for case in part.cases if found[case] is None]
    if waiting and _are_preprocessed(part, waiting, progress):
        progress.note(
            f"{NAMES_JOINED_BY.join(part.configurations)}: features of {len(waiting)} held-out cases are not stored; "
            f"these cases are predicted once more"
        )
        events = _predict_waiting(part, options, waiting, progress=progress)
        complete_cases(
            events, progress=progress, label="Measuring features", total=len(waiting), log=part.run.logs / LOG_NAME
        )
        found |= {case: read(case) for case in waiting}
    return {case: features for case, features in found.items() if features is not None}


def _are_preprocessed(part: VariantJob, cases: Sequence[str], progress: Progress) -> bool:
    try:
        for member in part.members:
            check_preprocessed(part.run, member.plan, get_configuration(member).data_of, cases)
    except RunError as error:
        progress.note(
            f"warning: quality is calibrated without {len(cases)} held-out cases, which have no features: {error}"
        )
        return False
    return True


def _predict_waiting(
    part: VariantJob, options: PredictionOptions, waiting: Sequence[str], *, progress: Progress
) -> Iterator[Failure | None]:
    """Cases of the same folds follow one another, so that each network is loaded once."""

    def measure(case: str, outputs: Sequence[CaseOutput]) -> NetworkFeatures:
        return measure_outputs(outputs)

    def write(case: str, features: NetworkFeatures) -> None:
        part.write_features(_find_folder(part, options, case), case, features)

    for models, cases in part.load_models(waiting, options):
        yield from predict_preprocessed_cases(
            part.run, models, cases, finish=measure, write=write, progress=progress, options=options
        )


def _score_case(job: tuple[EvaluationJob, NetworkFeatures], *, plan: Plan, rules: tuple[Rule, ...]) -> ScoredCase:
    """Compares a finished label map with its reference, in a worker process."""
    files, network = job
    labels = plan.labels
    pair, grid = read_pair(files)
    finished = apply_rules(pair.prediction, rules, labels=labels, spacing_mm=grid.spacing_mm)
    metrics = evaluate_case(
        finished, pair.reference, spacing_mm=grid.spacing_mm, labels=labels, tolerance_mm=SURFACE_TOLERANCE_MM
    )
    axes = compute_plan_axes(grid, plan.orientation, plan.axis_permutation)
    spacing_mm = axes.apply_to_grid(grid).spacing_mm
    voxel_ml = spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / MM3_PER_ML
    return ScoredCase(
        features=CaseFeatures(network=network, shapes=measure_shapes(axes.apply(finished), spacing_mm, labels)),
        dice=tuple(entry.dice for entry in metrics),
        nsd=tuple(entry.surface_dice for entry in metrics),
        reference_ml=tuple(entry.reference_voxels * voxel_ml for entry in metrics),
    )
