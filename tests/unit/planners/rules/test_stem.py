import pytest

from planners.rules.stem import divide_topology, format_strides
from planners.rules.topology import Topology

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1))
KERNELS = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
TOPOLOGY = Topology(patch_voxels=(16, 64, 64), strides=STRIDES, kernel_sizes=KERNELS, divisors=(4, 8, 4))


@pytest.mark.parametrize(("layers", "fewest", "count"), [(2, 1, 2), (0, 1, 0), (9, 1, 3), (9, 2, 2), (1, 9, 0)])
def test_the_first_strides_are_those_of_the_stem_as_far_as_stages_are_left(layers, fewest, count):
    decision = divide_topology(TOPOLOGY, layers, fewest_stages=fewest)
    divided = decision.value
    assert decision.because == f"the stem has {count} of 3 reductions of the topology"
    assert divided.stem_strides == STRIDES[1 : count + 1]
    assert divided.stem_kernels == KERNELS[:count]
    assert divided.strides == ((1, 1, 1), *STRIDES[count + 1 :])
    assert divided.kernel_sizes == KERNELS[count:]


def test_low_resolutions_are_left_out_where_fewer_stages_are_wanted():
    decision = divide_topology(TOPOLOGY, 1, most_stages=2)
    assert decision.value.strides == ((1, 1, 1), STRIDES[2])
    assert decision.value.kernel_sizes == KERNELS[1:3]
    assert decision.because == (
        "the stem has 1 of 3 reductions of the topology; the lowest 1 left out, as at most 2 stages follow"
    )


def test_strides_are_written_per_layer():
    assert format_strides(((1, 2, 2), (2, 2, 2))) == "1 x 2 x 2, 2 x 2 x 2"
    assert format_strides(()) == "none"
