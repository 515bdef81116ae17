"""The reference label maps that a run keeps for validation."""

import shutil
from pathlib import Path

from autoseg.errors import RunError
from autoseg.run_folder import RunFolder, write_atomically
from autoseg.volume_io import READABLE_ENDINGS, read_label_map, strip_ending, write_label_map

# These formats keep the voxels in a second file, so that a copy of the header alone would be worthless.
DETACHED_ENDINGS = (".mhd", ".nhdr", ".hdr", ".img")


def copy_reference(label_path: Path, target_stem: Path) -> None:
    """Copies a label map to `target_stem` plus its ending, unless it is there already.

    Formats of two files are rewritten as .nii.gz on the same grid.
    """
    ending = label_path.name[len(strip_ending(label_path.name)) :]
    is_detached = ending.lower() in DETACHED_ENDINGS
    target = target_stem.with_name(target_stem.name + (".nii.gz" if is_detached else ending))
    if target.exists() and target.stat().st_size > 0:  # what a loss of power left empty is copied again
        return
    if is_detached:
        volume = read_label_map(label_path)
        write_label_map(target, volume.array, grid=volume.grid, like=None)
        return
    with write_atomically(target, is_lasting=False) as temporary:
        shutil.copyfile(label_path, temporary)


def find_reference(run: RunFolder, case_name: str) -> Path:
    """The reference label map of a case.

    Raises:
        RunError: The run has lost it.
    """
    for ending in READABLE_ENDINGS:
        path = run.references / f"{case_name}{ending}"
        if path.is_file():
            return path
    msg = f"{run.references} holds no label map of case {case_name!r}; repeat: autoseg plan DATASET --run {run.root}"
    raise RunError(msg)
