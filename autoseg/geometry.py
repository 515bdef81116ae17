"""Grids, spacing and orientation, which map index space to world space.

Arrays are (z, y, x) with x fastest; world coordinates are millimetres in the NIfTI convention (R, A, S grow to the
right, front, head). An orientation code has one letter per index axis **in the order x, y, z**, as nibabel and
ITK-SNAP print it: "LPS" means that x grows to the left, y to the back and z to the head.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import VolumeError

IntTriple = tuple[int, int, int]
FloatTriple = tuple[float, float, float]
Scalar = TypeVar("Scalar", bound=np.generic)
Direction = tuple[FloatTriple, FloatTriple, FloatTriple]
DistanceUnit = Literal["mm", "pixel"]
"""Unit of lengths: pixels for images whose files have no spacing (PNG, JPEG, plain TIFF)."""

Border = Literal["zeros", "mirror", "replicate"]
"""Content of a patch or window beyond the volume: zeros, the volume mirrored at its outermost voxels, which stand once,
or its nearest voxel."""
Borders = Border | tuple[Border, Border, Border]
"""One rule for all axes of a volume, or one for each."""

WORLD_LETTERS: Final = (("L", "R"), ("P", "A"), ("I", "S"))
PLANAR_SPACING_FACTOR: Final = 999.0
"""Spacing along z of a 2D image, as a multiple of that in plane: so coarse that no rule ever mixes slices."""
PLAUSIBLE_SPACING_MM: Final = (0.01, 50.0)
"""Smallest and largest spacing of anatomy; microscopes and headers in another unit are beyond."""
SINGULAR_DETERMINANT: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Positions of the voxels of a volume in world space.

    Attributes:
        shape_voxels: Extent along z, y, x.
        spacing_mm: Distance of neighbouring voxel centres along z, y, x.
        origin_mm: World position (R, A, S) of the centre of voxel (0, 0, 0).
        direction: Unit vector (R, A, S) of each array axis z, y, x.
        is_oriented: False for pictures without world space (PNG, BMP, ...), which are never reoriented.
        tells_spacing: False if the file has no spacing; `spacing_mm` is then in pixels.
    """

    shape_voxels: IntTriple
    spacing_mm: FloatTriple
    origin_mm: FloatTriple = (0.0, 0.0, 0.0)
    direction: Direction = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    is_oriented: bool = True
    tells_spacing: bool = True

    @property
    def affine(self) -> NDArray[np.float64]:
        """The 4x4 matrix from voxel index (x, y, z, 1) to world (R, A, S, 1), as NIfTI stores it."""
        matrix = np.eye(4)
        columns = [np.asarray(self.direction[axis]) * self.spacing_mm[axis] for axis in (2, 1, 0)]
        matrix[:3, :3] = np.stack(columns, axis=1)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def orientation_code(self) -> str:
        """The closest axis code in the order x, y, z, for example "RAS"."""
        return compute_orientation_code(self.direction)

    def describe(self) -> str:
        """One line for error messages: shape, spacing, origin (which ITK prints in LPS instead) and orientation."""
        if not self.tells_spacing:
            planar = self.shape_voxels[0] == 1
            shape = " x ".join(str(extent) for extent in self.shape_voxels[int(planar) :])
            return f"{shape} pixels ({'y, x' if planar else 'z, y, x'}), no spacing"
        shape = " x ".join(str(extent) for extent in self.shape_voxels)
        spacing = " x ".join(f"{value:.6g}" for value in self.spacing_mm)
        origin = ", ".join(f"{value:.6g}" for value in self.origin_mm)
        return (
            f"{shape} voxels (z, y, x), spacing {spacing} mm, origin ({origin}) mm in RAS, axes {self.orientation_code}"
        )


def remove_planar_depth(shape_voxels: IntTriple, spacing_mm: FloatTriple) -> FloatTriple:
    """Returns the spacing of a volume, in which a 2D image, whose depth is made up, is 1 mm thick."""
    depth, height, width = spacing_mm
    is_planar = shape_voxels[0] == 1 and depth == PLANAR_SPACING_FACTOR * max(height, width)
    return (1.0 if is_planar else depth, height, width)


