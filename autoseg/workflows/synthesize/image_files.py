"""Writes synthetic cases as images, to look at."""

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from autoseg.geometry import Grid
from autoseg.plan.objectives import ImageDenoisingObjective
from autoseg.plan.preprocessing import are_pictures
from autoseg.preprocessing.cache import open_case
from autoseg.volume_io import write_colours, write_image, write_label_map, write_picture
from autoseg.workflows.folds.synthesis import SynthesisPlan, SyntheticRecord
from autoseg.workflows.synthesize.job import SynthesisJob

BRIGHTEST: Final = 255


def write_images(job: SynthesisJob, plan: SynthesisPlan, record: SyntheticRecord, out: Path) -> None:
    """Writes all synthetic cases, at the spacing of preprocessed data and with its intensities: PNG for pictures, whose
    intensities are spread over 0 to 255, else NIfTI. The names begin with "synthetic" and end like those of a dataset.

    Raises:
        RunError: A file cannot be written, or a case is damaged.
    """
    for name in record.names:
        case = open_case(job.folder.cases, name)
        image, label_map = case.image[:], job.plan.labels.decode(np.maximum(case.label_map[:], 0))
        stem, grid = f"{name}_of_{job.configuration}_fold_{job.fold}", case.geometry.grid
        if job.plan.distance_unit == "pixel" and image.shape[1] == 1:
            _write_picture(out, stem, _spread(image, plan), grid=grid, has_colours=are_pictures(job.plan.channels))
            write_label_map(out / f"{stem}.png", label_map, grid=grid, like=None)
            continue
        for channel, values in enumerate(image):
            write_image(out / f"{stem}_{channel:04d}.nii.gz", values, grid=grid)
        write_label_map(out / f"{stem}.nii.gz", label_map, grid=grid, like=None)


def _write_picture(out: Path, stem: str, image: np.ndarray, *, grid: Grid, has_colours: bool) -> None:
    if has_colours:
        write_colours(out / f"{stem}_0000.png", image[:, 0], grid=grid)
        return
    for channel, values in enumerate(image):
        write_picture(out / f"{stem}_{channel:04d}.png", values, grid=grid)


def _spread(image: Float32[np.ndarray, "channel z y x"], plan: SynthesisPlan) -> np.ndarray:
    """Spreads the intensities of every channel, from the lowest to the highest of the training cases, over 8 bits."""
    objective = plan.denoiser.training.objective
    assert isinstance(objective, ImageDenoisingObjective), "plans are checked"
    spread = [
        (values - known.lowest) / max(known.highest - known.lowest, np.finfo(np.float32).tiny)
        for values, known in zip(image, objective.channels, strict=True)
    ]
    return (np.stack(spread).clip(0, 1) * BRIGHTEST).round().astype(np.uint8)
