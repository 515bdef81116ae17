"""autoseg's way from given logits to a label map file: `python -m benchmarks.restoring LOGITS.npy TASK.json OUT`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from autoseg.geometry import Grid
from autoseg.inference.restoring.restore_grid import restore_label_map
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry
from autoseg.volume_io import write_label_map


def main() -> None:
    """Reads logits and the task, writes a label map."""
    logits, task = np.load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    shape, spacing_mm = tuple(task["shape_voxels"]), tuple(task["spacing_mm"])
    grid = Grid(shape_voxels=shape, spacing_mm=spacing_mm)
    geometry = CaseGeometry(
        grid=grid,
        orientation=None,
        axis_permutation=(0, 1, 2),
        crop_box=tuple((0, extent) for extent in shape),
        cropped_shape_voxels=shape,
        resampled_shape_voxels=logits.shape[1:],
        cropped_spacing_mm=spacing_mm,
        target_spacing_mm=tuple(task["network_spacing_mm"]),
    )
    labels = LabelScheme(
        classes=tuple(LabelClass(name=f"class{index}", values=(index,)) for index in range(1, len(logits))),
        ignore_value=None,
        region_write_values=None,
        declared_count=len(logits),
    )
    resampling = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3)
    label_map = restore_label_map(torch.from_numpy(logits), geometry, labels=labels, resampling=resampling)
    write_label_map(Path(f"{sys.argv[3]}.nii.gz"), labels.decode(label_map), grid=grid, like=None)


if __name__ == "__main__":
    main()
