"""Tables of the modules that read and write each file ending."""

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
)
from autoseg.volume_io.formats import dicom, itk, minc, nifti, parrec_afni_ecat, pictures, tiff
from autoseg.volume_io.formats.reader_process import IsolatedReader
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
    ending: IsolatedReader(str(vars(module)["__name__"])) if ending in ISOLATED_ENDINGS else module
    for ending, module in DIRECT_READERS.items()
}
