"""Estimates of quality beside the label maps of a prediction: quality.json.

As for the record of a folder, a finished case adds a line to a second file, which is merged at the end. Lines are
written before label maps, so that there is no label map without its estimate.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg import __version__
from autoseg.document import parse_part, read_document, write_document
from autoseg.errors import DocumentError
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import Grid, remove_planar_depth
from autoseg.inference.options import PredictionOptions
from autoseg.plan.document import Plan
from autoseg.postprocessing.application import compute_voxel_mm3
from autoseg.postprocessing.object_table import ObjectRow
from autoseg.postprocessing.rules import Rule
from autoseg.preprocessing.case import compute_plan_axes
from autoseg.quality.calibration import CALIBRATION_NAME, QualityCalibration
from autoseg.quality.distribution import FEWEST_VALUES, Distribution, describe_training_grids
from autoseg.quality.estimates import NO_FLAGS, CaseQuality, QualityReport, estimate_case
from autoseg.quality.features import CaseFeatures, NetworkFeatures
from autoseg.quality.objects import ObjectFeatures, estimate_objects, measure_objects
from autoseg.quality.shapes import measure_shapes
from autoseg.quality.shown_units import VOLUME_UNITS, ShownUnits
from autoseg.run_folder import RunFolder, translate_write_errors, write_text
from autoseg.untrusted.json_reading import parse_json
from autoseg.workflows.predict.prediction_folder import QUALITY_NAME, lock_record
from autoseg.workflows.select.model_choice import ModelChoice

LINES_NAME: Final = ".quality.jsonl"
"""Cases that were finished since quality.json was written, one line each."""
QUALITY_NOTE: Final = "quality: "
"""Beginning of notes about all images of a folder."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityEstimator:
    """Estimates the quality of predicted cases.

    Attributes:
        plan: Plan of the model.
        calibration: Calibration of the model that predicts; None if it has none.
        distribution: Typical features of the training cases; None if nothing is known of them.
        because: Sentence about the basis of the estimates, or the reason for their lack.
    """

    plan: Plan
    calibration: QualityCalibration | None
    distribution: Distribution | None
    because: str

    @property
    def compares(self) -> bool:
        """Returns whether there is anything that images are compared with."""
        return self.distribution is not None and bool(self.distribution.ranges)

    def estimate(
        self,
        name: str,
        label_map: str,
        finished: Integer[np.ndarray, "z y x"],
        *,
        grid: Grid,
        network: NetworkFeatures,
        objects: Sequence[ObjectRow] | None = None,
    ) -> CaseQuality:
        """Estimates the quality of a case.

        Args:
            name: Name of the case.
            label_map: Name of its file.
            finished: Finished label map with the values of the dataset's files.
            grid: Grid of the file.
            network: Features of `measure_network_features`.
            objects: Rows of the objects; None where they are not told apart.
        """
        plan = self.plan
        axes = compute_plan_axes(grid, plan.orientation, plan.axis_permutation)
        encoded = np.empty(finished.shape, np.int16)
        for plane, values in zip(encoded, finished, strict=True):  # at once, it would take 8 bytes per voxel
            plane[...] = plan.labels.encode(values)
        shapes = measure_shapes(axes.apply(encoded), axes.apply_to_grid(grid).spacing_mm, plan.labels)
        estimated = estimate_case(
            name,
            label_map,
            CaseFeatures(network=network, shapes=shapes),
            classes=None if self.calibration is None else self.calibration.classes,
            distribution=self.distribution,
            channel_names=[channel.name for channel in plan.channels],
            class_names=plan.labels.class_names,
            units=ShownUnits(
                lengths=plan.distance_unit,
                depth_factor=grid.spacing_mm[0] / remove_planar_depth(grid.shape_voxels, grid.spacing_mm)[0],
            ),
        )
        if objects is None:
            return estimated
        names = plan.dataset_labels.class_names
        of_objects = estimate_objects(
            network,
            [_measure_class(objects, name, grid) for name in names],
            calibration=None if self.calibration is None else self.calibration.objects,
            class_names=names,
        )
        return estimated.model_copy(update={"objects": of_objects})


def _measure_class(objects: Sequence[ObjectRow], name: str, grid: Grid) -> ObjectFeatures | None:
    own = [row for row in objects if row.class_name == name]
    voxel_size = compute_voxel_mm3(grid.shape_voxels, grid.spacing_mm)
    return measure_objects(
        np.array([row.voxels for row in own]) * voxel_size, np.array([row.mean_probability for row in own])
    )


def build_estimator(
    run: RunFolder,
    plan: Plan,
    choice: ModelChoice,
    *,
    weights: Sequence[tuple[str, ...]],
    options: PredictionOptions,
) -> QualityEstimator:
    """Builds the estimator of a prediction.

    Estimates need the calibration of exactly these models, options and postprocessing. Flags need it, or the
    fingerprint of the run.

    Args:
        run: The run.
        plan: Plan of the model.
        choice: The models and their postprocessing.
        weights: Digests of the weights of each member.
        options: Options of the prediction.

    Raises:
        DocumentError: The calibration is damaged.
    """
    path = run.root / CALIBRATION_NAME
    calibration = read_document(path, QualityCalibration) if path.is_file() else None
    mismatch = _find_mismatch(run, calibration, choice, weights=weights, options=options)
    if calibration is not None and mismatch is None:
        known = calibration.distribution
        return QualityEstimator(
            plan=plan,
            calibration=calibration,
            distribution=known if known.cases >= FEWEST_VALUES else _describe_grids(run, plan),
            because=calibration.describe(),
        )
    grids = _describe_grids(run, plan)
    flags = NO_FLAGS
    if grids is not None and grids.ranges:
        has_volumes = any(known.measure == "volume" for known in grids.ranges)
        flags = f"flags compare {'grids and volumes' if has_volumes else 'grids'} with the training cases"
    return QualityEstimator(
        plan=plan, calibration=None, distribution=grids, because=f"no Dice is estimated: {mismatch}; {flags}"
    )


