"""Predictions of pairs of configurations for held-out cases: the mean of the probabilities of both.

Probabilities are not kept anywhere, so logits are computed again, of each case by the networks that held it out, and
each configuration once for all pairs. Label maps are kept below the run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Final

import numpy as np

from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, check_members_compatible
from autoseg.inference.held_out import load_held_out_model
from autoseg.inference.model import SegmentationModel
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.workflows.cases.loop import (
    CaseOutput,
    complete_cases,
    predict_preprocessed_cases,
)
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.stored_predictions import find_label_map, is_current, write_prediction

Pair = tuple[HeldOut, HeldOut]
LOG_NAME: Final = "pair_predictions.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob:
    """Predictions to make.

    Attributes:
        held_out: The configurations of which every two are a pair.
        cases: Cases that all of them hold out.
    """

    run: RunFolder
    held_out: tuple[HeldOut, ...]
    cases: tuple[str, ...]
    device: str = "auto"

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs in the order of the configurations."""
        return tuple(combinations(self.held_out, 2))

    def find_label_map(self, pair: Pair, case: str) -> Path:
        """Returns the path of the prediction of a pair."""
        return find_label_map(self.find_folder(pair), pair, case)

    def find_folder(self, pair: Pair) -> Path:
        """Returns the folder of the predictions of a pair."""
        return self.run.ensemble([member.configuration for member in pair])


def predict_pairs(job: PairJob, *, progress: Progress) -> None:
    """Writes the label maps of all pairs and cases that are not there yet, and says beforehand how many.

    In memory are the logits of one case, of all configurations.

    Raises:
        RunError: A preprocessed case or reference is missing.
        PredictionError: Configurations do not fit together.
        CasesFailedError: Some cases could not be predicted.
    """
    waiting = {
        case: [pair for pair in job.pairs if not is_current(job.run, job.find_folder(pair), pair, case)]
        for case in job.cases
    }
    unfinished = [case for case in job.cases if waiting[case]]
    progress.note(_announce(job, unfinished))
    for entry in job.held_out:
        used = [case for case in unfinished if any(entry in pair for pair in waiting[case])]
        if used:
            check_preprocessed(job.run, entry.plan, entry.plan.configurations[entry.configuration].data_of, used)
    events = _predict_waiting(job, {case: waiting[case] for case in unfinished}, progress=progress)
    complete_cases(
        events, progress=progress, label="Predicting pairs", total=len(unfinished), log=job.run.logs / LOG_NAME
    )


def _announce(job: PairJob, unfinished: Sequence[str]) -> str:
    pairs = f"{len(job.pairs)} pair{'' if len(job.pairs) == 1 else 's'} of configurations"
    kept = len(job.cases) - len(unfinished)
    if not unfinished:
        return f"{pairs}: all {kept} cases were predicted earlier"
    names = ", ".join(entry.configuration for entry in job.held_out)
    earlier = f", {kept} are there from earlier" if kept else ""
    return (
        f"{pairs}: {len(unfinished)} held-out cases to predict once more with each of {names}{earlier}; "
        f"--no-ensembles does without"
    )


def _predict_waiting(
    job: PairJob, waiting: Mapping[str, Sequence[Pair]], *, progress: Progress
) -> Iterator[Failure | None]:
    """Cases of the same folds follow one another, so that each network is loaded once."""

    def restore(case: str, outputs: Sequence[CaseOutput]) -> tuple[list[np.ndarray], Grid]:
        by_name = {output.model.configuration: output for output in outputs}
        pairs = [[by_name[member.configuration] for member in pair] for pair in waiting[case]]
        return [_restore_mean(pair) for pair in pairs], outputs[0].geometry.grid

    def write(case: str, restored: tuple[list[np.ndarray], Grid]) -> None:
        label_maps, grid = restored
        for pair, label_map in zip(waiting[case], label_maps, strict=True):
            write_prediction(job.run, job.find_folder(pair), pair, case, label_map=label_map, grid=grid)

    models: dict[str, SegmentationModel] = {}
    ordered = sorted(waiting, key=lambda case: [entry.holders[case] for entry in job.held_out])
    for folds, cases in groupby(ordered, key=lambda case: _find_folds(job, waiting[case], case)):
        names = list(cases)
        models = _load_models(job, folds, loaded=models, images=len(names))
        yield from predict_preprocessed_cases(
            job.run, list(models.values()), names, finish=restore, write=write, progress=progress
        )


def _find_folds(job: PairJob, pairs: Sequence[Pair], case: str) -> dict[str, str]:
    """The configurations that take part in some pairs, each with the fold that held a case out."""
    members = [entry for entry in job.held_out if any(entry in pair for pair in pairs)]
    return {entry.configuration: entry.holders[case] for entry in members}


def _load_models(
    job: PairJob, folds: Mapping[str, str], *, loaded: Mapping[str, SegmentationModel], images: int
) -> dict[str, SegmentationModel]:
    """Loads a fold of each configuration; models that are loaded already are kept, others are dropped."""
    kept = {name: model for name, model in loaded.items() if model.folds == (folds.get(name),)}
    return {name: kept.get(name) or _load(job, name, fold, images=images) for name, fold in folds.items()}


def _load(job: PairJob, configuration: str, fold: str, *, images: int) -> SegmentationModel:
    return load_held_out_model(
        job.run, configuration=configuration, fold=fold, device=job.device, images=images, elsewhere="auto"
    )


def _restore_mean(outputs: Sequence[CaseOutput]) -> np.ndarray:
    members = tuple(output.model for output in outputs)
    check_members_compatible(members)
    logits, geometries = [output.logits for output in outputs], [output.geometry for output in outputs]
    return Ensemble(members=members).restore_label_map(logits, geometries)
