import pytest

from planners.rules.topology import choose_deep_supervision, compute_topology, explain_topology


def test_isotropic_data_are_halved_alike_until_every_edge_is_shorter_than_eight() -> None:
    topology = compute_topology((1.0, 1.0, 1.0), (40, 56, 40))
    assert topology.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert topology.kernel_sizes == ((3, 3, 3),) * 4
    assert topology.patch_voxels == (40, 56, 40)
    assert topology.bottleneck_voxels == (5, 7, 5)
    assert "every axis of the bottleneck (5 x 7 x 5 voxels) is shorter than 8" in _explain(topology, (1.0, 1.0, 1.0))


def test_coarse_axes_wait_until_the_fine_ones_have_caught_up() -> None:
    topology = compute_topology((10.0, 1.4, 1.4), (10, 256, 216))
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4)
    assert topology.patch_voxels == (10, 256, 224)
    because = _explain(topology, (10.0, 1.4, 1.4))
    assert "at 10 x 1.4 x 1.4 mm the kernels of the first 2 stages are 1 along axes" in because


def test_a_spacing_of_exactly_twice_the_finest_waits_one_stage() -> None:
    topology = compute_topology((2.0, 1.0), (32, 64))
    assert topology.strides[1] == (1, 2)
    assert topology.kernel_sizes[0] == (1, 3)
    assert compute_topology((1.99, 1.0), (32, 64)).strides[1] == (2, 2)


@pytest.mark.parametrize(
    ("extents", "stages"), [((7, 7), 1), ((8, 8), 2), ((8, 4), 1), ((11, 4), 1), ((12, 4), 2), ((16, 16), 3)]
)
def test_an_axis_is_halved_from_eight_voxels_on_and_alone_from_twelve_on(extents, stages) -> None:
    assert compute_topology((1.0, 1.0), extents).stage_count == stages


def test_the_reason_says_when_a_lone_axis_ended_the_pooling() -> None:
    topology = compute_topology((1.0, 1.0), (44, 16))
    because = _explain(topology, (1.0, 1.0))
    assert "a single axis of the bottleneck (11 x 4 voxels) qualifies" in because
    assert "from 12 voxels on" in because
    assert "kernels" not in because


def test_kernels_once_widened_stay_wide() -> None:
    # The short axis is never halved, so it becomes the finest; the others keep their kernels of 3 all the same.
    topology = compute_topology((1.0, 1.0, 1.0), (5, 64, 64))
    assert topology.strides[1:] == ((1, 2, 2),) * 4
    assert topology.kernel_sizes == ((3, 3, 3),) * 5


def test_the_patch_is_rounded_up_to_the_strides_from_fractions_too() -> None:
    topology = compute_topology((1.0, 1.0), (40.5, 17))
    assert topology.divisors == (4, 4)
    assert topology.patch_voxels == (44, 20)


@pytest.mark.parametrize(
    ("extents", "expected", "sentence"),
    [
        ((64, 64), True, "5 stages give 4 decoder outputs, all but the lowest"),
        ((16, 16), True, "3 stages give 2 decoder outputs, all but the lowest"),
        ((8, 8), False, "2 stages give 1 decoder output, and the lowest has no weight in the loss"),
    ],
)
def test_deep_supervision_needs_three_stages(extents, expected, sentence) -> None:
    decision = choose_deep_supervision(compute_topology((1.0, 1.0), extents))
    assert decision.value is expected
    assert sentence in decision.because


def _explain(topology, spacing_mm) -> str:
    return explain_topology(topology, spacing_mm).because
