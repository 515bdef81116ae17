"""Arranges slices or frames of DICOM by their positions, and checks that they are a volume."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from autoseg.errors import VolumeError

# Positions and directions are decimal text, of which some scanners write one to three digits after the point.
SAME_POSITION_MM: Final = 0.01
ORIENTATION_TOLERANCE: Final = 1e-3
VECTOR_TOLERANCE: Final = 0.05  # of lengths and of the cosine of a right angle: vectors may be rounded to one digit
ROUNDED_SPACING: Final = 1e-4  # by so much, relatively, spacings differ that were rounded to three digits or more
STEP_TOLERANCE: Final = 0.1  # of the distance of slices: a missing slice is off by half of it or more
TILT_TOLERANCE_PIXELS: Final = 0.5  # over the whole stack

NameSlices = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceOrder:
    """Slices along their normal.

    Attributes:
        indices: Index of the slice at every z.
        step_mm: Distance of neighbouring slices.
    """

    indices: tuple[int, ...]
    step_mm: float


def parse_numbers(text: str, name: str, count: int) -> Float64[np.ndarray, " number"] | None:
    """Parses decimal strings; None if there are none.

    Raises:
        ValueError: They are not so many finite numbers.
    """
    if not text:
        return None
    values = np.array([float(part) for part in text.split("\\")])
    if values.shape != (count,) or not np.isfinite(values).all():
        msg = f"expected {count} finite numbers for {name}, found {text!r}"
        raise ValueError(msg)
    return values


def explain_orientation(orientation: Sequence[float] | Float64[np.ndarray, "6"]) -> str | None:
    """Explains that vectors along rows and along columns are none, or not at right angles; None if they are."""
    vectors = np.reshape(orientation, (2, 3)).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    is_valid = np.abs([*(lengths - 1), vectors[0] @ vectors[1]]).max() <= VECTOR_TOLERANCE
    if is_valid:
        return None
    found = "\\".join(f"{value:g}" for value in orientation)
    return (
        f"expected two vectors of length 1 at right angles for ImageOrientationPatient, found {found}; export the "
        f"series again, or correct the headers in a copy"
    )


def explain_spacing(spacing_mm_yx: Sequence[float] | Float64[np.ndarray, "2"]) -> str | None:
    """Explains that a pixel spacing is not positive; None if it is."""
    if min(spacing_mm_yx) > 0:
        return None
    found = "\\".join(f"{value:g}" for value in spacing_mm_yx)
    return (
        f"expected two positive distances in mm for PixelSpacing, found {found}; export the series "
        f"again, or correct the headers in a copy"
    )


def compute_normal(orientation: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "3"]:
    """Returns the unit vector across a plane, from those along its rows and columns."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def arrange_slices(
    positions_mm: Float64[np.ndarray, "slice 3"],
    normal: Float64[np.ndarray, "3"],
    *,
    pixel_mm: float,
    name: NameSlices,
) -> SliceOrder:
    """Sorts slices along a normal, by the positions of their first voxels.

    Args:
        positions_mm: Position of every slice.
        normal: Unit vector across all of them.
        pixel_mm: Smaller distance of their rows and columns.
        name: Names slices in messages, from their indices.

    Raises:
        VolumeError: Several images lie at one position, or the slices are shifted against each other, or do not have
            equal distances.
    """
    distances = positions_mm @ normal
    order = np.argsort(distances, kind="stable")
    _check_single_images(distances[order])
    tilt = _explain_tilt(positions_mm[order], normal, pixel_mm=pixel_mm)
    if tilt is not None:
        raise VolumeError(tilt)
    indices = tuple(order.tolist())
    return SliceOrder(indices=indices, step_mm=_check_steps(distances[order], indices, name))


def _check_single_images(distances: Float64[np.ndarray, " slice"]) -> None:
    places = 1 + int(np.count_nonzero(np.diff(distances) > SAME_POSITION_MM))
    if places < len(distances):
        msg = (
            f"expected one image at every position, found {len(distances)} images at {places} positions (several "
            f"times, echoes, phases or reconstructions in one series); export each as a series of its own"
        )
        raise VolumeError(msg)


def _explain_tilt(
    positions_mm: Float64[np.ndarray, "slice 3"], normal: Float64[np.ndarray, "3"], *, pixel_mm: float
) -> str | None:
    """Explains that slices in their order along a line are shifted against each other; None if they are not."""
    along = positions_mm[-1] - positions_mm[0]
    aside_mm = float(np.linalg.norm(along - (along @ normal) * normal))
    if aside_mm <= TILT_TOLERANCE_PIXELS * pixel_mm:
        return None
    degrees = np.degrees(np.arctan2(aside_mm, abs(along @ normal)))
    return (
        f"expected slices exactly above each other, found each shifted against the last, as with a gantry that is "
        f"tilted by {degrees:.1f} degrees ({aside_mm:.1f} mm over the whole stack); resample it to upright slices "
        f"first, for example with dcm2niix"
    )


def _check_steps(distances: Float64[np.ndarray, " slice"], indices: Sequence[int], name: NameSlices) -> float:
    """Returns the distance of neighbouring slices, checked to be the same for all of them."""
    steps = np.diff(distances)
    step_mm = float(distances[-1] - distances[0]) / len(steps)
    expected = distances[0] + np.arange(len(distances)) * step_mm
    if np.abs(distances - expected).max() <= STEP_TOLERANCE * step_mm:
        return step_mm
    usual_mm = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual_mm) > STEP_TOLERANCE * usual_mm)
    widest = int(odd[np.argmax(steps[odd])]) if len(odd) else int(np.argmax(steps))
    msg = (
        f"expected slices every {usual_mm:.3g} mm, found {len(odd)} other distances, such as {steps[widest]:.3g} mm "
        f"between {name(indices[widest : widest + 2])}: slices are missing, or of another series; copy the series "
        f"again, or resample it to equal distances"
    )
    raise VolumeError(msg)
