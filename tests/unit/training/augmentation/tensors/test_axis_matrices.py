import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from autoseg.training.augmentation.tensors.axis_matrices import (
    apply_along_axes,
    compute_blur_kernels,
    compute_blur_matrices,
)


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 30])
def test_blur_matrices_do_what_scipys_filter_does(extent, device):
    sigmas = np.asarray([0.5, 0.62, 0.63, 0.8, 1.0])
    line = np.random.default_rng(0).normal(size=extent)
    kernels = compute_blur_kernels(sigmas[:, None], largest_sigma_voxels=1.0).astype(np.float32)
    (matrices,) = compute_blur_matrices(torch.from_numpy(kernels).to(device), (extent,))
    expected = np.stack([gaussian_filter1d(line, sigma) for sigma in sigmas])
    assert np.allclose(matrices.cpu().numpy() @ line, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5)])
def test_matrices_multiply_the_lines_along_their_axes(shape, device):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(3, *shape)).astype(np.float32)
    matrices = [generator.normal(size=(3, extent, extent)).astype(np.float32) for extent in shape]
    found = apply_along_axes(
        torch.from_numpy(rows).to(device), [torch.from_numpy(part).to(device) for part in matrices]
    )
    for number in range(3):
        expected = rows[number]
        for axis, matrix in enumerate(matrices):
            expected = np.moveaxis(np.tensordot(matrix[number], expected, axes=(1, axis)), 0, axis)
        assert np.allclose(found[number].cpu().numpy(), expected, rtol=1e-4, atol=1e-4)
