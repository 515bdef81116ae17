"""Predictions of pairs of configurations for held-out cases: the mean of the probabilities of both.

Probabilities are not kept anywhere, so logits are computed again, of each case by the networks that held it out, and
each configuration once for all pairs. Label maps are kept below the run, each with a note of the weights that made it:
an interrupted call continues, and a training that was repeated makes exactly its cases anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Final, Literal

import numpy as np

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.file_endings import label_map_ending
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, check_members_compatible
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.networks.weights import hash_weights
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.stages.stored_maps import PredictionSource, read_source
from autoseg.volume_io import write_label_map
from autoseg.workflows.cases.loop import (
    CaseOutput,
    complete_cases,
    predict_preprocessed_cases,
)
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.held_out import HeldOut

Pair = tuple[HeldOut, HeldOut]
LOG_NAME: Final = "pair_predictions.log"


class PairPrediction(Document):
    """Content of the JSON file beside a label map.

    Attributes:
        sources: The trainings that predicted; that of a stored input from a previous stage comes before.
    """

    schema_version: Literal[1] = 1
    sources: tuple[PredictionSource, ...]


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
        folder = self.run.ensemble([member.configuration for member in pair])
        return folder / f"{case}{label_map_ending(pair[0].plan.file_ending)}"

    def find_record(self, pair: Pair, case: str) -> Path:
        """Beside the label map; written last. (`CASE.json` may be the spacing of a TIFF file.)"""
        return self.find_label_map(pair, case).with_name(f"{case}.source.json")


def predict_pairs(job: PairJob, *, progress: Progress) -> None:
    """Writes the label maps of all pairs and cases that are not there yet, and says beforehand how many.

    In memory are the logits of one case, of all configurations.

    Raises:
        RunError: A preprocessed case or reference is missing.
        PredictionError: Configurations do not fit together.
        CasesFailedError: Some cases could not be predicted.
    """
    records = _Records(job)
    waiting = {case: [pair for pair in job.pairs if not records.is_current(pair, case)] for case in job.cases}
    unfinished = [case for case in job.cases if waiting[case]]
    progress.note(_announce(job, unfinished))
    for entry in job.held_out:
        used = [case for case in unfinished if any(entry in pair for pair in waiting[case])]
        if used:
            check_preprocessed(job.run, entry.plan, entry.plan.configurations[entry.configuration].data_of, used)
    events = _predict_waiting(job, records, {case: waiting[case] for case in unfinished}, progress=progress)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Records:
    """Finds the trainings that make a prediction, and whether they made the existing one."""

    job: PairJob

    def find_sources(self, pair: Pair, case: str) -> tuple[PredictionSource, ...]:
        return tuple(source for member in pair for source in self._find_member_sources(member, case))

    def is_current(self, pair: Pair, case: str) -> bool:
        if not self.job.find_label_map(pair, case).is_file():
            return False
        try:
            found = read_document(self.job.find_record(pair, case), PairPrediction)
        except DocumentError:
            return False
        return found.sources == self.find_sources(pair, case)

    def _find_member_sources(self, member: HeldOut, case: str) -> Iterator[PredictionSource]:
        if member.plan.configurations[member.configuration].previous_stage is not None:
            yield read_source(self.job.run.preprocessed(member.configuration), case)
        fold = member.holders[case]
        weights = hash_weights(self.job.run.fold(member.configuration, fold).final_checkpoint)
        yield PredictionSource(configuration=member.configuration, fold=fold, weights_sha256=weights)


def _predict_waiting(
    job: PairJob, records: _Records, waiting: Mapping[str, Sequence[Pair]], *, progress: Progress
) -> Iterator[Failure | None]:
    """Cases of the same folds follow one another, so that each network is loaded once."""

    def restore(case: str, outputs: Sequence[CaseOutput]) -> tuple[list[np.ndarray], Grid]:
        by_name = {output.model.configuration: output for output in outputs}
        pairs = [[by_name[member.configuration] for member in pair] for pair in waiting[case]]
        return [_restore_mean(pair) for pair in pairs], outputs[0].geometry.grid

    def write(case: str, restored: tuple[list[np.ndarray], Grid]) -> None:
        label_maps, grid = restored
        for pair, label_map in zip(waiting[case], label_maps, strict=True):
            path, record = job.find_label_map(pair, case), job.find_record(pair, case)
            record.unlink(missing_ok=True)
            write_label_map(path, label_map, grid=grid, like=find_reference(job.run, case))
            sources = records.find_sources(pair, case)
            write_document(record, PairPrediction(sources=sources), is_durable=False)

    models: dict[str, SegmentationModel] = {}
    ordered = sorted(waiting, key=lambda case: [entry.holders[case] for entry in job.held_out])
    for folds, cases in groupby(ordered, key=lambda case: _find_folds(job, waiting[case], case)):
        models = _load_models(job, folds, loaded=models)
        yield from predict_preprocessed_cases(
            job.run, list(models.values()), list(cases), finish=restore, write=write, progress=progress
        )


def _find_folds(job: PairJob, pairs: Sequence[Pair], case: str) -> dict[str, str]:
    """The configurations that take part in some pairs, each with the fold that held a case out."""
    members = [entry for entry in job.held_out if any(entry in pair for pair in pairs)]
    return {entry.configuration: entry.holders[case] for entry in members}


def _load_models(
    job: PairJob, folds: Mapping[str, str], *, loaded: Mapping[str, SegmentationModel]
) -> dict[str, SegmentationModel]:
    """Loads a fold of each configuration; models that are loaded already are kept, others are dropped."""
    kept = {name: model for name, model in loaded.items() if model.folds == (folds.get(name),)}
    return {name: kept.get(name) or _load(job, name, fold) for name, fold in folds.items()}


def _load(job: PairJob, configuration: str, fold: str) -> SegmentationModel:
    """Loads a model without previous stages, whose predictions for these cases are stored."""
    return load_model(job.run, configuration=configuration, folds=(fold,), device=job.device, with_previous=False)


def _restore_mean(outputs: Sequence[CaseOutput]) -> np.ndarray:
    members = tuple(output.model for output in outputs)
    check_members_compatible(members)
    logits, geometries = [output.logits for output in outputs], [output.geometry for output in outputs]
    return Ensemble(members=members).restore_label_map(logits, geometries)
