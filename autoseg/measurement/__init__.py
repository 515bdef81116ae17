"""Measures each case of a dataset, and builds the fingerprint from all measurements."""

from autoseg.measurement.cases import CaseMeasurement, check_case, count_class_voxels, measure_case
from autoseg.measurement.collected import MeasuredCases, build_fingerprint, collect_measurements
from autoseg.measurement.foreground import merge_channels, open_summary_store

__all__ = [
    "CaseMeasurement",
    "MeasuredCases",
    "build_fingerprint",
    "check_case",
    "collect_measurements",
    "count_class_voxels",
    "measure_case",
    "merge_channels",
    "open_summary_store",
]
