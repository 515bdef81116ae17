"""A copy of a data set of NIfTI volumes at a coarser spacing: `python -m benchmarks.coarse_dataset DATASET FOLDER`.

For comparisons that would take hours at the spacing of the data.
"""

import argparse
import shutil
from pathlib import Path

import nibabel
import numpy as np
from nibabel.processing import resample_to_output


def main() -> None:
    """Writes the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path, help="data set to write")
    parser.add_argument("--spacing", type=float, default=3.0, help="along every axis (mm)")
    options = parser.parse_args()
    for name, order in (("imagesTr", 1), ("labelsTr", 0)):
        (options.folder / name).mkdir(parents=True)
        for path in sorted((options.dataset / name).glob("*.nii.gz")):
            volume = nibabel.load(path)
            coarse = resample_to_output(volume, voxel_sizes=options.spacing, order=order, mode="nearest")
            values = np.asarray(coarse.dataobj).astype(volume.get_data_dtype())
            nibabel.save(nibabel.Nifti1Image(values, coarse.affine), options.folder / name / path.name)
    shutil.copy(options.dataset / "dataset.json", options.folder)


if __name__ == "__main__":
    main()
