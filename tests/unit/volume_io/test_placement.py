"""NIfTI and Analyze lie where ITK puts them, whatever the codes of their headers are."""

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from autoseg.volume_io import check_same_grid, convert_images, read_grid, read_image, read_label_map, write_label_map

SFORM = np.array([[0.0, -1.3, 0.0, 10.0], [1.1, 0.0, 0.0, -20.0], [0.0, 0.0, 2.5, 30.0], [0.0, 0.0, 0.0, 1.0]])
QFORM = np.array([[1.1, 0.0, 0.0, 5.0], [0.0, 1.3, 0.0, 6.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
SHAPES = [(4, 5, 6), (4, 5), (4, 5, 1), (4, 5, 6, 2)]


def save(path, kind, shape, codes, *, forms=(QFORM, SFORM)):
    image = kind(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), None)
    image.header.set_zooms((1.1, 1.3, 2.5, 1.0)[: len(shape)])
    if codes is not None:
        for form, affine, code in zip(("qform", "sform"), forms, codes, strict=True):
            getattr(image.header, f"set_{form}")(affine, 1)
            image.header[f"{form}_code"] = code
    image.to_filename(path)
    return path


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        *((nib.Nifti1Image, codes) for codes in itertools.product((0, 1, 2), (0, 1, 4))),
        *((nib.Nifti1Pair, codes) for codes in itertools.product((0, 1), (0, 2))),
        (nib.AnalyzeImage, None),
    ],
)
def test_an_image_lies_where_itk_puts_it(tmp_path, kind, codes, shape):
    # Where both forms count, they must agree: else the sform is used here, and ITK's choice depends on the codes.
    is_single = codes is None or 0 in codes
    name = "a.nii.gz" if kind is nib.Nifti1Image else "a.hdr"
    path = save(tmp_path / name, kind, shape, codes, forms=(QFORM, SFORM) if is_single else (SFORM, SFORM))
    expected = convert_images([SimpleITK.ReadImage(str(path))], "SimpleITK")
    volume = read_image([path])
    found = volume.grid
    if len(shape) == 2:  # ITK drops the third coordinate of 2D images
        found = replace(found, origin_mm=(*found.origin_mm[:2], 0.0))
    check_same_grid(expected.grid, found, what="by SimpleITK (expected) and as read (found)")
    assert volume.grid.orientation_code == expected.grid.orientation_code
    np.testing.assert_array_equal(volume.array, expected.array)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_a_label_map_like_an_image_without_codes_has_none_either_and_lies_there(tmp_path, kind, shape):
    path = save(tmp_path / "a.nii.gz", kind, shape, (0, 0))
    grid = read_grid(path)
    write_label_map(tmp_path / "b.nii.gz", np.ones(grid.shape_voxels, np.uint8), grid=grid, like=path)
    header = nib.load(tmp_path / "b.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    assert read_label_map(tmp_path / "b.nii.gz").grid == grid
    if kind is nib.Nifti1Image:  # this SimpleITK reads no NIfTI-2
        for name in ("a.nii.gz", "b.nii.gz"):
            image = SimpleITK.ReadImage(str(tmp_path / name))
            assert image.GetOrigin() == (0.0,) * len(shape)
            assert image.GetDirection() == tuple(np.eye(len(shape)).ravel())


def test_a_label_map_of_an_analyze_image_lies_on_it_for_itk_too(tmp_path):
    path = save(tmp_path / "a.hdr", nib.AnalyzeImage, (4, 5, 6), None)
    grid = read_grid(path)
    write_label_map(tmp_path / "b.nii.gz", np.ones(grid.shape_voxels, np.uint8), grid=grid, like=path)
    image, label_map = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("a.hdr", "b.nii.gz"))
    assert label_map.GetDirection() == image.GetDirection()
    np.testing.assert_allclose(label_map.GetOrigin(), image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(label_map.GetSpacing(), image.GetSpacing(), atol=1e-6)


def test_an_image_in_memory_without_codes_lies_like_its_file(tmp_path):
    path = save(tmp_path / "a.nii", nib.Nifti1Image, (4, 5, 6), (0, 0))
    assert convert_images([nib.load(path)], "nibabel").grid == read_grid(path)
