"""Reads PAR/REC of Philips, AFNI and ECAT 7 through nibabel, which does not write them.

Header and voxels of the first two are separate files; either may be given.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.file_endings import ECAT_ENDINGS, PARREC_ENDINGS
from autoseg.geometry import Grid, build_grid_from_affine
from autoseg.volume_io.formats.nifti import split_channels
from autoseg.volume_io.formats.volumes import StoredVolume

LOGGER = logging.getLogger(__name__)


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels, scaled as in the header; a fourth axis holds the channels."""
    del as_labels
    with _collect_warnings(path):
        image = _open_image(path)
        array = np.asarray(image.dataobj).T
    return StoredVolume(array=split_channels(array, path), grid=_build_grid(image))


def read_grid(path: Path) -> Grid:
    """Reads the header."""
    with _collect_warnings(path):
        return _build_grid(_open_image(path))


@contextmanager
def _collect_warnings(path: Path) -> Iterator[None]:
    """Logs the warnings of nibabel about unusual headers, which Python would print to the terminal."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing its files to the garbage collector
        yield
    for warning in caught:
        LOGGER.warning("%s: %s", path, warning.message)


def _open_image(path: Path) -> Any:
    from nibabel.brikhead import AFNIImage
    from nibabel.ecat import EcatImage
    from nibabel.parrec import PARRECImage

    name = path.name.lower()
    if name.endswith(PARREC_ENDINGS):
        return PARRECImage.from_filename(path)
    return (EcatImage if name.endswith(ECAT_ENDINGS) else AFNIImage).from_filename(path)


def _build_grid(image: Any) -> Grid:
    x, y, z = (*(int(extent) for extent in image.shape), 1)[:3]
    return build_grid_from_affine(np.array(image.affine, dtype=np.float64), (z, y, x))
