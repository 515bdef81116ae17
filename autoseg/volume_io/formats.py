"""Which module reads and writes which file ending."""

from typing import Final

from autoseg.file_endings import ITK_ENDINGS, NIBABEL_ENDINGS, PICTURE_ENDINGS, TIFF_ENDINGS
from autoseg.volume_io import itk, nifti, pictures, tiff
from autoseg.volume_io.volumes import FileFormat

FAMILIES: Final[tuple[tuple[tuple[str, ...], FileFormat], ...]] = (
    (NIBABEL_ENDINGS, nifti),
    (ITK_ENDINGS, itk),
    (PICTURE_ENDINGS, pictures),
    (TIFF_ENDINGS, tiff),
)
FORMATS: Final = {ending: module for endings, module in FAMILIES for ending in endings}
