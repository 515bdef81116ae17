import pytest

from autoseg.plan.network.contexts import ContextPlan, DilatedPyramidPlan, MultiKernelPoolingPlan, NonLocalPlan
from planners.rules.contexts import fit_contexts

ASPP = DilatedPyramidPlan(channels=256, dilations=(6, 12, 18))
RMP = MultiKernelPoolingPlan(kernels=(2, 3, 5, 6))


@pytest.mark.parametrize(
    ("bottleneck", "dilations", "because"),
    [
        ((33, 33), (6, 12, 18), "6, 12, 18 in 33 voxels are 6, 12, 18 in a bottleneck of 33 x 33 voxels"),
        ((66, 20), (6, 12, 18), "6, 12, 18 in 33 voxels are 6, 12, 18 in a bottleneck of 66 x 20 voxels"),
        ((4, 16, 16), (3, 6, 9), "6, 12, 18 in 33 voxels are 3, 6, 9 in a bottleneck of 4 x 16 x 16 voxels"),
        (
            (4, 5),
            (1, 2, 3),
            "6, 12, 18 in 33 voxels are 1, 2, 3 in a bottleneck of 4 x 5 voxels",
        ),
        (
            (2, 2),
            (1,),
            "6, 12, 18 in 33 voxels are 0, 1, 1 in a bottleneck of 2 x 2 voxels; 2 of them equal another, or have only "
            "the centre of their kernel in it",
        ),
    ],
)
def test_rates_of_dilation_are_scaled_to_the_bottleneck(bottleneck, dilations, because):
    (context,), (reason,) = fit_contexts((ASPP,), bottleneck, 320)
    assert context == DilatedPyramidPlan(channels=256, dilations=dilations)
    assert (reason.subject, reason.because) == ("context", because)
    assert reason.value == f"aspp, dilations {', '.join(map(str, dilations))}"


def test_a_bottleneck_of_one_voxel_leaves_no_dilated_convolution():
    (context,), (reason,) = fit_contexts((ASPP,), (1, 1), 320)
    assert isinstance(context, DilatedPyramidPlan)
    assert (context.dilations, reason.value) == ((), "aspp, dilations none")


def test_branches_of_a_dilated_pyramid_are_no_wider_than_the_bottleneck():
    (context,), _ = fit_contexts((ASPP,), (33, 33), 64)
    assert isinstance(context, DilatedPyramidPlan)
    assert context.channels == 64


@pytest.mark.parametrize(
    ("bottleneck", "kernels", "because"),
    [
        ((6, 6), (2, 3, 5, 6), "all fit into the bottleneck of 6 x 6 voxels"),
        ((4, 4, 5), (2, 3, 5), "the bottleneck of 4 x 4 x 5 voxels is smaller than 6"),
    ],
)
def test_blocks_that_are_larger_than_the_bottleneck_are_dropped(bottleneck, kernels, because):
    (context,), (reason,) = fit_contexts((RMP,), bottleneck, 320)
    assert context == MultiKernelPoolingPlan(kernels=kernels)
    assert reason.because == because
    assert reason.value == f"rmp, blocks of {', '.join(map(str, kernels))}"


def test_contexts_without_such_parameters_stay_as_they_are():
    contexts: tuple[ContextPlan, ...] = (NonLocalPlan(heads=2, tokens_limit=2048),)
    assert fit_contexts(contexts, (4, 4), 8) == (contexts, ())
