"""Makes what a configuration is trained on of its previous stage: out-of-fold predictions of all cases."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from autoseg.dataset.folds import Splits
from autoseg.document import read_document, write_document
from autoseg.errors import AutosegError, TrainingError, describe_folds, quote_path
from autoseg.evaluation.crossvalidation import FEWEST_CASES
from autoseg.inference.held_out import load_held_out_model
from autoseg.inference.model import SegmentationModel, check_stages_compatible, read_common_plan
from autoseg.nonzero_region import compute_bounding_box
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import Plan
from autoseg.plan.stages import BoxOfPreviousStage
from autoseg.preprocessing.cache import open_case
from autoseg.processes.case_pool import Failure
from autoseg.processes.fold_lock import wait_for_lock
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.stages.box import find_moved_components, store_box
from autoseg.stages.box_components import BoxCase, learn_margin, learn_minimum
from autoseg.stages.out_of_fold import StageLink, digest_sources, find_holders
from autoseg.stages.previous_input import StagePrediction
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
PLAN_LOCK_NAME: Final = ".learning.lock"
LOG_NAME: Final = "stage_predictions.log"

Converted = TypeVar("Converted")


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


def warn_of_stale_stages(run: RunFolder, models: Iterable[SegmentationModel]) -> Iterator[str]:
    """Yields a warning for each model that was trained on predictions of a stage which was trained again since.

    None where that cannot be found out, as models without data have no folds, and what is damaged is named where it is
    used.
    """
    for model in models:
        previous = model.configuration_plan.previous_configuration
        stale: tuple[str, ...] = ()
        if previous is not None:
            with suppress(AutosegError):
                splits = read_document(run.splits, Splits)
                stale = list_stale_folds(run, model.plan, splits, configuration=model.configuration, folds=model.folds)
        if stale:
            yield (
                f"warning: {model.configuration} was trained on predictions of {previous}, which was trained again "
                f"since ({describe_folds(stale)}), and may predict worse with it; train it again with: autoseg train "
                f"{quote_path(run.root)} --configuration {model.configuration} --restart"
            )


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
            f"{link.configuration} was trained on predictions of {link.previous}, which was trained again since "
            f"({describe_folds(stale)}): train it again with: autoseg train {quote_path(link.run.root)} "
            f"--configuration {link.configuration} --restart"
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
    """Stores the maps of cases."""

    def convert(case: str, prediction: StagePrediction) -> np.ndarray:
        stage_map = link.input.convert_for_training(prediction, link.read_geometry(case))
        _note_fallback(link, case, stage_map, progress)
        return stage_map

    def write(case: str, stage_map: np.ndarray) -> None:
        link.write_map(case, stage_map, source=sources[case])

    yield from _predict_cases(link, sources, outdated, convert=convert, write=write, device=device, progress=progress)


def _note_fallback(link: StageLink, case: str, stage_map: np.ndarray, progress: Progress) -> None:
    fallback = link.input.explain_fallback(stage_map)
    if fallback is not None:
        progress.note(f"{case}: {fallback}")


def _predict_cases(
    link: StageLink,
    sources: Mapping[str, PredictionSource],
    cases: Sequence[str],
    *,
    convert: Callable[[str, StagePrediction], Converted],
    write: Callable[[str, Converted], None],
    device: str,
    progress: Progress,
) -> Iterator[Failure | None]:
    """Loads every fold once."""

    def finish(case: str, outputs: Sequence[CaseOutput]) -> Converted:
        (output,) = outputs
        return convert(case, output.model.build_stage_prediction(output.logits, output.geometry))

    for fold in link.folds:
        own = [case for case in cases if sources[case].fold == fold]
        if own:
            model = load_held_out_model(
                link.run, configuration=link.previous, fold=fold, device=device, images=len(own)
            )
            yield from predict_preprocessed_cases(link.run, [model], own, finish=finish, write=write, progress=progress)


def learn_box(link: StageLink, *, device: str, progress: Progress) -> StageLink:
    """Learns about the box of a configuration, before its first fold is trained.

    The volume that a component needs to count and the margin are written with their reasons to the plan of the run,
    which every fold copies. They are learned from out-of-fold predictions of all cases, whose boxes are stored, and
    anew where the previous stage was trained again; not from fewer than `FEWEST_CASES`, nor where folds are trained
    already, which is said if they were trained before the previous stage was, where the user has written one of them
    into the plan, or where the previous stage has one itself.

    Returns:
        The link with the present plan of the run, to which a previous stage may have added its own.

    Raises:
        AutosegError: As `prepare_stage_input`.
    """
    link = replace(link, plan=read_document(link.run.plan, Plan))
    _note_kept_box(link, progress)
    if not _is_box_open(link):
        return link
    note = f"waiting for another process, which predicts cases with {link.previous}"
    with wait_for_lock(link.folder / LOCK_NAME, on_wait=lambda: progress.note(note)):
        link = replace(link, plan=read_document(link.run.plan, Plan))
        if not _is_box_open(link):
            return link
        check_stages_compatible(
            read_common_plan(list(link.folds.values()), link.previous), link.plan, link.configuration
        )
        sources = link.find_sources()
        found = _find_box_cases(link, sources, device=device, progress=progress)
        cases, unit = list(found.values()), link.plan.distance_unit
        minimum = learn_minimum(cases, distance_unit=unit)
        margin = learn_margin(cases, minimum.value, distance_unit=unit)
        link = replace(link, plan=_write_learned(link, {"minimum_mm3": minimum, "further_margin_mm": margin}))
        for case, box_case in found.items():
            wider = replace(box_case, margin_mm=_get_box(link).box_margin_mm)
            stage_map = store_box(wider.components.join(minimum.value))
            _note_fallback(link, case, stage_map, progress)
            link.write_map(case, stage_map, source=sources[case])
    for reason in _list_reasons(link):
        progress.note(f"{reason.subject}: {reason.value} ({reason.because})")
    return link


def _get_box(link: StageLink) -> BoxOfPreviousStage:
    stage = link.plan.configurations[link.configuration].previous_stage
    assert isinstance(stage, BoxOfPreviousStage), "there is no box"
    return stage


def _is_box_open(link: StageLink) -> bool:
    """Whether something about the box is still to be learned, or was learned from other predictions."""
    plan, name = link.plan, link.configuration
    stage = plan.configurations[name].previous_stage
    if not isinstance(stage, BoxOfPreviousStage) or plan.configurations[link.previous].previous_stage is not None:
        return False
    if len(link.holders) < FEWEST_CASES or any(link.run.configuration_models(name).glob("fold_*/plan.json")):
        return False
    if not _find_learned(link):
        return stage.minimum_mm3 == stage.further_margin_mm == 0 and not _list_reasons(link)
    return bool(link.list_outdated_cases(link.find_sources()))


def _note_kept_box(link: StageLink, progress: Progress) -> None:
    """Notes that the box was learned from predictions of a previous stage that was trained again since."""
    learned, name = _find_learned(link), link.configuration
    checkpoints = sorted(link.run.configuration_models(name).glob("fold_*/checkpoint_final.safetensors"))
    folds = [path.parent.name.removeprefix("fold_") for path in checkpoints] if learned else []
    stale: tuple[str, ...] = ()
    with suppress(TrainingError):  # a damaged checkpoint is named where it is used
        stale = _list_stale(link, folds)
    if stale:
        values = "; ".join(f"{reason.subject.removeprefix(f'{name}: ')}: {reason.value}" for reason in learned)
        progress.note(
            f"warning: {link.previous} was trained again since {describe_folds(stale)} of {name}, so what its box "
            f"needs ({values}) was learned from its earlier predictions; to learn it anew, move "
            f"{link.run.configuration_models(name)} away and train all folds again"
        )


def _find_learned(link: StageLink) -> tuple[Reason, ...]:
    """Finds the reasons of what was learned; none if nothing was, or the user has changed it in the plan."""
    stage = link.plan.configurations[link.configuration].previous_stage
    if not isinstance(stage, BoxOfPreviousStage):
        return ()
    reasons, values = _list_reasons(link), _describe_learned(link, stage)
    return reasons if all(values[reason.subject] == reason.value for reason in reasons) else ()


def _list_reasons(link: StageLink) -> tuple[Reason, ...]:
    subjects = _describe_learned(link, _get_box(link))
    return tuple(reason for reason in link.plan.reasons if reason.subject in subjects)


def _describe_learned(link: StageLink, stage: BoxOfPreviousStage) -> dict[str, str]:
    """Describes what is learned about a box, by the subjects of the reasons."""
    unit, name = link.plan.distance_unit, link.configuration
    return {
        f"{name}: smallest component of the box": f"{stage.minimum_mm3:g} {unit}3" if stage.minimum_mm3 > 0 else "any",
        f"{name}: further margin of the box": f"{stage.further_margin_mm:g} {unit}",
    }


def _write_learned(link: StageLink, learned: Mapping[str, Decision[float]]) -> Plan:
    """Adds what was learned to the plan of the run, which others may have changed since; returns that plan."""
    with wait_for_lock(link.run.root / PLAN_LOCK_NAME, on_wait=lambda: None, is_kept=False):
        plan = _record_learned(read_document(link.run.plan, Plan), link, learned)
        write_document(link.run.plan, plan)
    return plan


def _record_learned(plan: Plan, link: StageLink, learned: Mapping[str, Decision[float]]) -> Plan:
    """Returns a plan with what was learned about the box of the link, by the fields of its plan, and the reasons."""
    stage = _get_box(link).model_copy(update={field: decision.value for field, decision in learned.items()})
    values = _describe_learned(link, stage)
    reasons = [
        Reason(subject=subject, value=value, because=decision.because)
        for (subject, value), decision in zip(values.items(), learned.values(), strict=True)
    ]
    others = [other for other in plan.reasons if other.subject not in values]
    part = link.plan.configurations[link.configuration].model_copy(update={"previous_stage": stage})
    changed = plan.configurations | {link.configuration: part}
    return plan.model_copy(update={"configurations": changed, "reasons": (*others, *reasons)})


def _find_box_cases(
    link: StageLink, sources: Mapping[str, PredictionSource], *, device: str, progress: Progress
) -> dict[str, BoxCase]:
    """Finds the components that the previous stage predicts in every case, and the box of the reference."""
    found: dict[str, BoxCase] = {}
    data = link.run.preprocessed(link.plan.configurations[link.configuration].data_of)
    margin_mm = _get_box(link).margin_mm

    def convert(name: str, prediction: StagePrediction) -> BoxCase:
        case = open_case(data, name)
        foreground = np.isin(case.label_map[:], link.plan.labels.foreground_labels)
        return BoxCase(
            found=find_moved_components(prediction, case.geometry),
            reference=compute_bounding_box(foreground) if foreground.any() else None,
            shape_voxels=case.geometry.resampled_shape_voxels,
            spacing_mm=case.geometry.target_spacing_mm,
            margin_mm=margin_mm,
        )

    check_preprocessed(link.run, link.plan, link.plan.configurations[link.previous].data_of, sorted(sources))
    events = _predict_cases(
        link, sources, sorted(sources), convert=convert, write=found.__setitem__, device=device, progress=progress
    )
    label, total = f"Predicting with {link.previous}", len(sources)
    complete_cases(events, progress=progress, label=label, total=total, log=link.run.logs / LOG_NAME)
    return {case: found[case] for case in sources}
