"""Which piece of which case becomes a training patch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16, Int32

from autoseg.geometry import IntTriple
from autoseg.preprocessing.cache import CachedCase, LazyArray
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.preprocessing.class_locations import ClassLocations

Coordinates = Int32[np.ndarray, "_ 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSampler:
    """Draws patches.

    Attributes:
        case_names: Cases, all equally likely, drawn with replacement.
        open_case: Opens one of them.
        cut_voxels: Extent that is cut out (z, y, x); 1 along z for a 2D configuration.
        patch_voxels: Extent that the network will see after augmentation.
        batch_size: Samples per batch.
        foreground_fraction: Share of them, the last ones of the batch, that are centred on a foreground voxel.
        part: Samples that are made here, where several processes share a batch; None: all.
    """

    case_names: tuple[str, ...]
    open_case: Callable[[str], CachedCase]
    cut_voxels: IntTriple
    patch_voxels: IntTriple
    batch_size: int
    foreground_fraction: float
    part: range | None = None

    @property
    def indices(self) -> range:
        """The samples of a batch that are made here."""
        return range(self.batch_size) if self.part is None else self.part

    def draw(
        self, index: int, generator: np.random.Generator
    ) -> tuple[Float32[np.ndarray, "channel z y x"], Int16[np.ndarray, "z y x"]]:
        """Draws sample `index` of a batch: its image and label map, zero and -1 where it hangs over the volume."""
        case = self.open_case(self.case_names[int(generator.integers(len(self.case_names)))])
        is_forced = is_forced_foreground(index, self.batch_size, self.foreground_fraction)
        candidates = list_centre_candidates(case.locations, is_forced=is_forced)
        start = self._draw_start(case.label_map.shape, candidates, generator)
        return (
            cut_out(case.image, start, self.cut_voxels, fill=0).astype(np.float32, copy=False),
            cut_out(case.label_map, start, self.cut_voxels, fill=OUTSIDE_LABEL).astype(np.int16, copy=False),
        )

    def _draw_start(
        self, shape_voxels: tuple[int, ...], candidates: Sequence[Coordinates], generator: np.random.Generator
    ) -> tuple[int, ...]:
        lower, upper = compute_start_bounds(shape_voxels, self.cut_voxels, self.patch_voxels)
        if not candidates:
            return tuple(generator.integers(lower, upper, endpoint=True).tolist())
        of_class = candidates[int(generator.integers(len(candidates)))]
        centre = of_class[generator.integers(len(of_class))]
        return tuple(np.maximum(lower, centre - np.asarray(self.cut_voxels) // 2).tolist())


def is_forced_foreground(index: int, batch_size: int, foreground_fraction: float) -> bool:
    """Whether sample `index` of a batch is centred on foreground: the last round(batch * fraction), with the
    reference's rounding (half to even, of the complement)."""
    return index >= round(batch_size * (1 - foreground_fraction))


def list_centre_candidates(locations: ClassLocations, *, is_forced: bool) -> list[Coordinates]:
    """The sets of voxels of which one is chosen, then one of its voxels as centre; empty: anywhere.

    Forced: every class that occurs in the case, else the annotated voxels. Not forced: anywhere, but with an ignore
    label the annotated voxels, because a patch without any annotation teaches nothing.
    """
    annotated = [places for places in (locations.of_annotated,) if places is not None and len(places)]
    if not is_forced:
        return annotated
    of_classes = (locations.of_class(index) for index in range(len(locations.class_ranges)))
    return [places for places in of_classes if len(places)] or annotated


def compute_start_bounds(
    shape_voxels: tuple[int, ...], cut_voxels: tuple[int, ...], patch_voxels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last (inclusive) start of a cut per axis.

    The cut may hang over the volume by what augmentation needs around the patch, or by what the volume lacks. A cut
    that is centred on a voxel keeps the first bound only, as in the reference.
    """
    shape, cut = np.asarray(shape_voxels), np.asarray(cut_voxels)
    overhang = np.maximum(cut - np.asarray(patch_voxels), cut - shape)
    return -(overhang // 2) - overhang % 2, shape + overhang // 2 + overhang % 2 - cut


def cut_out(array: LazyArray, start: tuple[int, ...], extent: IntTriple, *, fill: int) -> np.ndarray:
    """Reads a box of the last three axes; what lies beyond the array is filled."""
    shape = array.shape[-3:]
    first = [max(0, begin) for begin in start]
    last = [min(size, begin + length) for size, begin, length in zip(shape, start, extent, strict=True)]
    leading = (slice(None),) * (len(array.shape) - 3)
    part = np.asarray(array[(*leading, *map(slice, first, last))])
    inside = [slice(a - begin, b - begin) for a, b, begin in zip(first, last, start, strict=True)]
    box = np.full((*array.shape[:-3], *extent), fill, dtype=part.dtype)
    box[(*leading, *inside)] = part
    return box
