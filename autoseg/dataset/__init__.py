"""dataset.json and the list of cases, in the raw layout of nnU-Net v2 or of the Medical Segmentation Decathlon."""

from autoseg.dataset.cases import Case, Dataset, allow_geometry_fixes, pack_cases, tell_instances_apart
from autoseg.dataset.prediction_cases import find_images
from autoseg.dataset.reading import read_dataset, read_dataset_with_problems
from autoseg.dataset.record import DatasetRecord, RecordedCase, find_source, record_dataset, restore_dataset

__all__ = [
    "Case",
    "Dataset",
    "DatasetRecord",
    "RecordedCase",
    "allow_geometry_fixes",
    "find_images",
    "find_source",
    "pack_cases",
    "read_dataset",
    "read_dataset_with_problems",
    "record_dataset",
    "restore_dataset",
    "tell_instances_apart",
]
