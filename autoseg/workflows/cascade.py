"""What the second stage of a cascade is trained on: every case as a first stage predicts it that never saw it.

Training on predictions for cases that the first stage was trained on would teach the second one to trust masks that are
better than they will be for new images. So each case is predicted by the fold that held it out; the fold "all" of the
second stage takes the same predictions.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from autoseg.errors import TrainingError
from autoseg.inference.cascade import bring_to_training_grid
from autoseg.inference.model import SegmentationModel, check_stages_agree, load_model, read_common_plan
from autoseg.networks.weights import hash_weights
from autoseg.plan import Plan
from autoseg.preprocessing.cache import CachedCase, open_case
from autoseg.preprocessing.previous_stage import (
    PredictionSource,
    PreviousStage,
    is_prediction_current,
    open_case_with_prediction,
    write_prediction,
)
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.training.checkpoint import read_description
from autoseg.training.folds import Splits
from autoseg.workflows.fold_lock import waiting_lock
from autoseg.workflows.preprocessing import check_preprocessed

LOCK_NAME: Final = ".predicting.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """The two stages of a cascade in a run.

    Attributes:
        configuration: The second stage.
        holders: For every case the fold of the first stage that held it out.
    """

    run: RunFolder
    plan: Plan
    configuration: str
    holders: Mapping[str, str]

    @property
    def first_stage(self) -> str:
        """The configuration that predicts."""
        name = self.plan.configurations[self.configuration].previous_stage
        assert name is not None, "not a cascade"
        return name

    @property
    def folds(self) -> tuple[str, ...]:
        """Of the first stage, all that must be trained."""
        return tuple(sorted(set(self.holders.values()), key=int))

    def open_case(self, stage: str, name: str) -> CachedCase:
        """A preprocessed case of one of the stages, without predictions.

        Raises:
            RunError: It is missing or damaged.
        """
        return open_case(self.run.preprocessed(self.plan.configurations[stage].data_of), name)


def find_cascade(run: RunFolder, plan: Plan, configuration: str, splits: Splits) -> Cascade | None:
    """The cascade of which a configuration is the second stage, if it is.

    Raises:
        TrainingError: A case is held out by no fold.
    """
    if plan.configurations[configuration].previous_stage is None:
        return None
    return Cascade(run=run, plan=plan, configuration=configuration, holders=find_holders(splits))


def find_holders(splits: Splits) -> dict[str, str]:
    """For every case the fold that holds it out; the first one, if there are several.

    Raises:
        TrainingError: A case is held out by no fold.
    """
    holders: dict[str, str] = {}
    for index, fold in enumerate(splits.folds):
        for case in fold.validation:
            holders.setdefault(case, str(index))
    lost = sorted({case for fold in splits.folds for case in fold.training} - holders.keys())
    if lost:
        msg = (
            f"a cascade needs for every case a fold that holds it out, found none for {len(lost)} of "
            f"{len(lost) + len(holders)} ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}); "
            f"plan again with folds that hold every case out, or train 3d_fullres"
        )
        raise TrainingError(msg)
    return holders


def list_untrained_folds(cascade: Cascade) -> tuple[str, ...]:
    """Folds of the first stage that must be trained before the second."""
    folders = {fold: cascade.run.fold(cascade.first_stage, fold) for fold in cascade.folds}
    return tuple(fold for fold, folder in folders.items() if not folder.final_checkpoint.exists())


def predict_held_out_cases(cascade: Cascade, *, device: str, progress: Progress) -> PreviousStage:
    """Predicts every case whose prediction is missing or was made by other weights or for another grid.

    Trainings of several folds that begin at the same time wait for the one that predicts.

    Raises:
        PredictionError: A fold of the first stage is not trained, or was trained by another plan.
        RunError: A preprocessed case is missing or damaged.
    """
    check_first_stage(cascade)
    sources = find_sources(cascade)
    folder = cascade.run.preprocessed(cascade.configuration)
    first_data = cascade.plan.configurations[cascade.first_stage].data_of
    note = f"waiting for another process, which predicts cases with {cascade.first_stage}"
    with waiting_lock(folder / LOCK_NAME, on_wait=lambda: progress.note(note)):
        waiting = [case for case in sources if not _is_current(cascade, case, sources[case])]
        check_preprocessed(cascade.run, cascade.plan, first_data, waiting)
        work = _predict_each(cascade, sources, waiting, device=device, progress=progress)
        for _ in progress.track(work, label=f"Predicting with {cascade.first_stage}", total=len(waiting), unit="case"):
            pass
    return PreviousStage(
        folder=folder,
        foreground_labels=cascade.plan.labels.foreground_labels,
        digest=_digest_sources(sources),
    )


def check_first_stage(cascade: Cascade) -> None:
    """Checks that the first stage was trained by the plan that the second one is trained by.

    Raises:
        PredictionError: It was not, or its folds follow different plans.
    """
    trainings = [cascade.run.fold(cascade.first_stage, fold) for fold in cascade.folds]
    check_stages_agree(read_common_plan(trainings, cascade.first_stage), cascade.plan, cascade.configuration)


def find_sources(cascade: Cascade) -> dict[str, PredictionSource]:
    """Which weights predict which case."""
    folders = {fold: cascade.run.fold(cascade.first_stage, fold) for fold in cascade.folds}
    weights = {fold: hash_weights(folder.final_checkpoint) for fold, folder in folders.items()}
    return {
        case: PredictionSource(configuration=cascade.first_stage, fold=fold, weights_sha256=weights[fold])
        for case, fold in sorted(cascade.holders.items())
    }


def list_stale_folds(
    run: RunFolder, plan: Plan, splits: Splits, *, configuration: str, folds: Sequence[str]
) -> tuple[str, ...]:
    """Those of finished folds of a second stage since which the first stage, from which they learnt, was trained again.

    None where folds of the first stage are missing: nothing can be said then.

    Raises:
        TrainingError: A checkpoint is damaged, or a case is held out by no fold.
    """
    cascade = find_cascade(run, plan, configuration, splits)
    if cascade is None or not folds or list_untrained_folds(cascade):
        return ()
    digest = _digest_sources(find_sources(cascade))
    checkpoints = {fold: run.fold(configuration, fold).final_checkpoint for fold in folds}
    return tuple(
        fold for fold, path in checkpoints.items() if read_description(path).identity.previous_digest != digest
    )


def open_input_case(run: RunFolder, plan: Plan, configuration: str, name: str) -> CachedCase:
    """A preprocessed case with all that the network of a configuration gets of it.

    Raises:
        RunError: A file is missing or damaged.
    """
    data = run.preprocessed(plan.configurations[configuration].data_of)
    if plan.configurations[configuration].previous_stage is None:
        return open_case(data, name)
    return open_case_with_prediction(data, run.preprocessed(configuration), name)


def _is_current(cascade: Cascade, case: str, source: PredictionSource) -> bool:
    return is_prediction_current(
        cascade.run.preprocessed(cascade.configuration),
        case,
        source=source,
        geometry=cascade.open_case(cascade.configuration, case).geometry,
    )


def _predict_each(
    cascade: Cascade,
    sources: Mapping[str, PredictionSource],
    waiting: Sequence[str],
    *,
    device: str,
    progress: Progress,
) -> Iterator[str]:
    """Loads every fold once."""
    for fold in cascade.folds:
        cases = [case for case in waiting if sources[case].fold == fold]
        if not cases:
            continue
        model = load_model(
            cascade.run, configuration=cascade.first_stage, folds=(fold,), device=device, execution="eager"
        )
        for case in cases:
            _predict_one(cascade, model, case, source=sources[case], progress=progress)
            yield case


def _predict_one(
    cascade: Cascade, model: SegmentationModel, name: str, *, source: PredictionSource, progress: Progress
) -> None:
    first = cascade.open_case(cascade.first_stage, name)
    target = cascade.open_case(cascade.configuration, name).geometry
    logits = model.predict_preprocessed(first.image[:], on_window=partial(progress.show_part, name))
    label_map = bring_to_training_grid(
        logits,
        first.geometry,
        target,
        labels=cascade.plan.labels,
        resampling=model.configuration_plan.resampling,
    )
    write_prediction(
        cascade.run.preprocessed(cascade.configuration),
        name,
        label_map,
        source=source,
        geometry=target,
        patch_voxels=cascade.plan.configurations[cascade.configuration].patch_voxels,
    )


def _digest_sources(sources: Mapping[str, PredictionSource]) -> str:
    text = "\n".join(f"{case} {source.model_dump_json()}" for case, source in sources.items())
    return hashlib.sha256(text.encode()).hexdigest()
