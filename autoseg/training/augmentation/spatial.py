"""Change of the geometry of a cut about its centre, and cropping to the patch: one interpolation for everything.

batchgenerators' transform draws half of the scales below 1 and half above, nnU-Net one uniform factor; so the grid is
composed here, of batchgenerators' coordinate functions. On a device, only what is rotated or scaled is cut out with
surroundings: `Spatial` warps those cuts, the others are patches already. A voxel of the patch is read at
rotation * scale * shear * offset + displacement, about the centre of the cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import radians, tan
from typing import Final

import numpy as np
from batchgenerators.augmentations.utils import (
    interpolate_img,
    rotate_coords_2d,
    rotate_coords_3d,
    scale_coords,
)
from jaxtyping import Bool, Float32, Float64, Int16, Int64
from torch import Tensor

from autoseg.plan.augmentation import DeformationPlan, WarpPlan
from autoseg.plan.elastic import ElasticPlan
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.training.augmentation.displacements import compute_displacements, draw_displacements
from autoseg.training.augmentation.factors import scale_to
from autoseg.training.augmentation.tensors.counter_random import KEY_WORDS, draw_key, join_words
from autoseg.training.augmentation.tensors.resampling import compute_matrices, resample_cuts
from autoseg.training.augmentation.transform import (
    Patches,
    Sample,
    SampleDraws,
    Transform,
    build_generator,
    is_slice_wise,
)

SPAWN_KEY: Final = (3,)  # distinguishes the draws of deformations from all others, which have the same seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialParameters:
    """Random parameters of one patch.

    Attributes:
        angles_radians: One angle in 2D, one about each axis in 3D; None: no rotation.
        scale: Above 1 objects become smaller; None: no scaling.
        shear: Matrix of a shear; None: none.
        displacements: Elastic deformation; None: none.
    """

    angles_radians: tuple[float, ...] | None
    scale: float | None
    shear: Float64[np.ndarray, "axis axis"] | None = None
    displacements: Float64[np.ndarray, " axis *patch"] | None = None

    @property
    def is_warped(self) -> bool:
        """Whether anything changes."""
        parts = (self.angles_radians, self.scale, self.shear, self.displacements)
        return any(part is not None for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpatialParameters:
    """Random parameters of the patches of a batch.

    Attributes:
        angles_radians: About each axis; one angle in a plane. All zero: no rotation.
        scale: Above 1 objects become smaller. 1: no scaling.
        is_warped: Whether the patch is changed at all.
        shear: Matrices of shears; unit matrices: none.
        is_elastic: Whether the patch is deformed elastically.
        keys: 32-bit words from which the displacements follow.
    """

    angles_radians: Float64[np.ndarray, "batch angle"]
    scale: Float64[np.ndarray, " batch"]
    is_warped: Bool[np.ndarray, " batch"]
    shear: Float64[np.ndarray, "batch axis axis"]
    is_elastic: Bool[np.ndarray, " batch"]
    keys: Int64[np.ndarray, "batch 4"]

    @property
    def matrices(self) -> Float64[np.ndarray, "batch axis axis"]:
        """Maps from offsets in the patch to offsets in the cut, without displacements."""
        matrices: Float64[np.ndarray, "batch axis axis"]
        matrices = compute_matrices(self.angles_radians, self.scale) @ self.shear
        return matrices


@dataclass(frozen=True, kw_only=True)
class Spatial(Transform):
    """Carries out "spatial" and "deformation", of which one is always the first."""

    plan: WarpPlan

    def change_sample(self, sample: Sample) -> None:
        """Turns the arrays of an enlarged cut into those of a patch."""
        parameters = draw_spatial_parameters(self.plan, self._warped_axes)
        previous = [] if sample.previous_label_map is None else [sample.previous_label_map]
        arrays = (sample.image, sample.label_map, *previous)
        if parameters.is_warped:
            changed = self._resample(arrays, parameters)
        else:
            changed = tuple(crop_centre(array, self.patch_voxels) for array in arrays)
        sample.image, sample.label_map = changed[:2]
        if previous:
            sample.previous_label_map = changed[2]

    def draw(self, draws: SampleDraws) -> BatchSpatialParameters:
        """Draws the parameters of the samples of a batch, including values that are not used."""
        plan, limit = self.plan, radians(self.plan.rotation_limit_degrees)
        numbers = draws.random(3 + (1 if len(self._warped_axes) == 2 else 3))
        is_rotated, is_scaled = numbers[:, 0] < plan.rotation_probability, numbers[:, -2] < plan.scaling_probability
        shear, is_elastic, keys = self._draw_deformations(draws.seeds)
        is_sheared = (shear != np.eye(shear.shape[1])).any(axis=(1, 2))
        return BatchSpatialParameters(
            angles_radians=np.where(is_rotated[:, None], scale_to(numbers[:, 1:-2], (-limit, limit)), 0),
            scale=np.where(is_scaled, scale_to(numbers[:, -1], plan.scaling_range), 1),
            is_warped=is_rotated | is_scaled | is_sheared | is_elastic,
            shear=shear,
            is_elastic=is_elastic,
            keys=keys,
        )

    def list_arrays(self, parameters: BatchSpatialParameters) -> tuple[np.ndarray, ...]:
        """Lists what the device needs of the warped samples: their numbers, matrices, keys, and standard deviations of
        the displacements."""
        warped = np.flatnonzero(parameters.is_warped)
        std_voxels = parameters.is_elastic[warped] * (0.0 if self._elastic is None else self._elastic.std_voxels)
        return warped, parameters.matrices[warped], join_words(parameters.keys[warped]), std_voxels

    def warp(self, patches: Patches, cuts: Patches, arrays: Sequence[Tensor]) -> Patches:
        """Warps the enlarged cuts of those samples of a batch that are changed, crops them, and puts them among the
        patches."""
        warped, matrices, keys, std_voxels = arrays
        if len(warped) == 0:
            return patches
        plan, axes = self._elastic, self._warped_axes
        moved = None if plan is None else compute_displacements(plan, axes, keys=keys, std_voxels=std_voxels)
        image, label_maps = resample_cuts(cuts.image, cuts.label_maps, matrices, self.patch_voxels, displacements=moved)
        return Patches(
            image=patches.image.index_copy_(0, warped, image),
            label_maps=patches.label_maps.index_copy_(0, warped, label_maps),
        )

    @property
    def _elastic(self) -> ElasticPlan | None:
        return self.plan.elastic if isinstance(self.plan, DeformationPlan) else None

    @property
    def _warped_axes(self) -> tuple[int, ...]:
        return self.patch_voxels[1:] if self._is_slice_wise else self.patch_voxels

    @property
    def _is_slice_wise(self) -> bool:
        return is_slice_wise(in_plane_only=self.plan.in_plane_only, patch_voxels=self.patch_voxels)

    def _draw_deformations(
        self, seeds: Sequence[np.random.SeedSequence]
    ) -> tuple[Float64[np.ndarray, "batch axis axis"], Bool[np.ndarray, " batch"], Int64[np.ndarray, "batch 4"]]:
        """Draws shears, which samples are deformed elastically, and keys of their displacements."""
        plan, count, axes = self.plan, len(seeds), len(self._warped_axes)
        if isinstance(plan, DeformationPlan):
            drawn = zip(*(self._draw_deformation(plan, sample) for sample in seeds), strict=True)
            shears, flags, keys = map(np.stack, drawn)
            return shears, flags, keys
        still = np.broadcast_to(np.eye(axes), (count, axes, axes))
        return still, np.zeros(count, dtype=bool), np.zeros((count, KEY_WORDS), dtype=np.int64)

    def _draw_deformation(
        self, plan: DeformationPlan, seeds: np.random.SeedSequence
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        generator, dimensions = build_generator(seeds, SPAWN_KEY), len(self._warped_axes)
        is_sheared, is_elastic = generator.random(2) < (plan.shear_probability, plan.elastic_probability)
        leaning, towards = generator.permutation(dimensions)[:2].tolist()
        degrees = generator.uniform(-plan.shear_limit_degrees, plan.shear_limit_degrees)
        shear = compute_shear(dimensions, leaning, towards, degrees=degrees if is_sheared else 0.0)
        return shear, np.asarray(is_elastic), draw_key(generator)

    def _resample(self, arrays: Sequence[np.ndarray], parameters: SpatialParameters) -> tuple[np.ndarray, ...]:
        """Interpolates every slice (in plane only) or the whole volume of image and label maps at the same source
        positions."""
        if self._is_slice_wise:
            thickness = (self.patch_voxels[0], *arrays[0].shape[2:])
            arrays = [crop_centre(array, thickness) for array in arrays]
        image, *label_maps = arrays
        warped = len(self._warped_axes)
        positions = compute_source_positions(parameters, self._warped_axes, image.shape[-warped:])
        return (
            self._apply(interpolate_image, image, positions),
            *(self._apply(interpolate_label_map, label_map, positions) for label_map in label_maps),
        )

    def _apply(
        self, interpolate: Callable[[np.ndarray, np.ndarray], np.ndarray], array: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        parts = array.reshape(-1, *array.shape[-len(self._warped_axes) :])
        leading = array.shape[: -len(self.patch_voxels)]
        return np.stack([interpolate(part, positions) for part in parts]).reshape(*leading, *self.patch_voxels)


def draw_spatial_parameters(plan: WarpPlan, patch_voxels: tuple[int, ...]) -> SpatialParameters:
    """Draws from numpy's global generator: independent decisions and uniform magnitudes. Nothing is drawn for what
    never happens, so that it leaves the numbers of the other transforms alone."""
    angles = scale = shear = displacements = None
    dimensions = len(patch_voxels)
    if np.random.uniform() < plan.rotation_probability:
        limit = radians(plan.rotation_limit_degrees)
        angles = tuple(np.random.uniform(-limit, limit, size=1 if dimensions == 2 else 3).tolist())
    if np.random.uniform() < plan.scaling_probability:
        scale = float(np.random.uniform(*plan.scaling_range))
    if isinstance(plan, DeformationPlan):
        shear, displacements = _draw_shear(plan, dimensions), _draw_elastic(plan, patch_voxels)
    return SpatialParameters(angles_radians=angles, scale=scale, shear=shear, displacements=displacements)


def _draw_shear(plan: DeformationPlan, dimensions: int) -> Float64[np.ndarray, "axis axis"] | None:
    if plan.shear_probability == 0 or np.random.uniform() >= plan.shear_probability:
        return None
    leaning, towards = np.random.permutation(dimensions)[:2].tolist()
    degrees = np.random.uniform(-plan.shear_limit_degrees, plan.shear_limit_degrees)
    return compute_shear(dimensions, leaning, towards, degrees=degrees)


def _draw_elastic(plan: DeformationPlan, patch_voxels: tuple[int, ...]) -> Float64[np.ndarray, " axis *patch"] | None:
    if plan.elastic is None or plan.elastic_probability == 0 or np.random.uniform() >= plan.elastic_probability:
        return None
    return draw_displacements(plan.elastic, patch_voxels)


def compute_shear(dimensions: int, leaning: int, towards: int, *, degrees: float) -> Float64[np.ndarray, "axis axis"]:
    """Computes the matrix by which the axis `leaning` leans towards the axis `towards`; volumes stay."""
    matrix: Float64[np.ndarray, "axis axis"] = np.eye(dimensions)
    matrix[towards, leaning] = tan(radians(degrees))
    return matrix


def compute_source_positions(
    parameters: SpatialParameters, patch_voxels: tuple[int, ...], cut_voxels: tuple[int, ...]
) -> Float64[np.ndarray, " axis *patch"]:
    """Computes the position in the cut of each voxel of the patch, warped about the common centre."""
    columns = np.eye(len(patch_voxels))
    if parameters.angles_radians is not None:
        rotate = rotate_coords_2d if len(patch_voxels) == 2 else rotate_coords_3d
        columns = rotate(columns, *parameters.angles_radians)
    if parameters.scale is not None:
        columns = scale_coords(columns, parameters.scale)
    if parameters.shear is not None:
        columns = columns @ parameters.shear
    positions = np.empty((len(patch_voxels), *patch_voxels))
    offsets = np.ogrid[tuple(slice(-(extent - 1) / 2, extent / 2) for extent in patch_voxels)]
    for axis, extent in enumerate(cut_voxels):
        steps = (factor * offset for factor, offset in zip(columns[axis], offsets, strict=True))
        positions[axis] = reduce(np.add, steps, (extent - 1) / 2)
    if parameters.displacements is not None:
        positions += parameters.displacements
    return positions


def interpolate_image(
    image: Float32[np.ndarray, "*space"], positions: Float64[np.ndarray, " axis *patch"]
) -> Float32[np.ndarray, "*patch"]:
    """Interpolates linearly, with zeros around the cut."""
    interpolated: np.ndarray = interpolate_img(image, positions, order=1, mode="grid-constant", cval=0)
    return interpolated


def interpolate_label_map(
    label_map: Int16[np.ndarray, "*space"], positions: Float64[np.ndarray, " axis *patch"]
) -> Int16[np.ndarray, "*patch"]:
    """Returns the label whose linearly interpolated indicator is largest; -1 beyond the cut.

    Between equal labels there is nothing to interpolate: only positions among different ones go through
    batchgenerators' interpolation, whose time grows with the number of labels (20 labels: a fifth of the time).
    """
    cells, is_beyond = _find_cells(positions, label_map.shape)
    interpolated: np.ndarray = np.take(label_map, cells)
    is_mixed = is_beyond | ~np.take(find_uniform_cells(label_map), cells)
    interpolated[is_mixed] = interpolate_img(
        label_map, positions[:, is_mixed], order=1, mode="constant", cval=OUTSIDE_LABEL, is_seg=True
    )
    return interpolated


def find_uniform_cells(label_map: Int16[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Finds voxels that carry the label of their next neighbours along all axes (4 or 8 corners); False at the far
    border, where there are none."""
    is_uniform = np.ones(label_map.shape, dtype=bool)
    for axis in range(label_map.ndim):
        first = tuple(slice(None, -1) if other == axis else slice(None) for other in range(label_map.ndim))
        second = tuple(slice(1, None) if other == axis else slice(None) for other in range(label_map.ndim))
        last = tuple(slice(-1, None) if other == axis else slice(None) for other in range(label_map.ndim))
        is_uniform[first] &= is_uniform[second] & (label_map[first] == label_map[second])
        is_uniform[last] = False
    return is_uniform


def _find_cells(positions: np.ndarray, extents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the flat index of the voxel before each position, and whether it is beyond the outermost voxels."""
    cells = np.zeros(positions.shape[1:], dtype=np.intp)
    is_beyond = np.zeros(positions.shape[1:], dtype=bool)
    for along, extent in zip(positions, extents, strict=True):
        is_beyond |= (along < 0) | (along > extent - 1)
        cells *= extent
        cells += np.clip(along, 0, extent - 1).astype(np.intp)
    return cells, is_beyond


def crop_centre(array: np.ndarray, patch_voxels: tuple[int, ...]) -> np.ndarray:
    """Returns a copy of the middle of the last axes; start = extent // 2 - patch // 2."""
    extents = array.shape[-len(patch_voxels) :]
    starts = [extent // 2 - patch // 2 for extent, patch in zip(extents, patch_voxels, strict=True)]
    leading = (slice(None),) * (array.ndim - len(patch_voxels))
    slices = (slice(start, start + patch) for start, patch in zip(starts, patch_voxels, strict=True))
    return array[(*leading, *slices)].copy()
