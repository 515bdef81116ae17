"""Endings of image files, compared without regard to case."""

from typing import Final

NIBABEL_ENDINGS: Final = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
ITK_ENDINGS: Final = (".gipl.gz", ".gipl", ".nrrd", ".nhdr", ".mha", ".mhd", ".vtk", ".h5", ".hdf5")
PICTURE_ENDINGS: Final = (".png", ".bmp", ".jpg", ".jpeg")
TIFF_ENDINGS: Final = (".tif", ".tiff")
LOSSY_ENDINGS: Final = (".jpg", ".jpeg")

# These formats are read but not written: the label maps of such images are .nii.gz.
MRC_ENDINGS: Final = (".mrc",)
DICOM_ENDINGS: Final = (".dcm", ".dicom")
MINC_ENDINGS: Final = (".mnc",)
PARREC_ENDINGS: Final = (".par", ".rec")
AFNI_ENDINGS: Final = (".head", ".brik", ".brik.gz")
ECAT_ENDINGS: Final = (".v",)

WRITABLE_ENDINGS: Final = (*NIBABEL_ENDINGS, *ITK_ENDINGS, *PICTURE_ENDINGS, *TIFF_ENDINGS)
READ_ONLY_ENDINGS: Final = (
    *MRC_ENDINGS,
    *DICOM_ENDINGS,
    *MINC_ENDINGS,
    *PARREC_ENDINGS,
    *AFNI_ENDINGS,
    *ECAT_ENDINGS,
)
READABLE_ENDINGS: Final[tuple[str, ...]] = tuple(
    sorted((*WRITABLE_ENDINGS, *READ_ONLY_ENDINGS), key=lambda ending: (-len(ending), ending))
)
RIVALS: Final = (
    (".nii.gz", ".nii", ".hdr", ".img"),
    (".mgz", ".mgh"),
    (".nrrd", ".nhdr"),
    (".mha", ".mhd"),
    (".gipl.gz", ".gipl"),
)
"""Endings of the same format: two files of one stem are two versions of an image."""

SEGMENTATION_INFIX: Final = ".seg"
SEGMENTATION_ENDINGS: Final = (".nrrd", ".nhdr")
HEADER_OF_VOXELS: Final = {".img": ".hdr", ".rec": ".par", ".brik": ".head", ".brik.gz": ".head"}
"""Formats of two files: the ending of the header, which represents both, by the ending of the voxels."""
COMPANION_ENDINGS: Final = {
    ".hdr": (".img",),
    ".img": (".hdr",),
    ".mhd": (".zraw", ".raw"),
    ".nhdr": (".raw.gz", ".raw"),
    ".tif": (".json",),
    ".tiff": (".json",),
}
"""Endings of the second file that autoseg may write for a label map, which holds its voxels, header or spacing."""


def find_ending(name: str) -> str | None:
    """Returns the longest readable ending of a file name in lower case, or None."""
    return next((ending for ending in READABLE_ENDINGS if name.lower().endswith(ending)), None)


def strip_ending(name: str) -> str:
    """Removes the longest readable ending; a name without one is returned unchanged."""
    ending = find_ending(name)
    return name if ending is None else name[: -len(ending)]


def list_parts(name: str) -> tuple[str, ...]:
    """Lists the name of a file to be written and those that its second file may get."""
    return (name, *(f"{strip_ending(name)}{ending}" for ending in COMPANION_ENDINGS.get(find_ending(name) or "", ())))


def strip_label_map_ending(name: str) -> str:
    """Removes the ending of a label map, and `.seg` before it, with which 3D Slicer saves segmentations."""
    stem = strip_ending(name)
    is_segmentation = find_ending(name) in SEGMENTATION_ENDINGS and stem.lower().endswith(SEGMENTATION_INFIX)
    return stem[: -len(SEGMENTATION_INFIX)] if is_segmentation else stem


def are_rivals(first: str, second: str) -> bool:
    """Returns whether two files of one stem are two versions of a volume, such as `c.nii` and `c.nii.gz`.

    Header and voxels of a pair are not.
    """
    endings = {find_ending(first), find_ending(second)}
    return any(endings <= set(family) for family in RIVALS) and are_two_volumes(first, second)


def are_two_volumes(first: str, second: str) -> bool:
    """Returns whether two files of one stem have different endings, and are not header and voxels of one volume."""
    endings = {find_ending(first), find_ending(second)}
    return len(endings) > 1 and not any(endings == set(pair) for pair in HEADER_OF_VOXELS.items())


def normalize_ending(ending: str) -> str:
    """Returns an ending in lower case with its leading dot."""
    return f".{ending.lower().removeprefix('.')}"


def label_map_ending(image_ending: str) -> str:
    """Returns the ending of label maps that belong to such images.

    JPEG changes values, so its label maps are PNG; formats that cannot be written get .nii.gz.
    """
    if image_ending.lower() in READ_ONLY_ENDINGS:
        return ".nii.gz"
    return ".png" if image_ending.lower() in LOSSY_ENDINGS else image_ending


def list_reference_endings(image_ending: str) -> tuple[str, ...]:
    """Returns the endings that the label maps of a dataset with such images may have, the usual one first."""
    usual = label_map_ending(image_ending)
    return (usual, image_ending) if image_ending.lower() in READ_ONLY_ENDINGS else (usual,)
