"""Reading and writing of images; no other package opens image files.

Arrays are (channel, z, y, x) in memory order of the files; the `Grid` says where the voxels lie in the world.
"""

from autoseg.file_endings import READABLE_ENDINGS, label_map_ending, strip_ending
from autoseg.volume_io.formats.exif import turn_like_image
from autoseg.volume_io.formats.pictures import write_colours
from autoseg.volume_io.formats.volumes import (
    LabelVolume,
    Volume,
    check_same_grid,
    explain_spacings,
    has_same_voxels,
    list_grid_differences,
)
from autoseg.volume_io.opened import build_label_map_like, convert_images, find_image_library
from autoseg.volume_io.reading import read_grid, read_image, read_label_map, read_picture, read_segments
from autoseg.volume_io.regrid import resample_label_map_onto_grid
from autoseg.volume_io.writing import (
    PROBABILITIES_ENDING,
    build_label_map,
    write_image,
    write_label_map,
    write_picture,
    write_probabilities,
)

__all__ = [
    "PROBABILITIES_ENDING",
    "READABLE_ENDINGS",
    "LabelVolume",
    "Volume",
    "build_label_map",
    "build_label_map_like",
    "check_same_grid",
    "convert_images",
    "explain_spacings",
    "find_image_library",
    "has_same_voxels",
    "label_map_ending",
    "list_grid_differences",
    "read_grid",
    "read_image",
    "read_label_map",
    "read_picture",
    "read_segments",
    "resample_label_map_onto_grid",
    "strip_ending",
    "turn_like_image",
    "write_colours",
    "write_image",
    "write_label_map",
    "write_picture",
    "write_probabilities",
]
