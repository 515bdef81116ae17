from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import VolumeError
from autoseg.geometry import (
    IDENTITY,
    Grid,
    build_grid_from_affine,
    compute_orientation_code,
    compute_reorientation,
    spans_volume,
)

CODES = ["".join(letters) for axes in permutations((("L", "R"), ("P", "A"), ("I", "S"))) for letters in product(*axes)]
SHAPE = (3, 4, 5)
ARRAY = np.arange(120, dtype=np.int16).reshape(2, *SHAPE)


def make_grid(code: str) -> Grid:
    """An axis-aligned grid whose axes x, y, z grow as `code` says."""
    vectors = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    x, y, z = (tuple(float(value) for value in vectors[letter]) for letter in code)
    return Grid(shape_voxels=SHAPE, spacing_mm=(3.0, 0.7, 0.9), origin_mm=(11.0, -20.0, 30.5), direction=(z, y, x))


def make_oblique_grid() -> Grid:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    direction = tuple(tuple(float(value) for value in row) for row in rotation)
    return replace(make_grid("RAS"), direction=direction)


def compute_positions(grid: Grid) -> np.ndarray:
    """World positions (z, y, x, 3) of all voxels."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape_voxels), indexing="ij"), axis=-1)
    return indices[..., ::-1] @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("code", CODES)
def test_the_code_of_an_aligned_grid_is_that_of_nibabel(code):
    grid = make_grid(code)
    assert grid.orientation_code == code
    assert "".join(nib.aff2axcodes(grid.affine)) == code


@pytest.mark.parametrize("code", CODES)
def test_reorienting_and_back_changes_no_bit(code):
    for wanted in ("RAS", "LPS", "SRA"):
        change = compute_reorientation(code, wanted)
        changed = change.apply(ARRAY)
        np.testing.assert_array_equal(change.inverse.apply(changed), ARRAY)
        assert change.inverse == compute_reorientation(wanted, code)
        assert change.inverse.inverse == change


@pytest.mark.parametrize("code", CODES)
def test_a_reoriented_grid_has_the_same_voxels_at_the_same_places(code):
    for grid in (make_grid("RAS"), make_grid("PIL"), make_oblique_grid()):
        change = compute_reorientation(grid.orientation_code, code)
        changed = change.apply_to_grid(grid)
        assert changed.orientation_code == code
        positions = np.moveaxis(compute_positions(grid), -1, 0)
        np.testing.assert_allclose(np.moveaxis(compute_positions(changed), -1, 0), change.apply(positions), atol=1e-12)
        back = change.inverse.apply_to_grid(changed)
        assert (back.shape_voxels, back.spacing_mm, back.direction) == (
            grid.shape_voxels, grid.spacing_mm, grid.direction,
        )  # fmt: skip
        np.testing.assert_allclose(back.origin_mm, grid.origin_mm, atol=1e-12)


@pytest.mark.parametrize("code", CODES)
def test_arrays_are_turned_as_by_nibabel(code):
    image = nib.Nifti1Image(ARRAY[0].T, make_grid(code).affine)
    expected = nib.as_closest_canonical(image)
    change = compute_reorientation(code, "RAS")
    np.testing.assert_array_equal(change.apply(ARRAY[0]), np.asarray(expected.dataobj).T)
    np.testing.assert_allclose(change.apply_to_grid(make_grid(code)).affine, expected.affine, atol=1e-12)


def test_leading_axes_stay_where_they_are():
    change = compute_reorientation("RAS", "SPL")
    np.testing.assert_array_equal(change.apply(ARRAY)[1], change.apply(ARRAY[1]))


def test_equal_codes_are_the_identity():
    assert compute_reorientation("LPS", "LPS") == IDENTITY
    assert compute_reorientation("LPS", "RPS") != IDENTITY


def test_pictures_stay_pictures():
    picture = Grid(shape_voxels=(1, 4, 5), spacing_mm=(999.0, 1.0, 1.0), is_oriented=False)
    assert not compute_reorientation("RAS", "LPS").apply_to_grid(picture).is_oriented


def test_oblique_grids_have_the_code_of_nibabel():
    random = np.random.default_rng(1)
    for _ in range(50):
        angles = random.uniform(-0.6, 0.6, 3)
        matrix = np.eye(3)
        for axis, angle in enumerate(angles):
            first, second = [other for other in range(3) if other != axis]
            turn = np.eye(3)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        affine = np.eye(4)
        affine[:3, :3] = matrix
        grid = build_grid_from_affine(affine, SHAPE)
        assert grid.orientation_code == "".join(nib.aff2axcodes(affine))


def test_every_direction_gets_its_own_letter_however_oblique():
    random = np.random.default_rng(2)
    for _ in range(200):
        rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
        code = compute_orientation_code(tuple(tuple(float(value) for value in row) for row in rotation))
        assert code in CODES


def test_an_affine_comes_back_from_its_grid():
    for grid in (make_grid("LPI"), make_oblique_grid()):
        rebuilt = build_grid_from_affine(grid.affine, grid.shape_voxels)
        np.testing.assert_allclose(rebuilt.affine, grid.affine, atol=1e-12)
        np.testing.assert_allclose(rebuilt.spacing_mm, grid.spacing_mm, rtol=1e-12)


def test_the_affine_maps_x_y_z():
    np.testing.assert_array_equal(
        make_grid("LAS").affine, [[-0.9, 0, 0, 11], [0, 0.7, 0, -20], [0, 0, 3, 30.5], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize("entry", [0.0, float("nan"), float("inf")])
def test_an_affine_without_sense_is_refused(entry):
    affine = np.eye(4)
    affine[0, 0] = entry
    with pytest.raises(VolumeError, match="must be finite with non-zero columns"):
        build_grid_from_affine(affine, SHAPE)


def test_an_affine_that_flattens_is_refused():
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    with pytest.raises(VolumeError, match="onto a plane"):
        build_grid_from_affine(affine, SHAPE)


@pytest.mark.parametrize("code", ["RAX", "RRS", "RA", "", "ras", "RASL"])
def test_a_code_that_is_none_is_refused(code):
    with pytest.raises(VolumeError, match="orientation code"):
        compute_reorientation("RAS", code)
    with pytest.raises(VolumeError, match="orientation code"):
        compute_reorientation(code, "RAS")


def test_a_grid_describes_itself_in_one_line():
    assert make_grid("LPS").describe() == (
        "3 x 4 x 5 voxels (z, y, x), spacing 3 x 0.7 x 0.9 mm, origin (11, -20, 30.5) mm in RAS, axes LPS"
    )


@pytest.mark.parametrize(
    ("last", "spans"),
    [((1.0, 0.0, 0.0), True), ((0.3, 0.4, 1e-3), True), ((0.0, 0.0, 0.0), False), ((0.0, 3.0, -2.0), False)],
)
def test_vectors_span_a_volume_unless_they_lie_in_a_plane(last, spans):
    assert spans_volume(((0.0, 0.0, 2.0), (0.0, 5.0, 0.0), last)) == spans
    assert bool(abs(np.linalg.det(np.array([(0.0, 0.0, 2.0), (0.0, 5.0, 0.0), last]))) > 1e-6) == spans
