"""DICOM: series of slices in folders."""

from autoseg.volume_io.dicom.series import DicomSeries, FoundSeries, find_series, iterate_dicom_files, select_series
from autoseg.volume_io.dicom.stack import SliceStack, read_stack, stack_slices

__all__ = [
    "DicomSeries",
    "FoundSeries",
    "SliceStack",
    "find_series",
    "iterate_dicom_files",
    "read_stack",
    "select_series",
    "stack_slices",
]
