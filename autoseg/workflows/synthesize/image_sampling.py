"""Draws an image for a label map of any extent: windows are denoised, and blended in every step.

As all windows share the noisy image, and the blend of their estimates decides its next state, overlapping windows show
the same image (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Final

import torch
from jaxtyping import Float32
from torch import Tensor

from autoseg.inference.sliding_window.windows import compute_blending_weights, compute_window_starts
from autoseg.networks.parts.diffusion.process import ImplicitStep

WINDOW_STEP: Final = 0.5  # of a patch

EstimateImage = Callable[[Tensor, Tensor, ImplicitStep], Tensor]
"""Estimates images without noise from the masks of their label maps, noisy images, and the step."""


@torch.inference_mode()
def sample_image(
    estimate_image: EstimateImage,
    masks: Float32[Tensor, "1 mask *space"],
    noise: Float32[Tensor, "1 channel *space"],
    *,
    steps: Sequence[ImplicitStep],
    patch_voxels: Sequence[int],
    bounds: tuple[Tensor, Tensor],
    on_step: Callable[[int], None] = lambda done: None,
) -> Float32[Tensor, "1 channel *space"]:
    """Goes back from noise to an image, step by step (DDIM).

    Args:
        estimate_image: The denoiser.
        masks: The channels that describe the label map.
        noise: The state after the last step of diffusion, at least as large as a patch.
        steps: The steps back.
        patch_voxels: Extent of what the denoiser sees at once.
        bounds: Lowest and highest intensities of every channel, to which estimates are clipped.
        on_step: Called with the number of steps that are done.
    """
    noisy, windows = noise, list(list_windows(noise.shape[2:], patch_voxels))
    for done, step in enumerate(steps, start=1):
        start = torch.zeros_like(noisy)
        for place, share in windows:
            start[place] += share.to(noise.device) * estimate_image(masks[place], noisy[place], step)
        noisy = step.take(noisy, torch.minimum(torch.maximum(start, bounds[0]), bounds[1]))
        on_step(done)
    return noisy


def list_windows(
    extents_voxels: Sequence[int], patch_voxels: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], Float32[Tensor, " *patch"]]]:
    """Lists the places of the windows, for all samples and channels, and their shares, which add up to 1 everywhere."""
    pairs = list(zip(extents_voxels, patch_voxels, strict=True))
    starts = [compute_window_starts(extent, patch, WINDOW_STEP) for extent, patch in pairs]
    shares = [
        torch.from_numpy(compute_blending_weights(along, patch))
        for along, patch in zip(starts, patch_voxels, strict=True)
    ]
    for window in product(*(range(len(along)) for along in starts)):
        share = torch.ones(())
        for of_axis, index in zip(shares, window, strict=True):
            share = share[..., None] * of_axis[index]
        corner = (along[index] for along, index in zip(starts, window, strict=True))
        inside = (slice(first, first + patch) for first, patch in zip(corner, patch_voxels, strict=True))
        yield (slice(None), slice(None), *inside), share
