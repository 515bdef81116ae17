from autoseg.plan.network.dilated import LowLevelHeadPlan
from planners.architectures.contexts import ASPP
from planners.architectures.dilated import (
    DEEPLAB_V3_PLUS,
    choose_output_extents,
    fit_head,
    scale_head,
    widen_stem_kernels,
)
from planners.rules.stem import divide_topology
from planners.rules.topology import compute_topology

TOPOLOGY = compute_topology((5.0, 1.0, 1.0), (16, 128, 128))


def choose(width: int | None = None):
    return DEEPLAB_V3_PLUS.choose_network(TOPOLOGY, input_channels=1, output_channels=2, width=width)


def test_the_stem_takes_the_first_strides_with_wide_kernels_where_kernels_are_wide():
    stem = divide_topology(TOPOLOGY, 2).value
    assert stem.stem_strides == ((1, 2, 2), (1, 2, 2))
    assert widen_stem_kernels(stem) == ((1, 7, 7), (1, 3, 3))


def test_every_decision_is_explained():
    network, reasons = choose()
    assert [reason.subject for reason in reasons] == ["features", "stem", "output stride", "context"]
    assert reasons[2].because == (
        "as published; the last stage has 4 x 8 x 8 voxels where strides of 4 x 32 x 32 would leave 4 x 4 x 4"
    )
    assert network.patch_divisors == (4, 16, 16)


def test_channels_of_the_head_follow_the_width():
    network, _ = choose(width=16)
    assert network.stem_features == 32
    assert network.features_per_stage[0] == 128
    assert network.head.context.channels == network.head.channels == 128
    assert network.head.low_level_channels == 24


def test_the_rates_of_the_head_fit_the_last_stage():
    network, _ = choose()
    assert choose_output_extents(TOPOLOGY, network).value == (4, 8, 8)
    assert network.head.context.dilations == (1, 3, 4)
    head = LowLevelHeadPlan(context=ASPP, low_level_channels=48, channels=256)
    assert fit_head(head, (33, 33), network)[0] == head
    assert scale_head(head, 64) == head
