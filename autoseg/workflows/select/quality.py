"""Calibrates estimates of quality on the held-out predictions of the selected models.

Features of probabilities are stored by validations. Where they are missing, the case is predicted once more, by the
network that held it out.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64

from autoseg import __version__
from autoseg.document import write_document
from autoseg.errors import CasesFailedError, RunError
from autoseg.evaluation.case_metrics import evaluate_case
from autoseg.inference.model import load_model
from autoseg.plan.document import Plan
from autoseg.postprocessing.application import apply_rules
from autoseg.postprocessing.rules import Rule
from autoseg.preprocessing.case import compute_plan_axes
from autoseg.processes.case_pool import Failure, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration, ScoredCase, fit_calibration
from autoseg.quality.features import CaseFeatures, NetworkFeatures
from autoseg.quality.probabilities import average_probabilities
from autoseg.quality.shapes import MM3_PER_ML, measure_shapes
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.loop import CaseOutput, complete_cases, predict_preprocessed_cases
from autoseg.workflows.cases.network_features import (
    StoredFeatures,
    find_sources,
    measure_network_features,
    read_features,
    write_features,
)
from autoseg.workflows.evaluate.evaluation import (
    SURFACE_TOLERANCE_MM,
    EvaluationJob,
    count_evaluation_workers,
    read_pair,
)
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.selection_document import Selection

LOG_NAME: Final = "quality.log"


def calibrate_quality(
    run: RunFolder,
    held_out: Sequence[HeldOut],
    jobs: Sequence[EvaluationJob],
    selection: Selection,
    *,
    blocks: Int64[np.ndarray, " case"],
    device: str,
    progress: Progress,
) -> QualityCalibration:
    """Fits the estimates to what the selection predicts for its held-out cases, and writes them into the run.

    Args:
        run: The run.
        held_out: The selected configurations.
        jobs: Predictions of the selection and references.
        selection: The selection.
        blocks: Number of the block of each job; blocks are left out in turn.
        device: Device for cases that have to be predicted.
        progress: Progress display.

    Raises:
        RunError: The run cannot be written.
        CasesFailedError: Some cases could not be predicted or compared.
    """
    scored = score_held_out(run, held_out, jobs, selection, device=device, progress=progress)
    plan = held_out[0].plan
    classes, distribution = fit_calibration(
        list(scored.values()),
        blocks[[job.case in scored for job in jobs]],
        channel_names=[channel.name for channel in plan.channels],
        class_names=plan.labels.class_names,
    )
    calibration = QualityCalibration(
        autoseg_version=__version__,
        weights_sha256=selection.weights_sha256,
        postprocessing=tuple(rule.describe() for rule in selection.postprocessing.rules),
        cases=len(scored),
        class_names=plan.labels.class_names,
        classes=classes,
        distribution=distribution,
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
    cases, depth = [job.case for job in jobs], selection.members[0].pruned_depth
    of_members = [
        _complete_features(run, member, cases, depth=depth, device=device, progress=progress) for member in held_out
    ]
    chosen = [
        (job.case, (job, _join([features[job.case] for features in of_members])))
        for job in jobs
        if all(job.case in features for features in of_members)
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


def _join(of_members: Sequence[NetworkFeatures]) -> NetworkFeatures:
    probabilities = average_probabilities([features.probabilities for features in of_members])
    return of_members[0].model_copy(update={"probabilities": probabilities})


def _find_folder(run: RunFolder, member: HeldOut, case: str, depth: int | None) -> Path:
    """Finds the folder of the label map of a case."""
    if depth is not None:
        return run.pruned(member.configuration, depth)
    return run.fold(member.configuration, member.holders[case]).validation


def _complete_features(
    run: RunFolder,
    member: HeldOut,
    cases: Sequence[str],
    *,
    depth: int | None,
    device: str,
    progress: Progress,
) -> dict[str, NetworkFeatures]:
    """Reads the stored features of all cases; those that are missing are measured and stored."""
    found = {case: _read(run, member, case, depth) for case in cases}
    waiting = [case for case in cases if found[case] is None]
    if waiting and _are_preprocessed(run, member, waiting, progress):
        progress.note(
            f"{member.configuration}: features of {len(waiting)} held-out cases are not stored; these cases are "
            f"predicted once more"
        )
        events = _predict_waiting(run, member, waiting, depth=depth, device=device, progress=progress)
        complete_cases(
            events, progress=progress, label="Measuring features", total=len(waiting), log=run.logs / LOG_NAME
        )
        found |= {case: _read(run, member, case, depth) for case in waiting}
    return {case: features for case, features in found.items() if features is not None}


def _are_preprocessed(run: RunFolder, member: HeldOut, cases: Sequence[str], progress: Progress) -> bool:
    try:
        check_preprocessed(run, member.plan, member.plan.configurations[member.configuration].data_of, cases)
    except RunError as error:
        progress.note(
            f"warning: quality is calibrated without {len(cases)} held-out cases, which have no features: {error}"
        )
        return False
    return True


def _read(run: RunFolder, member: HeldOut, case: str, depth: int | None) -> NetworkFeatures | None:
    sources = tuple(find_sources(run, member.plan, member.configuration, member.holders[case], case=case))
    return read_features(_find_folder(run, member, case, depth), case, sources=sources, pruned_depth=depth)


def _predict_waiting(
    run: RunFolder,
    member: HeldOut,
    waiting: Sequence[str],
    *,
    depth: int | None,
    device: str,
    progress: Progress,
) -> Iterator[Failure | None]:
    """Cases of the same fold follow one another, so that each network is loaded once."""

    def measure(case: str, outputs: Sequence[CaseOutput]) -> NetworkFeatures:
        (output,) = outputs
        return measure_network_features(output.image, output.logits, output.geometry, output.model.plan)

    def write(case: str, features: NetworkFeatures) -> None:
        sources = tuple(find_sources(run, member.plan, member.configuration, member.holders[case], case=case))
        content = StoredFeatures(sources=sources, pruned_depth=depth, features=features)
        write_features(_find_folder(run, member, case, depth), case, content)

    for fold, cases in groupby(sorted(waiting, key=member.holders.__getitem__), key=member.holders.__getitem__):
        model = load_model(
            run,
            configuration=member.configuration,
            folds=(fold,),
            device=device,
            execution="eager",
            with_previous=False,
            pruned_depth=depth,
        )
        yield from predict_preprocessed_cases(run, [model], list(cases), finish=measure, write=write, progress=progress)


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
