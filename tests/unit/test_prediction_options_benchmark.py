"""The benchmark of the options of a prediction compares results in DICOM on the same images."""

import sys
from pathlib import Path

import numpy as np
import SimpleITK

sys.path.append(str(Path(__file__).parents[2]))

from autoseg.volume_io import check_same_grid, read_image
from autoseg.volume_io.dicom import find_series, read_stack, stack_slices
from benchmarks.prediction_options import list_variants, write_all_series


def save(path):
    voxels = np.random.default_rng(0).integers(-900, 900, (3, 4, 5)).astype(np.int16)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-20.5, 30.25, 7.0))
    image.SetDirection((0.96, -0.168, -0.224, 0.28, 0.576, 0.768, 0.0, -0.8, 0.6))
    path.parent.mkdir(exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def test_series_are_the_images_that_they_were_made_of(tmp_path):
    save(tmp_path / "images" / "a_0000.nii.gz")
    write_all_series(tmp_path / "images", tmp_path / "series")
    (series,) = find_series(tmp_path / "series").series
    volume, expected = read_stack(stack_slices(series)), read_image([tmp_path / "images" / "a_0000.nii.gz"])
    np.testing.assert_array_equal(volume.array, expected.array)
    check_same_grid(expected.grid, volume.grid, what="a series and its image")


def test_every_option_is_a_row(tmp_path, capsys):
    save(tmp_path / "images" / "a_0001.nii.gz")
    names = list(list_variants(tmp_path / "images", tmp_path, budgets=["1s", "2s"], before=tmp_path))
    assert names[:4] == ["before", "plain", "--no-mirroring", "--decoding dice"]
    assert names[-2:] == ["--budget 1s", "--budget 2s"]
    assert "left out: results in DICOM, as the images have several channels" in capsys.readouterr().out
