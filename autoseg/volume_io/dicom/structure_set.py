"""Writes a DICOM structure set (RTSTRUCT): the outlines of every class in every slice."""

import colorsys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer

from autoseg.geometry import Grid
from autoseg.volume_io.dicom.outlines import trace_outlines
from autoseg.volume_io.dicom.segments import (
    PATIENT_AND_STUDY,
    SOFTWARE,
    UNICODE,
    Segment,
    SegmentedBy,
    choose_series_number,
    read_sources,
    translate_header_errors,
)
from autoseg.volume_io.dicom.stack import SliceStack
from autoseg.volume_io.formats.itk import LPS_TO_RAS

ENDING: Final = ".rtstruct.dcm"
LIBRARIES: Final = ("pydicom",)
STRUCTURE_SET: Final = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_COMPONENT: Final = "1.2.840.10008.3.1.2.3.1"
GOLDEN_RATIO: Final = 0.618  # spreads hues


def write(
    path: Path,
    label_map: Integer[np.ndarray, "z y x"],
    stack: SliceStack,
    *,
    segments: Sequence[Segment],
    made_by: SegmentedBy,
) -> None:
    """Writes a structure set of the patient and study of the source, which refers to its instances.

    Raises:
        VolumeError: The headers of the source are not complete enough.
    """
    with translate_header_errors():
        sources = read_sources(stack)
        document = _build_document(sources, made_by)
        references = _list_references(sources, stack.frames)
        document.ReferencedFrameOfReferenceSequence = [_refer_to_frame(sources)]
        document.StructureSetROISequence = []
        document.ROIContourSequence = []
        document.RTROIObservationsSequence = []
        for number, segment in enumerate(segments, start=1):
            contours = list(_build_contours(segment, label_map, stack.grid, references))
            _add_region(document, segment, number, contours=contours)
        document.save_as(path, enforce_file_format=True)


def _build_document(sources: Sequence[Any], made_by: SegmentedBy) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    first, document, now = sources[0], Dataset(), _read_clock()
    for keyword in PATIENT_AND_STUDY:
        setattr(document, keyword, first.get(keyword))
    document.SpecificCharacterSet = UNICODE
    document.SOPClassUID = STRUCTURE_SET
    document.SOPInstanceUID = generate_uid()
    document.SeriesInstanceUID = generate_uid()
    document.FrameOfReferenceUID = first.FrameOfReferenceUID
    document.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    document.Modality = "RTSTRUCT"
    document.SeriesNumber = choose_series_number(first)
    document.SeriesDescription = "Automatic segmentation"
    document.OperatorsName = ""
    document.InstanceNumber = 1
    document.Manufacturer = SOFTWARE
    document.ManufacturerModelName = made_by.model[:64]
    document.SoftwareVersions = made_by.version
    document.StructureSetLabel = "autoseg"
    document.InstanceCreationDate = document.StructureSetDate = document.SeriesDate = now[0]
    document.InstanceCreationTime = document.StructureSetTime = document.SeriesTime = now[1]
    document.ApprovalStatus = "UNAPPROVED"
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.file_meta.MediaStorageSOPClassUID = STRUCTURE_SET
    document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    return document


def _read_clock() -> tuple[str, str]:
    from datetime import datetime

    now = datetime.now()
    return now.strftime("%Y%m%d"), now.strftime("%H%M%S")


def _list_references(sources: Sequence[Any], frames: Sequence[int]) -> list[Any]:
    """Returns a reference to the image of every slice along z: a file, or a frame of the only file."""
    if not frames:
        return [_refer_to(source) for source in sources]
    references = []
    for index in frames:
        item = _refer_to(sources[0])
        item.ReferencedFrameNumber = index + 1
        references.append(item)
    return references


def _refer_to(source: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    return item


def _refer_to_frame(sources: Sequence[Any]) -> Any:
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = sources[0].SeriesInstanceUID
    series.ContourImageSequence = [_refer_to(source) for source in sources]
    study.ReferencedSOPClassUID = STUDY_COMPONENT
    study.ReferencedSOPInstanceUID = sources[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _build_contours(
    segment: Segment, label_map: Integer[np.ndarray, "z y x"], grid: Grid, references: Sequence[Any]
) -> Iterator[Any]:
    from pydicom.dataset import Dataset

    mask = segment.find_voxels(label_map)
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for outline in trace_outlines(mask[index]):
            corners = np.column_stack([outline[:, ::-1] - 0.5, np.full(len(outline), index), np.ones(len(outline))])
            points = (corners @ grid.affine.T)[:, :3] * LPS_TO_RAS
            item = Dataset()
            item.ContourImageSequence = [references[index]]
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(points)
            item.ContourData = [f"{value:.4f}" for value in points.ravel()]
            yield item


def _add_region(document: Any, segment: Segment, number: int, *, contours: list[Any]) -> None:
    from pydicom.dataset import Dataset

    region, drawn, observation = Dataset(), Dataset(), Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = document.FrameOfReferenceUID
    region.ROIName = segment.name[:64]
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    drawn.ReferencedROINumber = number
    drawn.ROIDisplayColor = [round(255 * part) for part in colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.8, 1)]
    if contours:
        drawn.ContourSequence = contours
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.ROIObservationLabel = segment.name[:16]
    observation.RTROIInterpretedType = ""
    observation.ROIInterpreter = ""
    code = Dataset()
    code.CodeValue = segment.term.value
    code.CodingSchemeDesignator = segment.term.scheme
    code.CodeMeaning = segment.term.meaning
    observation.RTROIIdentificationCodeSequence = [code]
    document.StructureSetROISequence.append(region)
    document.ROIContourSequence.append(drawn)
    document.RTROIObservationsSequence.append(observation)
