import pytest

from autoseg.fingerprint import Machine
from planners import PLANNERS
from planners.default import DEFAULT
from planners.residual import RESIDUAL_L, RESIDUAL_M
from planners.rules.memory import choose_memory_target, compute_budget, estimate_feature_map_elements
from planners.rules.topology import Topology, compute_topology


def estimate(planner, topology, labels):
    network, _ = planner.profile.choose_network(topology, input_channels=1, output_channels=labels)
    return estimate_feature_map_elements(network, topology, declared_label_count=labels)


def limit(profile, memory_gb, dimensions):
    return compute_budget(
        profile.calibration, memory_gb=memory_gb, dimensions=dimensions, patch_must_fit=profile.patch_must_fit
    )


@pytest.mark.parametrize(
    ("planner", "topology", "expected"),
    [
        (DEFAULT, compute_topology((1.0, 1.0, 1.0), (128, 128, 128)), 452_796_416),
        (RESIDUAL_M, compute_topology((1.0, 1.0, 1.0), (128, 128, 128)), 557_420_544),
        (
            RESIDUAL_M,
            Topology(  # one stage fewer than the topology rule gives
                patch_voxels=(512, 512),
                strides=((1, 1), *((2, 2),) * 6),
                kernel_sizes=((3, 3),) * 7,
                divisors=(64, 64),
            ),
            129_531_904,
        ),
    ],
    ids=["plain-3d", "residual-3d", "residual-2d"],
)
def test_the_estimate_has_the_check_values_of_the_reference(planner, topology, expected) -> None:
    assert estimate(planner, topology, 3) == expected


def test_the_estimate_can_be_counted_by_hand() -> None:
    topology = compute_topology((1.0, 1.0), (8, 8))
    voxels, halved = 64, 16
    plain = 2 * 32 * voxels + 2 * 64 * halved + 3 * 32 * voxels + 5 * voxels
    assert estimate(DEFAULT, topology, 5) == plain
    stem, encoder, shortcut = 32 * voxels, 2 * 1 * 32 * voxels + 2 * 3 * 64 * halved, 64 * halved
    residual = stem + encoder + shortcut + 2 * 32 * voxels + 5 * voxels
    assert estimate(RESIDUAL_M, topology, 5) == residual


@pytest.mark.parametrize(
    ("planner", "reference_gb", "elements_3d", "elements_2d"),
    [
        ("default", 8, 560e6, 85e6),
        ("residual-m", 8, 680e6, 135e6),
        ("residual-l", 24, 2100e6, 380e6),
        ("residual-xl", 40, 3600e6, 560e6),
    ],
)
def test_every_planner_has_its_own_reference_memory(planner, reference_gb, elements_3d, elements_2d) -> None:
    profile = PLANNERS[planner].profile
    target = choose_memory_target(profile.memory_gb, profile.calibration, Machine(accelerator_memory_gb=None))
    assert target.value == reference_gb
    assert f"own reference of {reference_gb} GB" in target.because
    for dimensions, expected in ((3, elements_3d), (2, elements_2d)):
        assert limit(profile, target.value, dimensions).elements_per_sample == expected


def test_stated_memory_scales_the_limit_linearly() -> None:
    profile = RESIDUAL_L.profile
    target = choose_memory_target(profile.memory_gb, profile.calibration, Machine(accelerator_memory_gb=12))
    assert target.value == 12
    assert target.because == ("12 GB were stated; the feature map limits, calibrated for 24 GB, are multiplied by 0.5")
    assert limit(profile, 12, 3).elements_per_sample == 1050e6


@pytest.mark.parametrize(
    ("planner", "dimensions", "expected"),
    [
        (DEFAULT, 3, 560_000_000),
        (DEFAULT, 2, 510_000_000),  # a batch of 2 may use what the reference batch of 12 uses
        (RESIDUAL_M, 3, 680_000_000),
        (RESIDUAL_M, 2, 135_000_000),
    ],
)
def test_the_patch_limit_depends_on_the_batch_that_must_fit(planner, dimensions, expected) -> None:
    budget = limit(planner.profile, 8, dimensions)
    assert budget.patch_limit_elements == expected
    assert not budget.is_exceeded_by(expected)
    assert budget.is_exceeded_by(expected + 1)
