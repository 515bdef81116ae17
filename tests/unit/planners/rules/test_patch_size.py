import pytest

from autoseg.errors import PlanError
from planners.default import DEFAULT
from planners.residual import RESIDUAL_M
from planners.rules.median_shape import ResampledDataset
from planners.rules.memory import compute_budget, estimate_feature_map_elements
from planners.rules.patch_size import choose_patch_size, compute_initial_patch


@pytest.mark.parametrize(
    ("spacing_mm", "median", "expected"),
    [
        ((1.0, 1.0, 1.0), (512.0, 512.0, 512.0), (256, 256, 256)),
        ((1.0, 1.0), (4000.0, 4000.0), (2048, 2048)),
        ((4.0, 1.0, 1.0), (999.0, 999.0, 999.0), (102, 406, 406)),
        ((1.0, 1.0, 1.0), (40.5, 300.0, 100.0), (40.5, 256, 100.0)),
        ((1e8, 1.0), (16.0, 512.0), (1, 512.0)),  # isotropic would be less than half a voxel
    ],
)
def test_the_search_starts_with_a_patch_isotropic_in_millimetres(spacing_mm, median, expected) -> None:
    assert compute_initial_patch(_build_dataset(spacing_mm, median)) == expected


def test_a_patch_that_fits_is_kept() -> None:
    decision = _choose((1.0, 1.0, 1.0), (40.0, 56.0, 40.0))
    assert decision.value.patch_voxels == (40, 56, 40)
    assert "starts at 40 x 56 x 40" in decision.because
    assert "and fits as it is: an estimated 19,174,400 feature map" in decision.because
    assert "the limit is 560,000,000 at batch size 2" in decision.because


def test_a_patch_that_does_not_fit_is_reduced_and_the_reason_tells_the_way() -> None:
    decision = _choose((1.0, 0.8, 0.8), (450.0, 512.0, 512.0))
    assert decision.value.patch_voxels == (128, 128, 128)
    assert "starts at 224 x 320 x 320" in decision.because
    assert "cut to the median case of 450 x 512 x 512 voxels" in decision.because
    assert "to 128 x 128 x 128: an estimated 452,796,416 feature map elements" in decision.because


def test_of_axes_with_equal_shares_the_last_is_shortened_first() -> None:
    decision = _choose((1.0, 1.0, 1.0), (256.0, 256.0, 256.0), memory_gb=50)
    assert decision.value.patch_voxels == (256, 256, 224)
    assert "in 1 step to 256 x 256 x 224" in decision.because


def test_plain_networks_of_two_dimensions_get_six_times_the_patch_of_residual_ones() -> None:
    spacing_mm, median = (1.0, 1.0), (1024.0, 768.0)
    assert _choose(spacing_mm, median).value.patch_voxels == (1024, 768)
    assert _choose(spacing_mm, median, planner=RESIDUAL_M).value.patch_voxels == (576, 448)


def test_an_axis_of_one_voxel_is_never_shortened() -> None:
    decision = _choose((1.0, 1.0, 1.0), (512.0, 1.0, 512.0), memory_gb=0.1)
    assert decision.value.patch_voxels[1] == 1


def test_too_little_memory_is_an_error_that_names_the_smallest_patch() -> None:
    with pytest.raises(PlanError, match=r"(?s)no network with two resolutions.*patch of .* voxels has an estimated"):
        _choose((1.0, 1.0, 1.0), (64.0, 64.0, 64.0), memory_gb=0.0001)


def _build_dataset(spacing_mm, median) -> ResampledDataset:
    return ResampledDataset(spacing_mm=spacing_mm, median_shape_voxels=median, voxel_count=1e9)


def _choose(spacing_mm, median, *, planner=DEFAULT, memory_gb=8):
    profile = planner.profile
    budget = compute_budget(
        profile.calibration,
        memory_gb=memory_gb,
        dimensions=len(spacing_mm),
        patch_must_fit=profile.patch_must_fit,
    )

    def estimate(topology):
        network, _ = profile.choose_network(topology, input_channels=1, output_channels=3)
        return estimate_feature_map_elements(network, topology, declared_label_count=3)

    return choose_patch_size(_build_dataset(spacing_mm, median), budget=budget, estimate=estimate)