def spans_volume(direction: Direction) -> bool:
    """Whether three vectors, of any length, do not lie in a plane."""
    lengths = [math.hypot(*vector) for vector in direction]
    if not all(lengths):
        return False
    (az, ay, ax), (bz, by, bx), (cz, cy, cx) = (
        tuple(part / length for part in vector) for vector, length in zip(direction, lengths, strict=True)
    )
    determinant = az * (by * cx - bx * cy) - ay * (bz * cx - bx * cz) + ax * (bz * cy - by * cz)
    return abs(determinant) >= SINGULAR_DETERMINANT


def surround(box: Iterable[slice]) -> tuple[slice, ...]:
    """Adds one voxel around a box, where the array that it lies in has one."""
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)


def find_distance_unit(grids: Iterable[Grid]) -> DistanceUnit:
    """Returns pixels if no grid has a spacing, else millimetres, where a pixel without spacing counts as 1 mm."""
    tells_spacing = [grid.tells_spacing for grid in grids]
    return "pixel" if tells_spacing and not any(tells_spacing) else "mm"


def build_grid_from_affine(affine: NDArray[np.float64], shape_voxels: IntTriple) -> Grid:
    """Splits a 4x4 matrix (x, y, z index to R, A, S world) into spacing, direction and origin.

    Raises:
        VolumeError: The matrix is not finite or maps two axes onto one.
    """
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or (lengths <= 0).any():
        msg = f"the affine must be finite with non-zero columns, found {affine.tolist()}; repair the file's header"
        raise VolumeError(msg)
    units = columns / lengths
    direction = (make_triple(units[:, 2]), make_triple(units[:, 1]), make_triple(units[:, 0]))
    if not spans_volume(direction):
        msg = f"the affine maps the volume onto a plane: {affine.tolist()}; repair the file's header"
        raise VolumeError(msg)
    return Grid(
        shape_voxels=shape_voxels,
        spacing_mm=(float(lengths[2]), float(lengths[1]), float(lengths[0])),
        origin_mm=make_triple(affine[:3, 3]),
        direction=direction,
    )


