"""Fingerprints that are written down, not measured."""

from collections.abc import Sequence
from typing import Protocol

import pytest

from autoseg.fingerprint import CaseFingerprint, ChannelFingerprint, Fingerprint, ForegroundIntensities
from autoseg.labels import LabelClass, LabelScheme

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

INTENSITIES = ForegroundIntensities(
    mean=100.0, median=90.0, std=50.0, min=-200.0, max=1500.0, percentile_00_5=-100.0, percentile_99_5=900.0
)


class BuildFingerprint(Protocol):
    def __call__(
        self,
        spacing_mm: Triple,
        shape: Shape,
        *,
        count: int = ...,
        declared_labels: int = ...,
        channel_names: Sequence[str] = ...,
        intensities: ForegroundIntensities | None = ...,
        relative_size: float = ...,
    ) -> Fingerprint: ...


class BuildCase(Protocol):
    def __call__(self, spacing_mm: Triple, shape: Shape) -> CaseFingerprint: ...


def _build_case(spacing_mm: Triple, shape: Shape) -> CaseFingerprint:
    return CaseFingerprint(
        name="case",
        spacing_mm=spacing_mm,
        shape_voxels=shape,
        cropped_shape_voxels=shape,
        relative_size_after_cropping=1.0,
        voxel_counts=(1,),
    )


def _build_fingerprint(
    spacing_mm: Triple,
    shape: Shape,
    *,
    count: int = 1,
    declared_labels: int = 2,
    channel_names: Sequence[str] = ("T2",),
    intensities: ForegroundIntensities | None = INTENSITIES,
    relative_size: float = 1.0,
) -> Fingerprint:
    classes = tuple(LabelClass(name=f"organ{value}", values=(value,)) for value in range(1, declared_labels))
    return Fingerprint(
        autoseg_version="0",
        dataset_name="Dataset001_Invented",
        file_ending=".nii.gz",
        labels=LabelScheme(
            classes=classes, ignore_value=None, region_write_values=None, declared_count=declared_labels
        ),
        channels=tuple(ChannelFingerprint(name=name, foreground=intensities) for name in channel_names),
        cases=(_build_case(spacing_mm, shape),) * count,
        orientation="LPS",
        median_relative_size_after_cropping=relative_size,
    )


@pytest.fixture(scope="session")
def build_fingerprint() -> BuildFingerprint:
    """Builds a dataset of equal cases."""
    return _build_fingerprint


@pytest.fixture(scope="session")
def build_case() -> BuildCase:
    """Builds one case of a spacing and shape along z, y, x."""
    return _build_case
