"""Label maps and features of held-out cases that `autoseg select` predicts, with records of the weights that made them.

An interrupted call continues, and a training that was repeated makes exactly its cases anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Integer

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.file_endings import label_map_ending
from autoseg.geometry import Grid, IntTriple
from autoseg.inference.ensemble import check_members_compatible
from autoseg.inference.held_out import load_held_out_model
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window.windows import count_passes
from autoseg.plan.document import ConfigurationPlan
from autoseg.quality.features import NetworkFeatures
from autoseg.run_folder import RunFolder
from autoseg.stages.stored_maps import PredictionSource
from autoseg.stages.training_cases import open_training_case
from autoseg.volume_io import write_label_map
from autoseg.workflows.cases.loop import CaseOutput
from autoseg.workflows.cases.network_features import (
    StoredFeatures,
    find_sources,
    measure_network_features,
    read_features,
    write_features,
)
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.evaluation import EvaluationJob
from autoseg.workflows.select.held_out import HeldOut

VARIANTS_FOLDER: Final = "variants"


class PredictionSources(Document):
    """Content of the JSON file beside a label map.

    Attributes:
        sources: The trainings that predicted; that of a stored input from a previous stage comes before.
    """

    schema_version: Literal[1] = 1
    sources: tuple[PredictionSource, ...]


def find_label_map(folder: Path, members: Sequence[HeldOut], case: str) -> Path:
    """Returns the path of the prediction of a case."""
    return folder / f"{case}{label_map_ending(members[0].plan.file_ending)}"


def is_current(run: RunFolder, folder: Path, members: Sequence[HeldOut], case: str) -> bool:
    """Returns whether there is a prediction by the present weights."""
    if not find_label_map(folder, members, case).is_file():
        return False
    try:
        found = read_document(_find_record(folder, case), PredictionSources)
    except DocumentError:
        return False
    return found.sources == list_sources(run, members, case)


def write_prediction(
    run: RunFolder,
    folder: Path,
    members: Sequence[HeldOut],
    case: str,
    *,
    label_map: Integer[np.ndarray, "z y x"],
    grid: Grid,
) -> None:
    """Writes a label map, then its record.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    record = _find_record(folder, case)
    record.unlink(missing_ok=True)
    path = find_label_map(folder, members, case)
    write_label_map(path, label_map, grid=grid, like=find_reference(run, case))
    write_document(record, PredictionSources(sources=list_sources(run, members, case)), is_durable=False)


def _find_record(folder: Path, case: str) -> Path:
    """Finds the record beside the label map. (`CASE.json` may be the spacing of a TIFF file.)"""
    return folder / f"{case}.source.json"


def list_sources(run: RunFolder, members: Sequence[HeldOut], case: str) -> tuple[PredictionSource, ...]:
    """Lists the trainings whose weights predict a held-out case, of one member after the other."""
    return tuple(
        source
        for member in members
        for source in find_sources(run, member.plan, member.configuration, member.holders[case], case=case)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantJob:
    """Predictions of held-out cases to make with the selected models.

    Attributes:
        members: One configuration, or two whose probabilities are averaged.
        cases: Cases that all of them hold out.
        pruned_depth: Depth to which the networks of the only member are pruned; None for whole ones.
        device: Device that predicts.
        shapes_voxels: Shapes of preprocessed cases that were opened, by configuration and case.
    """

    run: RunFolder
    members: tuple[HeldOut, ...]
    cases: tuple[str, ...]
    pruned_depth: int | None = None
    device: str = "auto"
    shapes_voxels: dict[tuple[str, str], IntTriple] = field(default_factory=dict)

    @property
    def configurations(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.configuration for member in self.members)

    @property
    def has_views(self) -> bool:
        """Whether any member predicts mirrored views at all."""
        return any(get_configuration(member).training.mirror_axes for member in self.members)

    def find_folder(self, options: PredictionOptions) -> Path:
        """Returns the folder of the predictions with some options."""
        pruned = "" if self.pruned_depth is None else f"_depth_{self.pruned_depth}"
        views = "mirroring" if options.mirroring else "no_mirroring"
        selected = self.run.root / VARIANTS_FOLDER / f"{'+'.join(self.configurations)}{pruned}"
        return selected / f"{views}_step_{options.step_fraction:g}_{options.decoding}"

    def list_jobs(self, options: PredictionOptions) -> tuple[EvaluationJob, ...]:
        """Lists the predictions with some options, and their references."""
        folder, labels = self.find_folder(options), self.members[0].plan.labels
        return tuple(
            EvaluationJob(
                case=case,
                prediction=find_label_map(folder, self.members, case),
                reference=find_reference(self.run, case),
                labels=labels,
            )
            for case in self.cases
        )

    def read_features(self, folder: Path, case: str) -> NetworkFeatures | None:
        """Reads the features of a case in a folder of predictions; None if there are none of the present weights."""
        sources = list_sources(self.run, self.members, case)
        return read_features(folder, case, sources=sources, pruned_depth=self.pruned_depth)

    def write_features(self, folder: Path, case: str, features: NetworkFeatures) -> None:
        """Writes the features of a case into a folder of predictions.

        Raises:
            RunError: The folder cannot be written or the disk is full.
        """
        sources = list_sources(self.run, self.members, case)
        write_features(folder, case, StoredFeatures(sources=sources, pruned_depth=self.pruned_depth, features=features))

    def load_models(
        self, cases: Sequence[str], options: PredictionOptions
    ) -> Iterator[tuple[list[SegmentationModel], list[str]]]:
        """Loads models as for a validation; yields those of the same folds with the cases that these held out."""

        def find_folds(case: str) -> tuple[str, ...]:
            return tuple(member.holders[case] for member in self.members)

        for folds, group in groupby(sorted(cases, key=find_folds), key=find_folds):
            names = list(group)
            models = [
                load_held_out_model(
                    self.run,
                    configuration=member.configuration,
                    fold=fold,
                    device=self.device,
                    images=len(names),
                    options=options,
                    pruned_depth=self.pruned_depth,
                )
                for member, fold in zip(self.members, folds, strict=True)
            ]
            check_members_compatible(models)
            yield models, names

    def is_waiting(self, options: PredictionOptions, case: str) -> bool:
        """Returns whether a case still has to be predicted."""
        return not is_current(self.run, self.find_folder(options), self.members, case)

    def count_passes(self, options: PredictionOptions) -> float:
        """Counts the patches that the network of one fold computes for a case on average; of all members together."""
        counts = [
            count_passes(self._find_shape(member, case), get_configuration(member), options)
            for member in self.members
            for case in self.cases
        ]
        return sum(counts) / len(self.cases)

    def _find_shape(self, member: HeldOut, case: str) -> IntTriple:
        """Finds the shape of a preprocessed case, which is opened once."""
        key = (member.configuration, case)
        if key not in self.shapes_voxels:
            opened = open_training_case(self.run, member.plan, member.configuration, case)
            self.shapes_voxels[key] = opened.geometry.resampled_shape_voxels
        return self.shapes_voxels[key]


def measure_outputs(outputs: Sequence[CaseOutput]) -> NetworkFeatures:
    """Measures the logits of all members; features of a pair are the means of both."""
    images, logits = [output.image for output in outputs], [output.logits for output in outputs]
    models = [output.model for output in outputs]
    return measure_network_features(images, logits, outputs[0].geometry, models[0].plan, models=models)


def get_configuration(member: HeldOut) -> ConfigurationPlan:
    """Returns the plan of a configuration."""
    return member.plan.configurations[member.configuration]
