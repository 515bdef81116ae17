"""Series of DICOM slices, written by ITK, of a patient whose name must not be found anywhere."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK

PATIENT = "Quakenbush^Ottilie"
BIRTH_DATE = "19310504"
STUDY = "1.2.826.0.1.3680043.8.498.77"
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)
"""Orthogonal, and exact in the decimals of the header."""

Place = Callable[[int], Sequence[float]]


def build_tags(index: int, *, number: int, description: str, orientation: Sequence[float]) -> dict[str, str]:
    series = f"{STUDY}.{number}"
    return {
        "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "0008|0018": f"{series}.{index + 1}",
        "0008|0020": "20260105",
        "0008|0030": "101500",
        "0008|0050": "",
        "0008|0060": "CT",
        "0008|103e": description,
        "0010|0010": PATIENT,
        "0010|0020": PATIENT.upper(),
        "0010|0030": BIRTH_DATE,
        "0010|0040": "F",
        "0020|000d": STUDY,
        "0020|000e": series,
        "0020|0010": "",
        "0020|0011": str(number),
        "0020|0013": str(index + 1),
        "0020|0037": "\\".join(f"{value:g}" for value in orientation),
        "0020|0052": f"{STUDY}.0",
        "0028|1052": "-1024",
        "0028|1053": "1",
    }


def place_slices(orientation: Sequence[float], step_mm: float) -> Place:
    """Places slices in equal steps along their normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return lambda index: np.array([-20.5, 30.25, 7.0]) + index * step_mm * normal


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    number: int = 1,
    description: str = "thorax",
    orientation: Sequence[float] = UPRIGHT,
    step_mm: float = 5.0,
    place: Place | None = None,
    change: Callable[[int, dict[str, str]], None] = lambda index, tags: None,
) -> Path:
    """Writes slices (z, y, x) of CT numbers, 0.8 x 0.7 mm, under names that do not tell their order.

    ITK stores the values as the intercept says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    order = np.random.default_rng(0).permutation(len(voxels))
    for index, plane in enumerate(voxels):
        image = SimpleITK.GetImageFromArray(plane.astype(np.int16))
        image.SetSpacing((0.7, 0.8))
        tags = build_tags(index, number=number, description=description, orientation=orientation)
        where = (place or place_slices(orientation, step_mm))(index)
        tags["0020|0032"] = "\\".join(f"{value:.10g}" for value in where)
        change(index, tags)
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"IM{number}{order[index]:04d}.dcm"))
        writer.Execute(image)
    return folder


def convert_with_itk(folder: Path, path: Path) -> Path:
    """Converts a series into NIfTI as SimpleITK's documentation shows, without a line of autoseg."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    SimpleITK.WriteImage(reader.Execute(), str(path))
    return path


def write_enhanced(path: Path, voxels: np.ndarray, places: Sequence[Sequence[float]], *, number: int = 9) -> Path:
    """Writes all slices (z, y, x) into one multi-frame file, with an intercept for each frame; needs pydicom."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    document.SOPClassUID = pydicom.uid.EnhancedCTImageStorage
    document.SOPInstanceUID = f"{STUDY}.{number}.1"
    document.PatientName, document.PatientID, document.PatientSex = PATIENT, PATIENT.upper(), "F"
    document.PatientBirthDate, document.StudyDate, document.StudyTime = BIRTH_DATE, "20260105", "101500"
    document.StudyID = document.AccessionNumber = document.ReferringPhysicianName = ""
    document.StudyInstanceUID, document.SeriesInstanceUID = STUDY, f"{STUDY}.{number}"
    document.FrameOfReferenceUID = f"{STUDY}.0"
    document.Modality, document.SeriesNumber, document.InstanceNumber = "CT", number, 1
    document.Manufacturer = document.ManufacturerModelName = document.DeviceSerialNumber = "made up"
    document.SoftwareVersions, document.ImageType = "1", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    document.NumberOfFrames, document.Rows, document.Columns = voxels.shape
    document.SamplesPerPixel, document.PhotometricInterpretation = 1, "MONOCHROME2"
    document.BitsAllocated = document.BitsStored = 16
    document.HighBit, document.PixelRepresentation = 15, 0
    document.PixelData = (voxels + 1024).astype(np.uint16).tobytes()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 5
    orientation.ImageOrientationPatient = list(UPRIGHT)
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    document.SharedFunctionalGroupsSequence = [shared]
    document.PerFrameFunctionalGroupsSequence = [_build_frame(index, place) for index, place in enumerate(places)]
    document.save_as(path, enforce_file_format=True)
    return path


def _build_frame(index: int, place: Sequence[float]) -> object:
    from pydicom.dataset import Dataset

    frame, content, position, rescaling = Dataset(), Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [index + 1]
    position.ImagePositionPatient = [float(value) for value in place]
    rescaling.RescaleIntercept, rescaling.RescaleSlope, rescaling.RescaleType = -1024, 1, "HU"
    frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
    frame.PixelValueTransformationSequence = [rescaling]
    return frame
