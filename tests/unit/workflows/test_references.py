import json

import numpy as np
import pytest
import tifffile

from autoseg.dataset import Case
from autoseg.errors import RunError
from autoseg.geometry import Grid
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_grid, read_label_map, write_label_map
from autoseg.workflows.cases.references import copy_reference, find_reference

LABEL_MAP = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
GRID = Grid(shape_voxels=(2, 3, 4), spacing_mm=(3.0, 1.5, 1.25), origin_mm=(4.0, 5.0, 6.0))


def build_case(label_path):
    return Case.from_paths("case1", images=(label_path,), label=label_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".NII.GZ", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr"])
def test_the_copy_of_a_label_map_is_found_and_lies_on_the_same_grid(tmp_path, ending):
    source = tmp_path / f"label{ending.lower()}"
    write_label_map(source, LABEL_MAP, grid=GRID, like=None)
    source = source.rename(tmp_path / f"label{ending}")
    run = RunFolder(tmp_path / "run")
    copy_reference(build_case(source), run.references)
    copied = read_label_map(find_reference(run, "case1"))
    np.testing.assert_array_equal(copied.array, LABEL_MAP)
    np.testing.assert_allclose(copied.grid.affine, read_grid(source).affine)


def test_the_spacing_beside_a_tiff_stack_is_copied_with_it(tmp_path):
    tifffile.imwrite(tmp_path / "label.tif", LABEL_MAP, photometric="minisblack")
    (tmp_path / "label.json").write_text(json.dumps({"spacing": [3.0, 1.5, 1.25]}))
    run = RunFolder(tmp_path / "run")
    copy_reference(build_case(tmp_path / "label.tif"), run.references)
    assert read_grid(find_reference(run, "case1")).spacing_mm == (3.0, 1.5, 1.25)


def test_a_lost_reference_is_reported_with_the_command_that_restores_it(tmp_path):
    with pytest.raises(RunError, match=r"case1.*autoseg plan"):
        find_reference(RunFolder(tmp_path), "case1")
