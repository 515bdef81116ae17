import numpy as np
import pytest
import torch
from batchgenerators.augmentations.resample_augmentations import augment_linear_downsampling_scipy
from scipy.ndimage import gaussian_filter1d

from autoseg.training.augmentation.tensors.axis_matrices import (
    apply_along_axis,
    compute_blur_matrices,
    compute_low_resolution_matrices,
)


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 30])
def test_blur_matrices_do_what_scipys_filter_does(extent, device):
    sigmas = np.asarray([0.5, 0.62, 0.63, 0.8, 1.0])
    line = np.random.default_rng(0).normal(size=extent)
    matrices = compute_blur_matrices(
        torch.from_numpy(sigmas.astype(np.float32)).to(device), extent, largest_sigma_voxels=1.0
    )
    expected = np.stack([gaussian_filter1d(line, sigma) for sigma in sigmas])
    assert np.allclose(matrices.cpu().numpy() @ line, expected, atol=1e-5)


@pytest.mark.parametrize("extent", [5, 16, 37])
def test_low_resolution_matrices_do_what_batchgenerators_does(extent, device):
    zooms = np.asarray([0.5, 0.55, 0.71, 0.8, 0.93, 0.99])
    line = np.random.default_rng(0).normal(size=extent).astype(np.float32)
    matrices = compute_low_resolution_matrices(zooms, extent, device).cpu().numpy()
    for zoom, matrix in zip(zooms, matrices, strict=True):
        expected = augment_linear_downsampling_scipy(
            line[None, None].copy(), zoom_range=(zoom, zoom), order_downsample=0, order_upsample=1, ignore_axes=(0,)
        )
        assert np.allclose(matrix @ line, expected[0, 0], atol=1e-5)


def test_an_axis_of_one_voxel_stays(device):
    assert compute_low_resolution_matrices(np.asarray([0.5]), 1, device).tolist() == [[[1.0]]]


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_matrices_multiply_the_lines_along_an_axis(shape, device):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(3, *shape)).astype(np.float32)
    for axis, extent in enumerate(shape):
        matrices = generator.normal(size=(3, extent, extent)).astype(np.float32)
        changed = apply_along_axis(torch.from_numpy(rows).to(device), torch.from_numpy(matrices).to(device), axis)
        for row, matrix, found in zip(rows, matrices, changed.cpu().numpy(), strict=True):
            expected = np.moveaxis(np.tensordot(matrix, row, axes=(1, axis)), 0, axis)
            assert np.allclose(found, expected, atol=1e-4)
