"""Warns of what is unusual in the measurements of cases; the same for `check` and `plan`."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from autoseg.dataset import Dataset
from autoseg.dataset.cases import INSTANCES
from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.errors import Problem, group_problems
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.geometry import PLAUSIBLE_SPACING_MM, DistanceUnit, tabulate_triples
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder
from autoseg.workflows.plan.class_counts import (
    ClassCount,
    count_class_occurrences,
    find_duplicates,
    warn_of_rare_classes,
)
from autoseg.workflows.plan.class_losses import find_crop_losses, find_resampling_losses, warn_of_losses
from autoseg.workflows.plan.splitting import describe_duplicates

# Thin and thick slices of one organ differ by a factor of 20 at most (0.5 and 10 mm).
LARGEST_FACTOR: Final = 30.0
# Another unit changes spacing and extent along every axis; another resolution changes the spacing alone (guess).
LARGEST_COMMON_FACTOR: Final = 5.0
ADVICE: Final = "if the header is in another unit (metre, centimetre, micrometre), correct it"


def warn_of_intensities(cases: Sequence[CaseFingerprint]) -> list[str]:
    """Writes one warning for each kind of oddity that was found in intensities."""
    return _write([Problem(text=text, cases=(case.name,)) for case in cases for text in case.intensity_warnings])


def note_instances(dataset: Dataset) -> tuple[str, ...]:
    """Tells of numbered objects that the plan does not tell apart."""
    if dataset.targets is not None or not dataset.has_instances:
        return ()
    return (f"{INSTANCES} numbers the objects of every case: plan with --task instances to predict each by itself",)


def warn_of_spacing(cases: Sequence[CaseFingerprint], unit: DistanceUnit) -> list[str]:
    """Writes one warning for each kind of implausible spacing, compared with the dataset and with anatomy."""
    if unit != "mm" or not cases:
        return []
    spacing_mm = tabulate_triples(case.spacing_mm for case in cases)
    extents_mm = spacing_mm * tabulate_triples(case.shape_voxels for case in cases)
    median_spacing_mm, median_extent_mm = np.median(spacing_mm, axis=0), np.median(extents_mm, axis=0)
    odd = []
    for case, spacing, extent in zip(cases, spacing_mm, extents_mm, strict=True):
        measured = np.array(case.shape_voxels) > 1  # a single slice has no distance to another one
        factor = _find_factor((spacing / median_spacing_mm)[measured], (extent / median_extent_mm)[measured])
        found = _compare_with_anatomy(spacing[measured])
        if factor is not None:
            found = f"{factor:.4g} times that of the median case, {_format(median_spacing_mm)} mm"
        if found is not None:
            text = f"the spacing of {_format(spacing)} mm (z, y, x) is {found}; {ADVICE}"
            odd.append(Problem(text=text, cases=(case.name,)))
    return _write(odd)


def _find_factor(spacing_factors: np.ndarray, extent_factors: np.ndarray) -> float | None:
    """Finds by which factor a spacing differs implausibly from the median; None if it does not."""
    if spacing_factors.size == 0:
        return None
    both = np.concatenate([spacing_factors, extent_factors])
    if both.min() >= LARGEST_COMMON_FACTOR or both.max() <= 1 / LARGEST_COMMON_FACTOR:
        return float(np.exp(np.log(spacing_factors).mean()))
    widest = float(max(spacing_factors, key=lambda factor: max(factor, 1 / factor)))
    return widest if max(widest, 1 / widest) >= LARGEST_FACTOR else None


def _compare_with_anatomy(spacing_mm: np.ndarray) -> str | None:
    smallest, largest = PLAUSIBLE_SPACING_MM
    if (spacing_mm < smallest).any():
        return f"less than {smallest:g} mm, which is that of microscopes"
    if (spacing_mm > largest).any():
        return f"more than {largest:g} mm, which shows no anatomy"
    return None


def _format(lengths_mm: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths_mm)


def _write(problems: Sequence[Problem]) -> list[str]:
    return [f"warning: {problem.describe()}" for problem in group_problems(problems)]


def report_measurements(
    run: RunFolder,
    fingerprint: Fingerprint,
    report_classes: Callable[[Sequence[ClassCount]], None],
    *,
    preprocesses: bool,
    progress: Progress,
) -> None:
    """Reports the measurements of the cases; preprocessing itself counts what classes lose that do not vanish."""
    classes = count_class_occurrences(fingerprint.labels, fingerprint.cases)
    report_classes(classes)
    splits = read_document(run.splits, Splits)
    resampling = find_resampling_losses(fingerprint.labels, fingerprint.cases, distance_unit=fingerprint.distance_unit)
    losses = (
        *find_crop_losses(fingerprint.labels, fingerprint.cases),
        *(loss for loss in resampling if not (preprocesses and loss.found)),
    )
    for warning in (
        *warn_of_rare_classes(classes, counted=len(fingerprint.cases)),
        *warn_of_losses(losses, case_count=len(fingerprint.cases)),
        *warn_of_intensities(fingerprint.cases),
        *warn_of_spacing(fingerprint.cases, fingerprint.distance_unit),
        *describe_duplicates(find_duplicates(fingerprint.cases), splits),
    ):
        progress.note(warning)
