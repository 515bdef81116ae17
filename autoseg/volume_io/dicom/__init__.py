"""DICOM: series of slices in folders, and results in two formats."""

from types import ModuleType
from typing import Final, Literal

from autoseg.volume_io.dicom import segmentation, structure_set
from autoseg.volume_io.dicom.segmentation_reading import is_segmentation, read_segmentation
from autoseg.volume_io.dicom.segments import Code, Segment, SegmentedBy, check_dicom_libraries
from autoseg.volume_io.dicom.series import (
    DicomSeries,
    FoundSeries,
    find_file_series,
    find_series,
    list_series,
    select_series,
)
from autoseg.volume_io.dicom.stack import SliceStack, read_stack, stack_slices

__all__ = [
    "RESULT_ENDINGS",
    "RESULT_FORMATS",
    "Code",
    "DicomFormat",
    "DicomSeries",
    "FoundSeries",
    "Segment",
    "SegmentedBy",
    "SliceStack",
    "check_dicom_libraries",
    "find_file_series",
    "find_series",
    "is_segmentation",
    "list_series",
    "read_segmentation",
    "read_stack",
    "select_series",
    "stack_slices",
]

DicomFormat = Literal["dicom-seg", "rtstruct"]
RESULT_FORMATS: Final[dict[DicomFormat, ModuleType]] = {"dicom-seg": segmentation, "rtstruct": structure_set}
"""Modules with `ENDING`, the optional `LIBRARIES` that they need, and `write`."""
RESULT_ENDINGS: Final[tuple[str, ...]] = tuple(module.ENDING for module in RESULT_FORMATS.values())
"""Endings of files that stand beside a label map, and are none."""