def _describe_grids(run: RunFolder, plan: Plan) -> Distribution | None:
    """Describes the grids of the training cases; None, with a warning, where they cannot be read."""
    if not run.fingerprint.is_file():
        return None
    try:
        fingerprint = read_document(run.fingerprint, Fingerprint)
    except DocumentError as error:
        logger.warning("images are not compared with the training cases: %s", error)
        return None
    return describe_training_grids(fingerprint, plan.axis_permutation)


def _find_mismatch(
    run: RunFolder,
    calibration: QualityCalibration | None,
    choice: ModelChoice,
    *,
    weights: Sequence[tuple[str, ...]],
    options: PredictionOptions,
) -> str | None:
    """Finds why a calibration does not hold for a prediction; None if it does."""
    if calibration is None:
        if not run.splits.is_file():
            return "this model came without a calibration, which needs cases that its folds held out"
        return "this run has no calibration; autoseg select makes one"
    digests = tuple(digest for member in weights for digest in member)
    if choice.selection is None or digests != calibration.weights_sha256:
        return "the calibration is that of other models, those that autoseg select chose"
    if _describe(choice.rules) != calibration.postprocessing:
        return "the calibration is that of label maps with other postprocessing"
    differences = _list_differences(calibration, options)
    if differences:
        return f"the calibration is that of predictions {' and '.join(differences)}"
    return None


def _list_differences(calibration: QualityCalibration, options: PredictionOptions) -> list[str]:
    """Lists in words the options of a calibration that are not those of a prediction."""
    found = []
    if calibration.mirroring != options.mirroring:
        views = ("without", "with")
        found.append(f"{views[calibration.mirroring]} mirrored views (here {views[options.mirroring]})")
    if calibration.step_fraction != options.step_fraction:
        found.append(f"with step {calibration.step_fraction:g} (here {options.step_fraction:g})")
    if calibration.decoding != options.decoding:
        found.append(f"with decoding {calibration.decoding} (here {options.decoding})")
    return found


def _describe(rules: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(rule.describe() for rule in rules)


def add_quality(out: Path, quality: CaseQuality) -> None:
    """Adds a case to those of a folder; to be called before its label map is written.

    Raises:
        RunError: The folder cannot be written.
    """
    lines_path = out / LINES_NAME
    with lock_record(out), translate_write_errors(lines_path), lines_path.open("a", encoding="utf-8") as lines:
        lines.write(f"\n{quality.model_dump_json()}\n")  # begins a line of its own, even after one that was cut off
        lines.flush()
        os.fsync(lines.fileno())


def merge_quality(out: Path, estimator: QualityEstimator, *, model: str) -> QualityReport:
    """Takes all finished cases over into quality.json, without those that have no label map (any more).

    To be called under `lock_record`, before a prediction and after it.

    Raises:
        DocumentError: There is a quality.json that no prediction wrote, or that is damaged.
        RunError: The folder cannot be written.
    """
    path, lines = out / QUALITY_NAME, out / LINES_NAME
    added = {case.label_map: case for case in _read_lines(lines)}
    earlier = read_quality(out)
    known = {case.label_map: case for case in (() if earlier is None else earlier.cases)} | added
    report = QualityReport(
        autoseg_version=__version__,
        model=model,
        calibration=estimator.because,
        volume_unit=VOLUME_UNITS[estimator.plan.distance_unit],
        compared=estimator.compares,
        cases=tuple(known[name] for name in sorted(known) if (out / name).is_file()),
    )
    write_document(path, report)
    # Another prediction may be about to write the label maps of these.
    pending = [case for name, case in added.items() if not (out / name).is_file()]
    with translate_write_errors(lines):
        if pending:
            write_text(lines, "".join(f"{case.model_dump_json()}\n" for case in pending))
        else:
            lines.unlink(missing_ok=True)
    return report


def describe_quality(report: QualityReport) -> list[str]:
    """Describes a report in lines for the user."""
    flagged = sorted((case for case in report.cases if case.flags), key=lambda case: case.urgency)
    lines = [f"{QUALITY_NOTE}{report.calibration}"]
    if flagged:
        first = flagged[0]
        lines.append(
            f"{QUALITY_NOTE}{len(flagged)} of {len(report.cases)} predictions to be looked at first ({QUALITY_NAME}): "
            f"{first.name} ({first.flags[0].text}){', ...' if len(flagged) > 1 else ''}"
        )
    return lines


def read_quality(out: Path) -> QualityReport | None:
    """Reads quality.json; None if there is no such file.

    Raises:
        DocumentError: No prediction wrote it, or it is damaged.
    """
    path = out / QUALITY_NAME
    if not path.is_file():
        return None
    try:
        return read_document(path, QualityReport)
    except DocumentError as error:
        msg = f"{error}\n{path} cannot be continued; move it away or remove it, then repeat the command"
        raise DocumentError(msg) from error


def _read_lines(path: Path) -> list[CaseQuality]:
    """Reads the lines; one that was cut off with its process belongs to a label map that never got its name."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in filter(str.strip, text.splitlines()):
        try:
            found.append(parse_part(parse_json(line, where=str(path)), CaseQuality, where=str(path)))
        except DocumentError:
            logger.warning("%s: a line is damaged; its case has no estimate", path)
    return found
