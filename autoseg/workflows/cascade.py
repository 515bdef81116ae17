"""Makes what a configuration is trained on of its previous stage: out-of-fold predictions of all cases."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from autoseg.dataset.folds import Splits
from autoseg.errors import TrainingError
from autoseg.inference.held_out import load_held_out_model
from autoseg.inference.model import check_stages_compatible, read_common_plan
from autoseg.plan.document import Plan
from autoseg.processes.case_pool import Failure
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.stages.out_of_fold import StageLink, digest_sources, find_holders
from autoseg.stages.stored_maps import PredictionSource
from autoseg.stages.training_cases import StoredStageInput
from autoseg.training.checkpoint import read_description
from autoseg.workflows.cases.loop import (
    CaseOutput,
    complete_cases,
    predict_preprocessed_cases,
)
from autoseg.workflows.plan.preprocessing import check_preprocessed

LOCK_NAME: Final = ".predicting.lock"
LOG_NAME: Final = "stage_predictions.log"


def find_link(run: RunFolder, plan: Plan, configuration: str, splits: Splits) -> StageLink | None:
    """The link to the previous stage of a configuration; None if it has none.

    Raises:
        TrainingError: A case is held out by no fold.
    """
    if plan.configurations[configuration].previous_stage is None:
        return None
    cases = {case for fold in splits.folds for case in fold.training}
    holders = find_holders([fold.validation for fold in splits.folds], cases)
    return StageLink(run=run, plan=plan, configuration=configuration, holders=holders)


def prepare_stage_input(link: StageLink, *, device: str, progress: Progress) -> StoredStageInput:
    """Predicts every case whose stored map is missing or was made by other weights or for another grid.

    Trainings of several folds that begin at the same time wait for the one that predicts.

    Raises:
        PredictionError: A fold of the previous stage is not trained, or was trained by another plan.
        TrainingError: The previous stage has one itself, which was trained again since.
        RunError: A preprocessed case is missing or damaged.
        CasesFailedError: Some cases could not be predicted.
    """
    trainings = list(link.folds.values())
    check_stages_compatible(read_common_plan(trainings, link.previous), link.plan, link.configuration)
    if link.plan.configurations[link.previous].previous_stage is not None:
        _prepare_previous(replace(link, configuration=link.previous), link.folds, device=device, progress=progress)
    sources = link.find_sources()
    note = f"waiting for another process, which predicts cases with {link.previous}"
    with wait_for_lock(link.folder / LOCK_NAME, on_wait=lambda: progress.note(note)):
        outdated = link.list_outdated_cases(sources)
        check_preprocessed(link.run, link.plan, link.plan.configurations[link.previous].data_of, outdated)
        events = _predict_outdated(link, sources, outdated, device=device, progress=progress)
        label, total = f"Predicting with {link.previous}", len(outdated)
        complete_cases(events, progress=progress, label=label, total=total, log=link.run.logs / LOG_NAME)
    return link.build_stored_input(sources)


def list_stale_folds(
    run: RunFolder, plan: Plan, splits: Splits, *, configuration: str, folds: Sequence[str]
) -> tuple[str, ...]:
    """Lists the finished folds of which a stage before them was trained again since they were trained.

    None where folds of the previous stage are missing, because nothing can be said then.

    Raises:
        TrainingError: A checkpoint is damaged, or a case is held out by no fold.
    """
    link = find_link(run, plan, configuration, splits)
    if link is None:
        return ()
    earlier = list_stale_folds(run, plan, splits, configuration=link.previous, folds=tuple(link.folds))
    return tuple(folds) if earlier else _list_stale(link, folds)


def _list_stale(link: StageLink, folds: Collection[str]) -> tuple[str, ...]:
    if not folds or link.list_untrained_folds():
        return ()
    digest = digest_sources(link.find_sources())
    checkpoints = {fold: link.run.fold(link.configuration, fold).final_checkpoint for fold in folds}
    return tuple(
        fold for fold, path in checkpoints.items() if read_description(path).identity.previous_digest != digest
    )


def _prepare_previous(link: StageLink, folds: Collection[str], *, device: str, progress: Progress) -> None:
    """Prepares what the previous stage itself gets from the one before it."""
    prepare_stage_input(link, device=device, progress=progress)
    stale = _list_stale(link, folds)
    if stale:
        msg = (
            f"{link.configuration} was trained on predictions of {link.previous}, which was trained again since (fold "
            f"{', '.join(stale)}): train it again with: autoseg train {link.run.root} --configuration "
            f"{link.configuration} --restart"
        )
        raise TrainingError(msg)


def _predict_outdated(
    link: StageLink,
    sources: Mapping[str, PredictionSource],
    outdated: Sequence[str],
    *,
    device: str,
    progress: Progress,
) -> Iterator[Failure | None]:
    """Loads every fold once."""

    def convert(case: str, outputs: Sequence[CaseOutput]) -> np.ndarray:
        (output,) = outputs
        prediction = output.model.build_stage_prediction(output.logits, output.geometry)
        stage_map = link.input.convert_for_training(prediction, link.read_geometry(case))
        fallback = link.input.explain_fallback(stage_map)
        if fallback is not None:
            progress.note(f"{case}: {fallback}")
        return stage_map

    def write(case: str, stage_map: np.ndarray) -> None:
        link.write_map(case, stage_map, source=sources[case])

    for fold in link.folds:
        cases = [case for case in outdated if sources[case].fold == fold]
        if cases:
            model = load_held_out_model(
                link.run, configuration=link.previous, fold=fold, device=device, images=len(cases)
            )
            yield from predict_preprocessed_cases(
                link.run, [model], cases, finish=convert, write=write, progress=progress
            )
