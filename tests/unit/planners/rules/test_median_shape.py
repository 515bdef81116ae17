from builders.fingerprints import build_case

from planners.rules.median_shape import ResampledDataset, compute_resampled_dataset


def test_shapes_are_resampled_rounded_half_to_even_and_permuted() -> None:
    cases = (build_case((1.0, 0.5, 2.0), (5, 5, 10)), build_case((1.0, 0.5, 2.0), (7, 7, 20)))
    dataset = compute_resampled_dataset(cases, target_spacing_mm=(1.0, 1.0, 4.0), axis_permutation=(2, 0, 1))
    # y: 2.5 -> 2 and 3.5 -> 4; medians: z 6, y 3, x 7.5
    assert dataset == ResampledDataset(
        spacing_mm=(4.0, 1.0, 1.0), median_shape_voxels=(7.5, 6.0, 3.0), voxel_count=7.5 * 6 * 3 * 2
    )


def test_no_case_is_resampled_to_nothing() -> None:
    cases = (build_case((0.1, 1.0, 1.0), (1, 8, 8)),)
    dataset = compute_resampled_dataset(cases, target_spacing_mm=(5.0, 1.0, 1.0), axis_permutation=(0, 1, 2))
    assert dataset.median_shape_voxels == (1.0, 8.0, 8.0)


def test_the_plane_keeps_the_voxels_of_the_whole_dataset() -> None:
    dataset = ResampledDataset(spacing_mm=(5.0, 1.0, 2.0), median_shape_voxels=(7.5, 6.0, 3.0), voxel_count=270.0)
    assert dataset.in_plane == ResampledDataset(
        spacing_mm=(1.0, 2.0), median_shape_voxels=(6.0, 3.0), voxel_count=270.0
    )


def test_the_quotient_is_taken_before_the_product() -> None:
    # 0.05 / 0.1 * 29 is 14.5 and rounds to 14; 0.05 * 29 / 0.1 would be 14.500000000000002 and round to 15.
    dataset = compute_resampled_dataset(
        (build_case((0.05, 1.0, 1.0), (29, 9, 9)),),
        target_spacing_mm=(0.1, 1.0, 1.0),
        axis_permutation=(0, 1, 2),
    )
    assert dataset.median_shape_voxels[0] == 14
