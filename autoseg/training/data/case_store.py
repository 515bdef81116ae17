"""Cases in the memory of a device, one behind the other, from which all patches of a batch are gathered at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from torch import Tensor

from autoseg.geometry import Border, Borders, IntTriple, find_border_sources, list_borders
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.runtime.device import wait_for_device
from autoseg.training.augmentation.tensors.rows import combine_axes
from autoseg.training.augmentation.tensors.transfer import choose_device
from autoseg.training.augmentation.transform import Patches
from autoseg.training.data.held_cases import READING_THREADS, DeviceArray, hold_locations
from autoseg.training.data.sampling import Cut

Places = Int64[np.ndarray, "box extent"]

BEYOND: Final = -(2**60)  # part of an index; the sum with those of the other axes is below 0, and no overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseStore:
    """All cases of a fold in the memory of a device.

    The first voxel belongs to no case: it is what lies beyond one, zero and the label -1.

    Attributes:
        images: Channels of all images.
        maps: Label maps and further maps of all cases.
        starts: Number of the first voxel of each case.
        cases: The cases, whose arrays are parts of the above.
    """

    images: Float32[Tensor, "channel voxel"]
    maps: Int16[Tensor, "map voxel"]
    starts: Mapping[str, int]
    cases: Mapping[str, CachedCase]

    def find_voxels(self, cuts: Sequence[Cut], extent: IntTriple, *, border: Borders) -> list[Places]:
        """Finds the voxels of boxes of one extent that begin where cuts do: a part of their numbers for each axis."""
        shapes = np.reshape([cut.case.label_map.shape for cut in cuts], (-1, 3)).astype(np.int64)
        steps = np.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], np.ones_like(shapes[:, 2])], axis=1)
        axes = np.reshape([cut.axes for cut in cuts], (-1, 3)).astype(np.int64)
        shapes, steps = np.take_along_axis(shapes, axes, axis=1), np.take_along_axis(steps, axes, axis=1)
        starts = np.reshape([cut.start for cut in cuts], (-1, 3)).astype(np.int64)
        z, y, x = (
            _find_along(shapes[:, axis], starts[:, axis], extent[axis], border=rule)
            for axis, rule in enumerate(list_borders(border))
        )
        first = np.asarray([self.starts[cut.case.name] for cut in cuts], dtype=np.int64)[:, None]
        return [
            np.where(z < 0, BEYOND, z * steps[:, :1] + first),
            np.where(y < 0, BEYOND, y * steps[:, 1:2]),
            np.where(x < 0, BEYOND, x * steps[:, 2:]),
        ]

    def gather(self, voxels: Sequence[Int64[Tensor, "box _"]]) -> Patches:
        """Gathers the voxels of `find_voxels`, whose numbers lie on the device, of images and label maps."""
        index = combine_axes(voxels).clamp_min_(0)
        image, label_maps = (
            values.index_select(1, index.flatten()).view(len(values), *index.shape).movedim(1, 0).contiguous()
            for values in (self.images, self.maps)
        )
        return Patches(image=image, label_maps=label_maps)


def store_cases(case_names: Sequence[str], open_case: Callable[[str], CachedCase], device: torch.device) -> CaseStore:
    """Reads all cases into the memory of a device. It is reserved first and filled case by case, so that it is needed
    once. As each case has several files, only those that are being read are open.

    Raises:
        RunError: A case is missing or damaged.
    """
    first = open_case(case_names[0])
    ends = np.cumsum([1, *(math.prod(open_case(name).label_map.shape) for name in case_names)]).tolist()
    images = torch.empty((first.image.shape[0], ends[-1]), device=device)
    maps = torch.empty((len(first.maps), ends[-1]), dtype=torch.int16, device=device)
    images[:, 0], maps[:, 0] = 0, OUTSIDE_LABEL
    parts = [(images[:, start:end], maps[:, start:end]) for start, end in pairwise(ends)]
    with ThreadPoolExecutor(READING_THREADS, initializer=choose_device, initargs=(device,)) as pool:
        stored = list(pool.map(lambda name, part: _store_case(open_case(name), *part), case_names, parts))
    wait_for_device(device)  # batches are gathered on another stream, which does not wait for these copies
    return CaseStore(
        images=images,
        maps=maps,
        starts=dict(zip(case_names, ends, strict=False)),
        cases=dict(zip(case_names, stored, strict=True)),
    )


def _store_case(case: CachedCase, image: Tensor, maps: Tensor) -> CachedCase:
    """Fills the parts of the store that belong to a case."""
    shape = case.label_map.shape
    image.copy_(torch.from_numpy(np.ascontiguousarray(case.image[:])).flatten(1))
    for target, source in zip(maps, case.maps, strict=True):
        target.copy_(torch.from_numpy(np.ascontiguousarray(source[:])).flatten())
    label_map, *further_maps = (DeviceArray(part.view(shape)) for part in maps)
    return replace(
        case,
        image=DeviceArray(image.view(-1, *shape)),
        label_map=label_map,
        further_maps=tuple(further_maps),
        locations=hold_locations(case),
    )


def _find_along(
    extents: Int64[np.ndarray, " box"], starts: Int64[np.ndarray, " box"], length: int, *, border: Border
) -> Places:
    """Finds the voxel along one axis of its case that each voxel of a box shows; -1: none."""
    if border == "zeros":
        places = starts[:, None] + np.arange(length)
        return np.where((places >= 0) & (places < extents[:, None]), places, -1)
    ranges = zip(extents.tolist(), starts.tolist(), strict=True)
    sources = [find_border_sources(extent, start, length, border=border) for extent, start in ranges]
    return np.reshape(sources, (-1, length)).astype(np.int64)
