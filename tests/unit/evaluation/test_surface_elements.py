import math

import numpy as np
import pytest
from surface_distance import lookup_tables

from autoseg.evaluation.surface_elements import compute_areas, compute_codes

PUBLIC_TABLES = {
    2: (lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL, lookup_tables.create_table_neighbour_code_to_contour_length),
    3: (lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL, lookup_tables.create_table_neighbour_code_to_surface_area),
}


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (3.0, 0.4), (1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.3, 2.0, 1.1)])
def test_every_code_has_the_area_of_the_public_table(spacing_mm: tuple[float, ...]) -> None:
    kernel, create_table = PUBLIC_TABLES[len(spacing_mm)]
    theirs, ours = create_table(spacing_mm), compute_areas(spacing_mm)
    assert len(ours) == len(theirs)
    for code in range(len(ours)):
        inside = [
            voxel
            for voxel in np.ndindex(kernel.shape)
            if code >> sum(step << axis for axis, step in enumerate(voxel)) & 1
        ]
        their_code = sum(int(kernel[voxel]) for voxel in inside)
        assert ours[code] == pytest.approx(theirs[their_code], rel=1e-12), inside


@pytest.mark.parametrize("dimensions", [2, 3])
def test_inside_and_outside_have_the_same_surface(dimensions: int) -> None:
    areas = compute_areas((2.0, 0.5, 1.5)[:dimensions])
    np.testing.assert_array_equal(areas, areas[::-1])
    assert np.flatnonzero(areas == 0).tolist() == [0, len(areas) - 1]


def test_a_single_voxel_is_enclosed_by_an_octahedron() -> None:
    mask = np.ones((1, 1, 1), dtype=bool)
    codes = compute_codes(mask)
    assert sorted(codes.ravel().tolist()) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert compute_areas((1.0, 1.0, 1.0))[codes].sum() == pytest.approx(math.sqrt(3))


def test_the_sides_of_a_box_weigh_by_their_spacing() -> None:
    codes = compute_codes(np.ones((11, 21, 31), dtype=bool))
    areas = compute_areas((4.0, 2.0, 1.0))[codes]
    middles = (areas[0, 10, 15], areas[5, 0, 15], areas[5, 10, 0])
    assert middles == pytest.approx((2.0, 4.0, 8.0))


def test_a_square_has_a_contour_with_cut_corners() -> None:
    codes = compute_codes(np.ones((4, 4), dtype=bool))
    assert compute_areas((1.0, 1.0))[codes].sum() == pytest.approx(4 * 3 + 4 * math.sqrt(0.5))
