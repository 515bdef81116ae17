"""Where preprocessed cases lie in their images."""

from typing import Any

from autoseg.geometry import Grid
from autoseg.preprocessing.case import CaseGeometry


def build_geometry(shape_voxels: tuple[int, int, int], **changes: Any) -> CaseGeometry:
    """Of an image that is neither turned, cropped nor resampled; keyword arguments replace fields."""
    fields = {
        "grid": Grid(shape_voxels=shape_voxels, spacing_mm=(1.0, 1.0, 1.0)),
        "orientation": None,
        "axis_permutation": (0, 1, 2),
        "crop_box": tuple((0, extent) for extent in shape_voxels),
        "cropped_shape_voxels": shape_voxels,
        "resampled_shape_voxels": shape_voxels,
        "cropped_spacing_mm": (1.0, 1.0, 1.0),
        "target_spacing_mm": (1.0, 1.0, 1.0),
    }
    return CaseGeometry(**fields | changes)
