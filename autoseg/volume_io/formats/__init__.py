"""Tables of the modules that read and write each file ending."""

from pathlib import Path
from typing import Final

from autoseg.file_endings import (
    AFNI_ENDINGS,
    DICOM_ENDINGS,
    ECAT_ENDINGS,
    ITK_ENDINGS,
    MINC_ENDINGS,
    MRC_ENDINGS,
    NIBABEL_ENDINGS,
    PARREC_ENDINGS,
    PICTURE_ENDINGS,
    TIFF_ENDINGS,
    find_ending,
)
from autoseg.volume_io.formats import dicom, itk, minc, nifti, parrec_afni_ecat, pictures, reader_process, tiff
from autoseg.volume_io.formats.volumes import FileFormat, FileReader

WRITTEN_FAMILIES: Final[tuple[tuple[tuple[str, ...], FileFormat], ...]] = (
    (NIBABEL_ENDINGS, nifti),
    (ITK_ENDINGS, itk),
    (PICTURE_ENDINGS, pictures),
    (TIFF_ENDINGS, tiff),
)
READ_FAMILIES: Final[tuple[tuple[tuple[str, ...], FileReader], ...]] = (
    *WRITTEN_FAMILIES,
    (MRC_ENDINGS, itk),
    (DICOM_ENDINGS, dicom),
    (MINC_ENDINGS, minc),
    ((*PARREC_ENDINGS, *AFNI_ENDINGS, *ECAT_ENDINGS), parrec_afni_ecat),
)
WRITERS: Final[dict[str, FileFormat]] = {ending: module for endings, module in WRITTEN_FAMILIES for ending in endings}
DIRECT_READERS: Final[dict[str, FileReader]] = {
    ending: module for endings, module in READ_FAMILIES for ending in endings
}
ISOLATED_ENDINGS: Final = (
    *(".h5", ".hdf5", ".vtk", ".gipl", ".gipl.gz"),
    *(*MRC_ENDINGS, *DICOM_ENDINGS, *MINC_ENDINGS),
)
"""Endings of the files that are read in a process that may die."""

READERS: Final[dict[str, FileReader]] = {
    ending: reader_process if ending in ISOLATED_ENDINGS else module for ending, module in DIRECT_READERS.items()
}


def find_direct_reader(path: Path) -> str:
    """Returns the name of the module that reads a file in this process."""
    ending = find_ending(path.name)
    assert ending is not None, "other files are not read"
    return str(vars(DIRECT_READERS[ending])["__name__"])
