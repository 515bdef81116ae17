"""Writes a DICOM segmentation (SEG): binary, one segment for each class, on the grid of its source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, Shaped

from autoseg.volume_io.dicom.segments import (
    SOFTWARE,
    UNICODE,
    Code,
    Segment,
    SegmentedBy,
    choose_series_number,
    read_sources,
    translate_header_errors,
)
from autoseg.volume_io.dicom.stack import SliceStack

ENDING: Final = ".seg.dcm"
LIBRARIES: Final = ("highdicom", "pydicom")
SERIAL_LENGTH: Final = 16
ARTIFICIAL_INTELLIGENCE: Final = Code(scheme="DCM", value="123109", meaning="Artificial Intelligence")


def write(
    path: Path,
    label_map: Integer[np.ndarray, "z y x"],
    stack: SliceStack,
    *,
    segments: Sequence[Segment],
    made_by: SegmentedBy,
) -> None:
    """Writes a segmentation of the patient and study of the source, which refers to its instances.

    Raises:
        VolumeError: The headers of the source are not complete enough.
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription

    with translate_header_errors():
        sources = read_sources(stack)
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=SOFTWARE,
            family=_build_code(ARTIFICIAL_INTELLIGENCE),
            version=made_by.version,
            source=made_by.model,
        )
        descriptions = [
            SegmentDescription(
                segment_number=number,
                segment_label=segment.name[:64],
                segmented_property_category=_build_code(segment.category),
                segmented_property_type=_build_code(segment.term),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm,
            )
            for number, segment in enumerate(segments, start=1)
        ]
        document = Segmentation(
            source_images=sources,
            pixel_array=_build_pixels(_order_like_source(label_map, stack), segments),
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=highdicom.UID(),
            series_number=choose_series_number(sources[0]),
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=SOFTWARE,
            manufacturer_model_name=made_by.model[:64],
            software_versions=made_by.version,
            device_serial_number=made_by.weights[:SERIAL_LENGTH],
            pixel_measures=highdicom.PixelMeasuresSequence(
                pixel_spacing=stack.slices[0].spacing_mm_yx or stack.grid.spacing_mm[1:],
                slice_thickness=stack.grid.spacing_mm[0],  # many sources do not tell it
                spacing_between_slices=stack.grid.spacing_mm[0],
            ),
            content_label="SEGMENTATION",
            content_description="Automatic segmentation",
            omit_empty_frames=bool(np.isin(label_map, [value for one in segments for value in one.values]).any()),
            series_description="Automatic segmentation",
        )
        measures = document.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = measures.SliceThickness  # highdicom writes 1 mm for a single slice
        document.SpecificCharacterSet = UNICODE
        document.save_as(path)


def _build_code(term: Code) -> Any:
    from highdicom.sr.coding import CodedConcept

    return CodedConcept(value=term.value, scheme_designator=term.scheme, meaning=term.meaning)


def _order_like_source(label_map: Integer[np.ndarray, "z y x"], stack: SliceStack) -> Integer[np.ndarray, "z y x"]:
    """Returns the slices in the order of the frames of a multi-frame source, as highdicom relates them by it."""
    return label_map[np.argsort(stack.frames)] if stack.frames else label_map


def _build_pixels(label_map: Integer[np.ndarray, "z y x"], segments: Sequence[Segment]) -> Shaped[np.ndarray, "..."]:
    """Returns numbers of segments; where segments overlap, an array of 0 and 1 with the segments as its last axis."""
    values = [value for segment in segments for value in segment.values]
    if len(set(values)) < len(values):
        return np.stack([segment.find_voxels(label_map) for segment in segments], axis=-1).astype(np.uint8)
    pixels = np.zeros(label_map.shape, np.uint8 if len(segments) < 2**8 else np.uint16)
    for number, segment in enumerate(segments, start=1):
        pixels[segment.find_voxels(label_map)] = number
    return pixels
