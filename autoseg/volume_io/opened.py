"""Converts images in memory of nibabel or SimpleITK; neither library is imported to recognize them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Integer

from autoseg.geometry import Grid
from autoseg.volume_io.formats import itk, nifti
from autoseg.volume_io.formats.volumes import (
    ImageLibrary,
    Volume,
    check_finite_grid,
    check_same_grid,
    convert_to_float32,
    translate_decoder_errors,
)

LIBRARIES: Final[dict[str, ImageLibrary]] = {"nibabel": nifti, "SimpleITK": itk}


def find_image_library(image: object) -> str | None:
    """Returns the library of an image object; None for any other object."""
    packages = {base.__module__.partition(".")[0] for base in type(image).__mro__}
    name = next((name for name in LIBRARIES if name in packages), None)
    return name if name is not None and LIBRARIES[name].is_image(image) else None


def convert_images(images: Sequence[Any], library: str) -> Volume:
    """Converts images of a library: one image for each channel, or one with several channels.

    Raises:
        VolumeError: One of them does not hold real numbers, or has an invalid grid.
        GridError: The images do not have the same grid.
    """
    volumes = []
    for index, image in enumerate(images):
        what = f"the {library} image" if len(images) == 1 else f"{library} image {index}"
        with translate_decoder_errors(what):
            stored = LIBRARIES[library].convert(image, what)
        check_finite_grid(stored.grid, what)
        volumes.append(Volume(array=convert_to_float32(what, stored.array), grid=stored.grid))
        check_same_grid(volumes[0].grid, stored.grid, what=f"{what} (found) and {library} image 0 (expected)")
    array = volumes[0].array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
    return Volume(array=array, grid=volumes[0].grid)


def build_label_map_like(image: Any, label_map: Integer[np.ndarray, "z y x"], *, grid: Grid, library: str) -> Any:
    """Builds a label map as an image of the same library on the image's own grid."""
    return LIBRARIES[library].build_like(image, label_map, grid=grid)
