"""Which files are images, by the ending of their names (letters of either case)."""

from typing import Final

NIBABEL_ENDINGS: Final = (".nii.gz", ".nii", ".hdr", ".img", ".mgz", ".mgh")
ITK_ENDINGS: Final = (".gipl.gz", ".gipl", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_ENDINGS: Final = (".png", ".bmp", ".jpg", ".jpeg")
TIFF_ENDINGS: Final = (".tif", ".tiff")
LOSSY_ENDINGS: Final = (".jpg", ".jpeg")

READABLE_ENDINGS: Final[tuple[str, ...]] = tuple(
    sorted((*NIBABEL_ENDINGS, *ITK_ENDINGS, *PICTURE_ENDINGS, *TIFF_ENDINGS), key=lambda ending: (-len(ending), ending))
)


def find_ending(name: str) -> str | None:
    """Returns the longest readable ending of a file name in lower case, or None."""
    return next((ending for ending in READABLE_ENDINGS if name.lower().endswith(ending)), None)


def strip_ending(name: str) -> str:
    """Removes the longest readable ending; a name without one is returned unchanged."""
    ending = find_ending(name)
    return name if ending is None else name[: -len(ending)]


def label_map_ending(image_ending: str) -> str:
    """Returns the ending of label maps that belong to such images: JPEG changes values, so its label maps are PNG."""
    return ".png" if image_ending.lower() in LOSSY_ENDINGS else image_ending
