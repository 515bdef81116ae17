"""What pairs of configurations predict for held-out cases: the mean of the probabilities of both.

Probabilities are not kept anywhere, so logits are computed again, of each case by the networks that held it out, and
each configuration once for all pairs. Label maps are kept below the run, each with a note of the weights that made it:
an interrupted call continues, and a training that was repeated makes exactly its cases anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from jaxtyping import Float32
from torch import Tensor

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.file_endings import label_map_ending
from autoseg.inference.ensemble import Ensemble, check_members_agree
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.networks.weights import hash_weights
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.previous_stage import PredictionSource, read_network_input, read_source
from autoseg.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import write_label_map
from autoseg.workflows.cascade import open_input_case
from autoseg.workflows.held_out import HeldOut
from autoseg.workflows.preprocessing import check_preprocessed
from autoseg.workflows.references import find_reference

Pair = tuple[HeldOut, HeldOut]


class PairPrediction(Document):
    """What stands beside a label map.

    Attributes:
        sources: The trainings that predicted; for the second stage of a cascade, that of its input comes before.
    """

    schema_version: Literal[1] = 1
    sources: tuple[PredictionSource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob:
    """What is to be predicted.

    Attributes:
        held_out: The configurations of which every two are a pair.
        cases: That all of them hold out.
    """

    run: RunFolder
    held_out: tuple[HeldOut, ...]
    cases: tuple[str, ...]
    device: str = "auto"

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """In the order of the configurations."""
        return tuple(combinations(self.held_out, 2))

    def find_label_map(self, pair: Pair, case: str) -> Path:
        """Where the prediction of a pair lies."""
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
    """
    records = _Records(job)
    waiting = {case: [pair for pair in job.pairs if not records.is_current(pair, case)] for case in job.cases}
    unfinished = [case for case in job.cases if waiting[case]]
    progress.note(_announce(job, unfinished))
    for entry in job.held_out:
        used = [case for case in unfinished if any(entry in pair for pair in waiting[case])]
        if used:
            check_preprocessed(job.run, entry.plan, entry.plan.configurations[entry.configuration].data_of, used)
    work = _predict_each(job, records, {case: waiting[case] for case in unfinished}, progress=progress)
    for _ in progress.track(work, label="Predicting pairs", total=len(unfinished), unit="case"):
        pass


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


@dataclass(slots=True, eq=False)
class _Records:
    """Which trainings make a prediction, and whether those made what is there."""

    job: PairJob
    _digests: dict[Path, str] = field(default_factory=dict)

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
        path = self.job.run.fold(member.configuration, fold).final_checkpoint
        if path not in self._digests:
            self._digests[path] = hash_weights(path)
        yield PredictionSource(configuration=member.configuration, fold=fold, weights_sha256=self._digests[path])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Output:
    """What one configuration says about a case."""

    model: SegmentationModel
    logits: Float32[Tensor, "class z y x"]
    geometry: CaseGeometry


def _predict_each(
    job: PairJob, records: _Records, waiting: Mapping[str, Sequence[Pair]], *, progress: Progress
) -> Iterator[str]:
    """Cases of the same folds follow one another, so that each network is loaded once."""
    models: dict[str, SegmentationModel] = {}
    for case in sorted(waiting, key=lambda case: [entry.holders[case] for entry in job.held_out]):
        members = [entry for entry in job.held_out if any(entry in pair for pair in waiting[case])]
        models = _load_models(job, members, case, loaded=models)
        outputs = {name: _predict_member(job, model, case, progress) for name, model in models.items()}
        for pair in waiting[case]:
            _write_pair(job, pair, case, [outputs[member.configuration] for member in pair])
            sources = records.find_sources(pair, case)
            write_document(job.find_record(pair, case), PairPrediction(sources=sources), is_lasting=False)
        del outputs  # or a GPU would hold them beside those of the next case
        yield case


def _load_models(
    job: PairJob, members: Sequence[HeldOut], case: str, *, loaded: Mapping[str, SegmentationModel]
) -> dict[str, SegmentationModel]:
    """The networks that held a case out; those that are loaded already are kept, others are given up."""
    kept = {
        entry.configuration: loaded[entry.configuration]
        for entry in members
        if entry.configuration in loaded and loaded[entry.configuration].folds == (entry.holders[case],)
    }
    return {entry.configuration: kept.get(entry.configuration) or _load(job, entry, case) for entry in members}


def _load(job: PairJob, member: HeldOut, case: str) -> SegmentationModel:
    """The first stage of a cascade has predicted these cases already."""
    return load_model(
        job.run,
        configuration=member.configuration,
        folds=(member.holders[case],),
        device=job.device,
        with_previous=False,
    )


def _predict_member(job: PairJob, model: SegmentationModel, case: str, progress: Progress) -> _Output:
    cached = open_input_case(job.run, model.plan, model.configuration, case)
    image = read_network_input(cached, model.plan.labels.foreground_labels)
    show = partial(progress.show_part, f"{case}, {model.configuration}")
    return _Output(model=model, logits=model.predict_preprocessed(image, on_window=show), geometry=cached.geometry)


def _write_pair(job: PairJob, pair: Pair, case: str, outputs: Sequence[_Output]) -> None:
    members = tuple(output.model for output in outputs)
    check_members_agree(members)
    label_map = Ensemble(members=members).restore_label_map(
        [output.logits for output in outputs], [output.geometry for output in outputs]
    )
    job.find_record(pair, case).unlink(missing_ok=True)
    grid = outputs[0].geometry.grid
    write_label_map(job.find_label_map(pair, case), label_map, grid=grid, like=find_reference(job.run, case))
