"""Good files of all formats, from which damaged ones are made, and the row of a table of such files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
import tifffile
from PIL import Image

VOXELS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
"""What good volumes hold (z, y, x)."""

PICTURE = np.arange(30, dtype=np.uint8).reshape(5, 6)
"""What good pictures hold (y, x)."""

RIGHT = "right"  # the voxels of the good file
ANYTHING = "named error, or an image"  # a flipped byte in the voxels of an uncompressed file cannot be noticed

SAMPLES = Path(nib.__file__).parent / "tests" / "data"
SAMPLE_NAMES = {".par": "phantom_EPI_asc_CLEAR_2_1.PAR", ".head": "scaled+tlrc.HEAD", ".v": "tinypet.v"}
ITK_ENDINGS = (".mha", ".nrrd", ".gipl", ".vtk", ".h5", ".mrc", ".mnc")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileFile:
    """One file.

    Attributes:
        build: Makes it in a folder; returns its path.
        outcome: `RIGHT`, `ANYTHING`, or what the error must say (a regular expression).
    """

    name: str
    build: Callable[[Path], Path]
    outcome: str


def save_good(folder: Path, ending: str) -> Path:
    """Saves a good file of a format."""
    path = folder / f"a{ending}"
    if ending in (".nii", ".nii.gz", ".hdr"):
        kind = nib.Nifti1Pair if ending == ".hdr" else nib.Nifti1Image
        kind(VOXELS.T, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(path)
    elif ending in (".mgh", ".mgz"):
        nib.MGHImage(VOXELS.T, np.eye(4)).to_filename(path)
    elif ending in ITK_ENDINGS:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.astype(np.uint16)), str(path))
    elif ending == ".dcm":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS[0].astype(np.uint16)), str(path))
    elif ending == ".tif":
        tifffile.imwrite(path, VOXELS, photometric="minisblack")
    elif ending in SAMPLE_NAMES:
        sample = SAMPLES / SAMPLE_NAMES[ending]
        for file in SAMPLES.glob(f"{sample.stem}.*"):
            (folder / file.name).write_bytes(file.read_bytes())
        path = folder / sample.name
    else:
        Image.fromarray(PICTURE).save(path)
    return path


GOOD_ENDINGS = (
    *(".nii", ".nii.gz", ".hdr", ".mgh", ".mgz", ".dcm", ".tif", ".png", ".bmp", ".jpg"),
    *(*ITK_ENDINGS, *SAMPLE_NAMES),
)


def change_file(ending: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = save_good(folder, ending)
        path.write_bytes(change(path.read_bytes()))
        return path

    return build
