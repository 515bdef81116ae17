"""Fingerprints that are written down, not measured."""

from collections.abc import Sequence
from typing import Any

from autoseg.fingerprint import CaseFingerprint, ChannelFingerprint, Fingerprint, ForegroundIntensities
from builders.labels import build_labels

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

INTENSITIES = ForegroundIntensities(
    mean=100.0, median=90.0, std=50.0, min=-200.0, max=1500.0, percentile_00_5=-100.0, percentile_99_5=900.0
)


def build_case(
    spacing_mm: Triple = (1.0, 1.0, 1.0),
    shape: Shape = (4, 4, 4),
    *,
    name: str = "case",
    voxel_counts: tuple[int, ...] = (1,),
    image_digest: str = "",
    ignored_fraction: float | None = None,
) -> CaseFingerprint:
    """A case of a spacing and shape along z, y, x, of which nothing is cropped."""
    return CaseFingerprint(
        name=name,
        spacing_mm=spacing_mm,
        shape_voxels=shape,
        cropped_shape_voxels=shape,
        relative_size_after_cropping=1.0,
        voxel_counts=voxel_counts,
        image_digest=image_digest,
        ignored_fraction=ignored_fraction,
    )


def build_fingerprint(
    spacing_mm: Triple,
    shape: Shape,
    *,
    count: int = 1,
    declared_labels: int = 2,
    channel_names: Sequence[str] = ("T2",),
    intensities: ForegroundIntensities | None = INTENSITIES,
    **changes: Any,
) -> Fingerprint:
    """A dataset of equal cases; further keyword arguments replace fields of the fingerprint."""
    fields = {
        "autoseg_version": "0",
        "dataset_name": "Dataset001_Invented",
        "file_ending": ".nii.gz",
        "labels": build_labels({f"organ{value}": (value,) for value in range(1, declared_labels)}),
        "channels": tuple(ChannelFingerprint(name=name, foreground=intensities) for name in channel_names),
        "cases": (build_case(spacing_mm, shape),) * count,
        "orientation": "LPS",
        "median_relative_size_after_cropping": 1.0,
    }
    return Fingerprint.model_validate(fields | changes)
