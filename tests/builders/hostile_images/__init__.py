"""Damaged and hostile image files of all formats, as a table: what is made, and what reading it must say.

Every row is built from a good file of its format, so that it differs from one in exactly what its name tells.
"""

from builders.hostile_images.bombs import list_bombs
from builders.hostile_images.damaged import list_damaged, list_names, list_no_files
from builders.hostile_images.good_files import ANYTHING, PICTURE, RIGHT, VOXELS, HostileFile
from builders.hostile_images.meta_image import list_meta
from builders.hostile_images.nifti import list_nifti
from builders.hostile_images.nrrd import list_nrrd
from builders.hostile_images.other_headers import list_other_headers

__all__ = ["ANYTHING", "PICTURE", "RIGHT", "VOXELS", "HostileFile", "list_hostile_images"]


def list_hostile_images() -> list[HostileFile]:
    """Lists all files."""
    return [
        *list_damaged(),
        *list_no_files(),
        *list_names(),
        *list_nifti(),
        *list_meta(),
        *list_nrrd(),
        *list_bombs(),
        *list_other_headers(),
    ]
