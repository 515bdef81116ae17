"""The steps of the prediction of an image: it is read, predicted, restored and written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoseg.dataset import Case
from autoseg.errors import PlanError, PredictionError, Problem, VolumeError, shorten_names
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.options import PredictionOptions
from autoseg.postprocessing.application import postprocess_label_map
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.quality.features import NetworkFeatures
from autoseg.stages.staged_case import StagedCase
from autoseg.volume_io import PROBABILITIES_ENDING, write_probabilities
from autoseg.volume_io.dicom import SegmentedBy
from autoseg.workflows.cases.loop import predict_each
from autoseg.workflows.cases.network_features import measure_network_features
from autoseg.workflows.predict.attention_maps import MapRecorder
from autoseg.workflows.predict.boxes import find_boxes_file, finds_boxes, write_boxes
from autoseg.workflows.predict.found_images import FoundImages
from autoseg.workflows.predict.objects import ObjectFinder, PredictedObjects
from autoseg.workflows.predict.prediction_folder import (
    ImageVersion,
    PredictionRecord,
    identify_image,
    is_image_changed,
    write_recorded,
)
from autoseg.workflows.predict.quality import QualityEstimator, add_quality
from autoseg.workflows.predict.recorded_maps import Maps, write_maps
from autoseg.workflows.predict.uncertainty_maps import NO_DISAGREEMENT, UncertaintyRecorder

Recorder = MapRecorder | UncertaintyRecorder
Predicted = tuple[tuple[Tensor, ...], tuple[StagedCase, ...], Maps]
"""The logits of each member of an ensemble for a case, the case as each of them got it, and maps to write."""
Restored = tuple[NDArray[np.integer], Grid, NetworkFeatures, Maps, PredictedObjects | None]
"""The label map on the grid of its image, before postprocessing, features of its quality, maps to write, objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSteps:
    """Predicts images one by one as the record of a folder says.

    Attributes:
        out: Folder of the label maps.
        record: Record of the folder; it holds the options.
        recorder: Records maps beside the label maps; None for none.
        estimator: Estimates the quality.
        finder: Finds the objects; None where they are not told apart.
        save_probabilities: Whether the probabilities are written, too.
        warn: Receives what is odd about an image.
        versions: Content of the images that are being predicted, by name.
    """

    out: Path
    model: Ensemble
    found: FoundImages
    record: PredictionRecord
    recorder: Recorder | None
    estimator: QualityEstimator
    finder: ObjectFinder | None
    save_probabilities: bool
    progress: Progress
    warn: Callable[[Problem], None]
    versions: dict[str, ImageVersion] = field(default_factory=dict)

    @property
    def options(self) -> PredictionOptions:
        """Options of the prediction."""
        record = self.record
        return PredictionOptions(
            mirroring=record.mirroring, step_fraction=record.step_fraction, decoding=record.decoding
        )

    def predict(self, cases: Sequence[Case]) -> Iterator[Failure | None]:
        """Takes every image through all steps, as `predict_each`."""
        return predict_each(
            cases,
            get_name=lambda case: case.name,
            read=self._read,
            predict=self._predict,
            finish=self._restore,
            write=self._write,
            device=self.model.members[0].device,
        )

    def list_waiting(self, cases: Sequence[Case], find_outputs: Callable[[Case], Iterable[Path]]) -> list[Case]:
        """Lists the images that are to be predicted: without all their files, or with another content than then."""
        finished = [case for case in cases if self._is_finished(case, find_outputs(case))]
        changed = [case.name for case in finished if self._is_changed(case)]
        if changed:
            self.progress.note(f"predicted once more, as their images were changed since: {shorten_names(changed)}")
        kept = {case.name for case in finished} - set(changed)
        return [case for case in cases if case.name not in kept]

    def _is_finished(self, case: Case, outputs: Iterable[Path]) -> bool:
        """Returns whether an image has all its files: these outputs, and maps and tables beside them."""
        name = self.found.list_outputs(case)[0]
        maps = () if self.recorder is None else self.recorder.find_paths(case.name)
        objects = () if self.finder is None else self.finder.find_paths(name)
        boxes = (find_boxes_file(self.out, name),) if finds_boxes(self.model) else ()
        return all(path.is_file() for path in (*outputs, *maps, *objects, *boxes))

    def _is_changed(self, case: Case) -> bool:
        """Returns whether the label map of an image was made of another content of its files."""
        version = self.record.image_versions.get(self.found.list_outputs(case)[0])
        try:
            return is_image_changed(self.found.list_files(case), version)
        except OSError:
            return True  # the prediction says what is wrong with it

    def _read(self, case: Case) -> tuple[StagedCase, ...]:
        with suppress(OSError):  # the reader says what is wrong
            self.versions[case.name] = identify_image(self.found.list_files(case))
        volume = self.found.read(case)
        try:
            return self.model.preprocess(
                volume.array, volume.grid, warn=lambda text: self.warn(Problem(text=text, cases=(case.name,)))
            )
        except (PlanError, PredictionError) as error:
            msg = f"{self.found.name_files(case, volume.array)}: {error}"
            raise PredictionError(msg) from error

    def _predict(self, case: Case, read: tuple[StagedCase, ...]) -> Predicted:
        show = partial(self.progress.show_part, case.name)
        if self.recorder is None:
            return self.model.predict_case(read, options=self.options, on_window=show), read, {}
        logits, maps = self.recorder.predict_case(case.name, read, options=self.options, on_window=show)
        return logits, read, maps

    def _restore(self, case: Case, predicted: Predicted) -> Restored:
        logits, read, maps = predicted
        geometries, grid = [member.geometry for member in read], read[0].geometry.grid
        if self.save_probabilities:
            path = self.out / f"{case.name}{PROBABILITIES_ENDING}"
            shape = (len(logits[0]), *grid.shape_voxels)
            with write_recorded(path, self.record, self.versions.get(case.name)) as temporary:
                write_probabilities(temporary, shape, self.model.iterate_probabilities(logits, geometries))
        if finds_boxes(self.model):
            write_boxes(self.out, self.found.list_outputs(case)[0], case=case.name, members=read, grid=grid)
        images = [member.image for member in read]
        plan, models = self.estimator.plan, self.model.members
        features = measure_network_features(images, logits, geometries[0], plan, models=models)
        label_map = self.model.restore_label_map(logits, geometries, decoding=self.options.decoding)
        finder = self.finder
        objects = None if finder is None else finder.find(case.name, self.model, logits, geometries=geometries)
        return label_map, grid, features, maps, objects

    def _write(self, case: Case, restored: Restored) -> None:
        label_map, grid, features, maps, objects = restored
        write_maps(maps, grid)
        if any(values is None for values in maps.values()):
            self.warn(Problem(text=NO_DISAGREEMENT, cases=(case.name,)))
        record = self.record
        finished = postprocess_label_map(
            label_map, record.postprocessing, labels=self.model.plan.labels, spacing_mm=grid.spacing_mm
        )
        version = self.versions.pop(case.name, None)
        names, refused = self.found.list_outputs(case), []
        rows = None if objects is None else objects[2]
        quality = self.estimator.estimate(case.name, names[0], finished, grid=grid, network=features, objects=rows)
        add_quality(self.out, quality)
        if self.finder is not None and objects is not None:
            finished = self.finder.write(names[0], objects, grid)
        made_by = SegmentedBy(version=record.autoseg_version, model=record.model, weights=record.weights_sha256[0])
        for name in names:  # each stands alone: one that is refused does not keep the others away
            try:
                with write_recorded(self.out / name, record, version) as temporary:
                    self.found.write(temporary, finished, grid, case=case, made_by=made_by)
            except VolumeError as error:
                refused.append(error)
        if refused:
            raise refused[0]