def compute_orientation_code(direction: Direction) -> str:
    """Assigns each index axis to its own world axis and returns the letters in the order x, y, z.

    Axes are assigned by falling size of their largest component, so that oblique volumes get a valid code; this is the
    rule of nibabel's `io_orientation` for orthogonal axes.
    """
    matrix = np.abs(np.asarray(direction))
    letters = ["", "", ""]
    free = matrix.copy()
    for _ in range(3):
        axis, world = np.unravel_index(int(np.argmax(free)), free.shape)
        letters[axis] = WORLD_LETTERS[world][int(direction[axis][world] > 0)]
        free[axis, :] = -1.0
        free[:, world] = -1.0
    return "".join(reversed(letters))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorientation:
    """An exact change of axes without interpolation: permute, then flip.

    Attributes:
        permutation: Output axis i (of z, y, x) is input axis `permutation[i]`.
        is_flipped: Whether output axis i runs backwards.
    """

    permutation: IntTriple
    is_flipped: tuple[bool, bool, bool]

    @property
    def inverse(self) -> "Reorientation":
        """The inverse change, exact bit for bit."""
        back = tuple(self.permutation.index(axis) for axis in range(3))
        flips = tuple(self.is_flipped[axis] for axis in back)
        return Reorientation(permutation=(back[0], back[1], back[2]), is_flipped=(flips[0], flips[1], flips[2]))

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Returns a view of an array whose last three axes are z, y, x."""
        leading = array.ndim - 3
        axes = (*range(leading), *(leading + axis for axis in self.permutation))
        steps = (*(slice(None) for _ in range(leading)), *(slice(None, None, -1 if f else 1) for f in self.is_flipped))
        return array.transpose(axes)[steps]

    def apply_to_grid(self, grid: Grid) -> Grid:
        """Returns the grid of the reoriented array: the same voxels at the same places in the world."""
        direction = np.asarray(grid.direction)
        origin = np.asarray(grid.origin_mm)
        rows = []
        for axis, flipped in zip(self.permutation, self.is_flipped, strict=True):
            step = direction[axis] * (-1.0 if flipped else 1.0)
            if flipped:
                origin = origin + direction[axis] * grid.spacing_mm[axis] * (grid.shape_voxels[axis] - 1)
            rows.append(make_triple(step))
        first, second, third = self.permutation
        return Grid(
            shape_voxels=(grid.shape_voxels[first], grid.shape_voxels[second], grid.shape_voxels[third]),
            spacing_mm=(grid.spacing_mm[first], grid.spacing_mm[second], grid.spacing_mm[third]),
            origin_mm=make_triple(origin),
            direction=(rows[0], rows[1], rows[2]),
            is_oriented=grid.is_oriented,
            tells_spacing=grid.tells_spacing,
        )


IDENTITY: Final = Reorientation(permutation=(0, 1, 2), is_flipped=(False, False, False))


def compute_reorientation(current_code: str, wanted_code: str) -> Reorientation:
    """Computes the change from axes `current_code` to `wanted_code` (both in the order x, y, z).

    Raises:
        VolumeError: A code does not name each of the three directions once.
    """
    for code in (current_code, wanted_code):
        if sorted(_axis_of_letter(letter)[0] for letter in code) != [0, 1, 2]:
            msg = f"an orientation code names each direction once, for example RAS, found {code!r}"
            raise VolumeError(msg)
    current = [_axis_of_letter(letter) for letter in reversed(current_code)]
    permutation, flips = [], []
    for letter in reversed(wanted_code):
        world, sign = _axis_of_letter(letter)
        source = next(axis for axis, (candidate, _) in enumerate(current) if candidate == world)
        permutation.append(source)
        flips.append(current[source][1] != sign)
    return Reorientation(
        permutation=(permutation[0], permutation[1], permutation[2]), is_flipped=(flips[0], flips[1], flips[2])
    )


def _axis_of_letter(letter: str) -> tuple[int, int]:
    for world, letters in enumerate(WORLD_LETTERS):
        if letter in letters:
            return world, letters.index(letter)
    msg = f"an orientation code has letters of R L A P S I, found {letter!r}"
    raise VolumeError(msg)


def make_triple(values: NDArray[np.float64]) -> FloatTriple:
    """Returns the three numbers of an array."""
    return (float(values[0]), float(values[1]), float(values[2]))


def tabulate_triples(triples: Iterable[FloatTriple | IntTriple]) -> NDArray[np.float64]:
    """Returns triples as rows; they are taken one by one, as tuples of tens of thousands of cases take megabytes."""
    return np.fromiter(chain.from_iterable(triples), np.float64).reshape(-1, 3)


def find_border_sources(extent: int, start: int, length: int, *, border: Border) -> NDArray[np.intp]:
    """Finds, for each voxel along one axis of a box that begins at `start`, the voxel of the volume that it shows.

    Args:
        extent: Extent of the volume along the axis.
        start: First voxel of the box, possibly before the volume begins.
        length: Extent of the box.
        border: Rule for what lies beyond; not "zeros", which shows no voxel.
    """
    assert border != "zeros", "zeros are no voxels of the volume"
    places = np.arange(start, start + length)
    if border == "replicate" or extent == 1:
        return np.clip(places, 0, extent - 1)
    period = 2 * (extent - 1)
    return np.minimum(places % period, -places % period)


def list_borders(border: Borders) -> tuple[Border, Border, Border]:
    """Lists the rules of all axes."""
    return (border, border, border) if isinstance(border, str) else border


def add_slice_axis(extents_voxels: Sequence[int], along_slices: int) -> IntTriple:
    """Returns three values, of which that of a 2D configuration across its slices is given."""
    z, y, x = extents_voxels if len(extents_voxels) == 3 else (along_slices, *extents_voxels)
    return z, y, x


def list_plane_order(axis: int) -> IntTriple:
    """Lists the axes of a volume in the order in which its planes across one of them are seen: that axis, then the
    others in cyclic order, so that the planes of a volume whose axes are moved on by one are those of the volume."""
    return axis, (axis + 1) % 3, (axis + 2) % 3


def locate_centre(extents_voxels: Sequence[int], inner_voxels: Sequence[int]) -> tuple[slice, ...]:
    """Returns the slices of a box in the middle of another; where they cannot be equal, less is left in front."""
    starts = [(outer - inner) // 2 for outer, inner in zip(extents_voxels, inner_voxels, strict=True)]
    return tuple(slice(start, start + inner) for start, inner in zip(starts, inner_voxels, strict=True))
