import pytest

from planners import ARCHITECTURES
from planners.architectures.parallel import ParallelProfile
from planners.rules.topology import compute_topology

TOPOLOGY = compute_topology((5.0, 1.0, 1.0), (16, 128, 128))


@pytest.mark.parametrize(
    ("stem_stages", "stem_strides", "divisors"),
    [
        (2, ((1, 2, 2), (1, 2, 2)), (4, 32, 32)),
        (0, ((1, 1, 1), (1, 1, 1)), (2, 8, 8)),
    ],
)
def test_the_stem_takes_the_first_strides_or_none(stem_stages, stem_strides, divisors):
    profile = ParallelProfile(head="v2", stem_stages=stem_stages)
    network, reasons = profile(TOPOLOGY, input_channels=1, output_channels=2)
    assert network.stem_strides == stem_strides
    assert network.stem_kernel_sizes == ((1, 3, 3), (1, 3, 3))
    assert network.patch_divisors == divisors
    assert network.modules_per_stage == (1, 4, 3)
    assert [reason.subject for reason in reasons] == ["features", "stem"]


def test_two_branches_are_left_where_the_topology_has_few_strides():
    topology = compute_topology((1.0, 1.0), (16, 16))
    network, _ = ARCHITECTURES["hrnet_v1"].choose_network(topology, input_channels=1, output_channels=2)
    assert topology.stage_count == 3
    assert network.stem_strides == ((2, 2), (1, 1))
    assert network.strides == ((1, 1), (2, 2))


def test_the_stem_follows_the_width():
    network, _ = ARCHITECTURES["hrnet_v2"].choose_network(TOPOLOGY, input_channels=1, output_channels=2, width=16)
    assert (network.stem_features, network.features_per_stage[0]) == (32, 16)
