"""Varies label maps of training cases, for which images are then drawn."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int16

from autoseg.geometry import Grid, IntTriple, add_slice_axis
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL, CaseGeometry
from autoseg.training.augmentation.enlarged_patch import compute_enlarged_patch
from autoseg.training.augmentation.transform import Sample
from autoseg.training.augmentation.transforms import build_transforms
from autoseg.training.data.randomness import seeded_global_generators
from autoseg.training.data.sampling import cut_out, list_centre_candidates
from autoseg.workflows.folds.synthesis import SynthesisPlan


def vary_label_map(case: CachedCase, plan: SynthesisPlan, seeds: np.random.SeedSequence) -> Int16[np.ndarray, "z y x"]:
    """Draws a part of a case, around its foreground if it has any, and varies its label map; of a case that is seen in
    2D it is one slice. Beyond the case the label map is mirrored."""
    patch = plan.denoiser.patch_voxels
    extents = choose_extents(case.label_map.shape, add_slice_axis(patch, 1), most=plan.patches_per_axis)
    seen = extents[-len(patch) :]
    cut = add_slice_axis(compute_enlarged_patch(seen, plan.variation), 1)
    start = _draw_start(case, cut, extents, np.random.default_rng(seeds))
    label_map = cut_out(case.label_map, start, cut, fill=OUTSIDE_LABEL, border="mirror").astype(np.int16, copy=False)
    if len(patch) == 2:
        label_map = label_map[0]
    sample = Sample(image=np.zeros((1, *label_map.shape), dtype=np.float32), label_map=label_map)
    with seeded_global_generators(seeds):
        for transform in build_transforms(plan.variation, seen):
            transform.change_sample(sample)
    return np.ascontiguousarray(sample.label_map.reshape(extents))


def choose_extents(shape_voxels: tuple[int, ...], patch_voxels: IntTriple, *, most: int) -> IntTriple:
    """Chooses the extents of a synthetic case: those of its source, within some patches, but at least one patch."""
    z, y, x = (
        patch if patch == 1 else max(patch, min(extent, most * patch))
        for extent, patch in zip(shape_voxels, patch_voxels, strict=True)
    )
    return z, y, x


def _draw_start(
    case: CachedCase, cut_voxels: IntTriple, extents: IntTriple, generator: np.random.Generator
) -> IntTriple:
    """Draws the first voxel of a cut, so that the part in its middle lies in the case as far as it can."""
    shape, cut, inner = np.asarray(case.label_map.shape), np.asarray(cut_voxels), np.asarray(extents)
    candidates = list_centre_candidates(case.locations, is_forced=True)
    if candidates:
        of_class = candidates[int(generator.integers(len(candidates)))]
        voxel = np.asarray(of_class[generator.integers(len(of_class))])
    else:
        voxel = generator.integers(shape)
    room = shape - inner
    first = np.clip(voxel - inner // 2, np.minimum(room, 0) // 2, np.where(room < 0, room // 2, room))
    z, y, x = (first - (cut // 2 - inner // 2)).tolist()
    return z, y, x


def build_synthetic_geometry(source: CaseGeometry, extents: IntTriple) -> CaseGeometry:
    """Builds the geometry of a synthetic case, whose file would lie in plan axes, at the spacing of preprocessed data
    and with the directions of its source."""
    grid: Grid = replace(
        source.reorientation.apply_to_grid(source.grid), shape_voxels=extents, spacing_mm=source.target_spacing_mm
    )
    z, y, x = extents
    return CaseGeometry(
        grid=grid,
        orientation=None,
        axis_permutation=(0, 1, 2),
        crop_box=((0, z), (0, y), (0, x)),
        cropped_shape_voxels=extents,
        resampled_shape_voxels=extents,
        cropped_spacing_mm=source.target_spacing_mm,
        target_spacing_mm=source.target_spacing_mm,
    )
