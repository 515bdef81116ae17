import pytest

from planners.rules.stem import divide_topology, format_strides
from planners.rules.topology import Topology

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1))
KERNELS = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
TOPOLOGY = Topology(patch_voxels=(16, 64, 64), strides=STRIDES, kernel_sizes=KERNELS, divisors=(4, 8, 4))


@pytest.mark.parametrize(
    ("layers", "stages", "count", "because"),
    [
        (2, 1, 2, "the first 2 of 3 reductions of the topology belong to the stem"),
        (0, 1, 0, "none of 3 reductions of the topology belongs to the stem"),
        (9, 1, 3, "the first 3 of 3 reductions of the topology belong to the stem"),
        (9, 2, 2, "the first 2 of 3 reductions of the topology belong to the stem"),
        (1, 9, 0, "none of 3 reductions of the topology belongs to the stem"),
    ],
)
def test_the_first_strides_are_those_of_the_stem_as_far_as_stages_are_left(layers, stages, count, because):
    decision = divide_topology(TOPOLOGY, layers, stages=stages)
    divided = decision.value
    assert decision.because == because
    assert divided.stem_strides == STRIDES[1 : count + 1]
    assert divided.stem_kernels == KERNELS[:count]
    assert divided.strides == ((1, 1, 1), *STRIDES[count + 1 :])
    assert divided.kernel_sizes == KERNELS[count:]


def test_strides_are_written_per_layer():
    assert format_strides(((1, 2, 2), (2, 2, 2))) == "1 x 2 x 2, 2 x 2 x 2"
    assert format_strides(()) == "none"
