"""Random choice of the case and the place of each training patch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autoseg.geometry import Borders, IntTriple, find_border_sources, list_borders, list_plane_order
from autoseg.plan.training import ForegroundChoice, ForegroundPlacement
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.case import OUTSIDE_LABEL
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.training.data.axis_order import UNCHANGED, order_axes
from autoseg.training.data.foreground import Coordinates, FoldClass, ForegroundIndex
from autoseg.training.data.randomness import BatchKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The place where a patch is cut out.

    Attributes:
        start: Its first voxel, possibly before the case begins, in the order of the axes.
        axes: The axis of the case that each axis of the patch is.
    """

    case: CachedCase
    start: tuple[int, ...]
    axes: IntTriple = UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSampler:
    """Draws patches.

    Attributes:
        case_names: Cases, all equally likely, drawn with replacement.
        open_case: Opens one of them.
        cut_voxels: Extent that is cut out (z, y, x); 1 along z for a 2D configuration.
        patch_voxels: Extent that the network will see after augmentation.
        margin_voxels: Voxels by which the output of the network is smaller at either end, and by which a patch may
            hang over the case.
        batch_size: Samples per batch.
        foreground_fraction: Share of them, the last ones of the batch, that show a chosen foreground voxel. Where it is
            less than one of a batch, each shows one with that probability.
        foreground_placement: Position of a chosen voxel in its patch. "centred": in the middle, but for voxels near the
            first border of an axis (nnU-Net's rule). "uniform": anywhere of its output with equal probability, but
            that the patch hangs over the case no further than other patches do.
        foreground_choice: Rule for choosing the voxel. "class": one of the classes of a random case, then one of its
            voxels (nnU-Net's rule). "class_balanced": one of the classes of all cases, then a case that holds it.
            "component": a class of a random case, then one of its connected components, then one of its voxels.
        border: Content of a cut where it hangs over the case: zeros and the label -1, or the image and the maps
            themselves, mirrored or continued; one rule for all axes, or one for each.
        plane_axes: Axes of the case that may be the first one of a cut, all equally likely.
        part: Samples that are made here, where several processes share a batch; None: all.
        foreground: Filled while drawing.
        synthetic_names: Synthetic cases, which are drawn like the others.
        synthetic_fraction: Probability that a sample comes from one of them, if there are any.
        synthetic_foreground: The same as `foreground`, of them.
    """

    case_names: tuple[str, ...]
    open_case: Callable[[str], CachedCase]
    cut_voxels: IntTriple
    patch_voxels: IntTriple
    batch_size: int
    foreground_fraction: float
    foreground_placement: ForegroundPlacement = "centred"
    foreground_choice: ForegroundChoice = "class"
    margin_voxels: IntTriple = (0, 0, 0)
    border: Borders = "zeros"
    plane_axes: tuple[int, ...] = (0,)
    part: range | None = None
    foreground: ForegroundIndex = field(default_factory=ForegroundIndex, repr=False, compare=False)
    synthetic_names: tuple[str, ...] = ()
    synthetic_fraction: float = 0.0
    synthetic_foreground: ForegroundIndex = field(default_factory=ForegroundIndex, repr=False, compare=False)

    def choose(self, key: BatchKey, *, planes: int) -> "PatchSampler":
        """Returns what draws the samples of a batch: of several planes across the axis of its plane alone, and
        synthetic ones only where its phase takes them."""
        axes = (self.plane_axes[key.find_plane(planes)],) if planes > 1 else self.plane_axes
        fraction = self.synthetic_fraction if key.phase.takes_synthetic else 0.0
        return replace(self, plane_axes=axes, synthetic_fraction=fraction)

    @property
    def all_names(self) -> tuple[str, ...]:
        """The cases from which samples may come."""
        return (*self.case_names, *self.synthetic_names)

    @property
    def indices(self) -> range:
        """The samples of a batch that are made here."""
        return range(self.batch_size) if self.part is None else self.part

    @property
    def output_voxels(self) -> tuple[int, ...]:
        """Extent of the network's output."""
        return tuple(patch - 2 * margin for patch, margin in zip(self.patch_voxels, self.margin_voxels, strict=True))

    def draw(self, index: int, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draws sample `index` of a batch: its image (float32) and label map (int16), by default zero and -1 where it
        hangs over the volume; after it, the further maps of the case."""
        cut, box, border = self.place(index, generator), self.cut_voxels, self.border
        return (
            cut_out(order_axes(cut.case.image, cut.axes), cut.start, box, fill=0, border=border).astype(
                np.float32, copy=False
            ),
            *(
                cut_out(part, cut.start, box, fill=OUTSIDE_LABEL, border=border).astype(np.int16, copy=False)
                for part in (order_axes(part, cut.axes) for part in cut.case.maps)
            ),
        )

    def place(self, index: int, generator: np.random.Generator) -> Cut:
        """Draws which case sample `index` of a batch comes from, and from where in it."""
        names, foreground = self._draw_kind(generator)
        is_forced = self._draw_whether_forced(index, generator)
        wanted = self._draw_class_of_fold(names, foreground, generator) if is_forced else None
        case_names = names if wanted is None else wanted.case_names
        case = self.open_case(case_names[int(generator.integers(len(case_names)))])
        if wanted is None:
            candidates = self._list_candidates(case, generator, is_forced=is_forced)
        else:
            candidates = [case.locations.of_class(wanted.index)]
        axes = self._draw_axes(generator)
        return Cut(case=case, start=self._draw_start(case.label_map.shape, candidates, generator, axes=axes), axes=axes)

    def _draw_kind(self, generator: np.random.Generator) -> tuple[tuple[str, ...], ForegroundIndex]:
        """Draws whether the case is synthetic; nothing is drawn where none is."""
        if self.synthetic_names and generator.random() < self.synthetic_fraction:
            return self.synthetic_names, self.synthetic_foreground
        return self.case_names, self.foreground

    def _draw_axes(self, generator: np.random.Generator) -> IntTriple:
        """Draws the order of axes; nothing is drawn where there is no choice."""
        count = len(self.plane_axes)
        return list_plane_order(self.plane_axes[int(generator.integers(count)) if count > 1 else 0])

    def _draw_whether_forced(self, index: int, generator: np.random.Generator) -> bool:
        if is_forced_foreground(self.batch_size - 1, self.batch_size, self.foreground_fraction):
            return is_forced_foreground(index, self.batch_size, self.foreground_fraction)
        return self.foreground_fraction > 0 and bool(generator.random() < self.foreground_fraction)

    def _draw_class_of_fold(
        self, case_names: tuple[str, ...], foreground: ForegroundIndex, generator: np.random.Generator
    ) -> FoldClass | None:
        """Draws a class of the fold; None if the case is drawn before the class, or no case holds any class."""
        if self.foreground_choice != "class_balanced":
            return None
        classes = foreground.list_classes(case_names, self.open_case)
        return classes[int(generator.integers(len(classes)))] if classes else None

    def _list_candidates(
        self, case: CachedCase, generator: np.random.Generator, *, is_forced: bool
    ) -> Sequence[Coordinates]:
        classes = list_present_classes(case.locations)
        if is_forced and classes and self.foreground_choice == "component":
            return self.foreground.list_components(case, classes[int(generator.integers(len(classes)))])
        return list_centre_candidates(case.locations, is_forced=is_forced)

    def _draw_start(
        self,
        shape_voxels: tuple[int, ...],
        candidates: Sequence[Coordinates],
        generator: np.random.Generator,
        *,
        axes: IntTriple,
    ) -> tuple[int, ...]:
        extents = tuple(shape_voxels[axis] for axis in axes)
        lower, upper = compute_start_bounds(extents, self.cut_voxels, self.output_voxels)
        if not candidates:
            return tuple(generator.integers(lower, upper, endpoint=True).tolist())
        of_class = candidates[int(generator.integers(len(candidates)))]
        voxel = np.asarray(of_class[generator.integers(len(of_class))])[list(axes)]
        cut, output = np.asarray(self.cut_voxels), np.asarray(self.output_voxels)
        if self.foreground_placement == "centred":
            return tuple(np.maximum(lower, voxel - cut // 2).tolist())
        position = generator.integers(output) + cut // 2 - output // 2
        return tuple(np.clip(voxel - position, lower, upper).tolist())


def is_forced_foreground(index: int, batch_size: int, foreground_fraction: float) -> bool:
    """Returns whether sample `index` of a batch shows foreground: the last round(batch * fraction), with the
    reference's rounding (half to even, of the complement)."""
    return index >= round(batch_size * (1 - foreground_fraction))


def list_centre_candidates(locations: ClassLocations, *, is_forced: bool) -> list[Coordinates]:
    """Lists sets of voxels: one of them is chosen, then one of its voxels as centre; empty: anywhere.

    Forced: every class that occurs in the case, else the annotated voxels. Not forced: anywhere, but with an ignore
    label the annotated voxels, because a patch without any annotation teaches nothing.
    """
    annotated = [places for places in (locations.of_annotated,) if places is not None and len(places)]
    if not is_forced:
        return annotated
    return [locations.of_class(index) for index in list_present_classes(locations)] or annotated


def list_present_classes(locations: ClassLocations) -> list[int]:
    """Lists the classes that occur in a case."""
    return [index for index, (first, end) in enumerate(locations.class_ranges) if first < end]


def compute_start_bounds(
    shape_voxels: tuple[int, ...], cut_voxels: tuple[int, ...], output_voxels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the first and the last (inclusive) start of a cut per axis.

    The cut may hang over the volume by what augmentation and the network need around the output of the network, or by
    what the volume lacks. A cut that is centred on a voxel keeps the first bound only, as in the reference.
    """
    shape, cut = np.asarray(shape_voxels), np.asarray(cut_voxels)
    overhang = np.maximum(cut - np.asarray(output_voxels), cut - shape)
    return -(overhang // 2) - overhang % 2, shape + overhang // 2 + overhang % 2 - cut


def cut_out(
    array: LazyArray, start: tuple[int, ...], extent: IntTriple, *, fill: int, border: Borders = "zeros"
) -> np.ndarray:
    """Reads a box of the last three axes; voxels beyond the array are filled, or continued by the rule of a border."""
    leading = (slice(None),) * (len(array.shape) - 3)
    covered, inside = find_overlap(array.shape[-3:], start, extent)
    continued = _find_continuations(array.shape[-3:], start, extent, border=border)
    for axis, places in continued.items():
        covered[axis], inside[axis] = slice(int(places.min()), int(places.max()) + 1), slice(None)
    part = np.asarray(array[(*leading, *covered)])
    for axis, places in continued.items():
        part = np.take(part, places - covered[axis].start, axis - 3)
    if len(continued) == len(extent):
        return part
    box = np.full((*array.shape[:-3], *extent), fill, dtype=part.dtype)
    box[(*leading, *inside)] = part
    return box


def find_overlap(
    shape_voxels: tuple[int, ...], start: tuple[int, ...], extent: tuple[int, ...]
) -> tuple[list[slice], list[slice]]:
    """Finds the overlap of an array and a box that begins at `start`: slices of the array, and of the box."""
    first = [max(0, begin) for begin in start]
    last = [min(size, begin + length) for size, begin, length in zip(shape_voxels, start, extent, strict=True)]
    inside = [slice(a - begin, b - begin) for a, b, begin in zip(first, last, start, strict=True)]
    return list(map(slice, first, last)), inside


def _find_continuations(
    shape_voxels: tuple[int, ...], start: tuple[int, ...], extent: tuple[int, ...], *, border: Borders
) -> dict[int, NDArray[np.intp]]:
    """Finds, for each axis that is continued at the border, the voxel that each voxel of a box shows along it."""
    axes = enumerate(zip(shape_voxels, start, extent, list_borders(border), strict=True))
    return {
        axis: find_border_sources(size, begin, length, border=rule)
        for axis, (size, begin, length, rule) in axes
        if rule != "zeros"
    }
