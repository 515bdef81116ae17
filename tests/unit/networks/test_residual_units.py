"""What holds for residual units, and for the enlargement of their kernels."""

from typing import Any

import pytest
import torch
from builders.networks import MEDNEXT

from autoseg.errors import RunError
from autoseg.networks import build_network
from autoseg.networks.initialization import enlarge_kernels
from autoseg.networks.parts.additive_u import RESIDUAL_UNITS, build_unit
from autoseg.networks.parts.additive_u.mednext import ResponseNormalization
from autoseg.networks.parts.additive_u.unit import Step, UnitSite
from autoseg.plan.network.additive_u import RESIDUAL_UNIT_PLANS, MedNeXtUnitPlan, PreActivationUnitPlan
from autoseg.plan.network.layers import LayerPlan

MEDNEXT_UNIT = MedNeXtUnitPlan(expansion_ratios=(2, 3), response_normalization=False)
PRE_ACTIVATION_UNIT = PreActivationUnitPlan(upsampling="transposed")


def locate(step: Step, **changes: Any) -> UnitSite:
    fields: dict[str, Any] = {
        "step": step,
        "channels_in": 4,
        "channels_out": 4,
        "stage": 1,
        "kernel": (3, 3),
        "stride": (1, 1) if step == "none" else (2, 1),
        "layers": LayerPlan(normalization="instance", activation="relu"),
    }
    return UnitSite(**{**fields, **changes})


def test_every_planned_unit_is_built() -> None:
    assert RESIDUAL_UNITS
    assert set(RESIDUAL_UNITS) == set(RESIDUAL_UNIT_PLANS)


@pytest.mark.parametrize("plan", [MEDNEXT_UNIT, PRE_ACTIVATION_UNIT], ids=["mednext", "pre_activation"])
def test_a_unit_whose_last_weights_are_zero_is_the_identity(plan: Any) -> None:
    unit = build_unit(plan, locate("none"))
    last = unit.compression if plan is MEDNEXT_UNIT else unit.second.convolution
    for parameter in last.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(2, 4, 6, 5)
    assert torch.equal(unit(features), features)


@pytest.mark.parametrize("plan", [MEDNEXT_UNIT, PRE_ACTIVATION_UNIT], ids=["mednext", "pre_activation"])
def test_a_step_up_is_centred_where_the_step_down_was(plan: Any) -> None:
    """A voxel of the lower resolution reaches those around the one at which it was computed."""
    kernel = build_unit(plan, locate("higher"))
    convolution = getattr(kernel, "depthwise", kernel)
    torch.nn.init.ones_(convolution.weight)
    if convolution.bias is not None:
        torch.nn.init.zeros_(convolution.bias)
    below = torch.zeros(1, 4, 4, 5)
    below[:, :, 2, 2] = 1
    above = convolution(below)
    assert above.shape == (1, 4, 8, 5)
    assert above[0, 0].nonzero().float().mean(dim=0).tolist() == [4, 2]


def test_the_channels_of_a_mednext_unit_are_expanded_by_the_ratio_of_its_stage() -> None:
    assert build_unit(MEDNEXT_UNIT, locate("none", stage=0)).expansion.out_channels == 8
    assert build_unit(MEDNEXT_UNIT, locate("none", stage=1)).expansion.out_channels == 12


def test_a_unit_without_normalization_leaves_its_input_to_others() -> None:
    unit = build_unit(PRE_ACTIVATION_UNIT, locate("none", layers=LayerPlan(normalization="none", activation="relu")))
    features = torch.randn(2, 4, 6, 5)
    before = features.clone()
    unit(features)
    assert torch.equal(features, before)


def test_response_normalization_scales_channels_by_their_share_and_begins_as_the_identity() -> None:
    normalization = ResponseNormalization(2)
    features = torch.tensor([[[3.0, 4.0]], [[0.0, 15.0]]]).transpose(0, 1)  # norms 5 and 15, mean 10
    assert torch.equal(normalization(features), features)
    torch.nn.init.ones_(normalization.weight)
    torch.nn.init.ones_(normalization.bias)
    expected = torch.tensor([[[5.5, 7.0], [1.0, 38.5]]])
    torch.testing.assert_close(normalization(features), expected)


def test_a_channel_without_any_response_has_finite_gradients() -> None:
    features = torch.zeros(1, 2, 3, requires_grad=True)
    ResponseNormalization(2)(features).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_weights_start_small_enough_for_sums_of_units(make_plan) -> None:
    network = build_network(make_plan("additive_u mednext", features_per_stage=(16, 32, 32)))
    weight = network.stages[1][1][0].compression.weight.detach()  # of 32 x 3 channels
    assert float(weight.std()) == pytest.approx((3 * 96) ** -0.5, rel=0.1)
    assert weight.abs().max() <= 96**-0.5


def build_pair(make_plan, **changes: Any):
    large = {"kernel_sizes": ((1, 5, 5), (5, 5, 5), (5, 5, 5)), "unit": MEDNEXT, **changes}
    return build_network(make_plan("additive_u mednext")), build_network(make_plan("additive_u mednext", **large))


def test_equal_kernels_are_taken_as_they_are(make_plan) -> None:
    weights = build_network(make_plan("additive_u mednext")).state_dict()
    enlarged = enlarge_kernels(weights, build_network(make_plan("additive_u mednext")).state_dict())
    assert all(torch.equal(enlarged[name], tensor) for name, tensor in weights.items())


def test_larger_depthwise_kernels_are_interpolated_and_all_else_is_taken_as_it_is(make_plan) -> None:
    small, large = build_pair(make_plan)
    for module in small.modules():
        if getattr(module, "groups", 1) > 1:
            torch.nn.init.constant_(module.weight, 0.25)
    enlarged = enlarge_kernels(small.state_dict(), large.state_dict())
    large.load_state_dict(enlarged)
    changed = {name for name, tensor in small.state_dict().items() if enlarged[name].shape != tensor.shape}
    assert changed == {name for name in enlarged if name.endswith("depthwise.weight")}
    assert all((enlarged[name] == 0.25).all() for name in changed)
    assert all(torch.equal(enlarged[name], small.state_dict()[name]) for name in enlarged.keys() - changed)


def test_an_interpolated_kernel_keeps_a_linear_ramp_between_the_outermost_centres() -> None:
    ramp = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(1, 1, 3, 3, 3)
    (found,) = enlarge_kernels({"weight": ramp}, {"weight": torch.empty(1, 1, 5, 3, 3, device="meta")}).values()
    # Voxel i of 5 lies at (i + 0.5) * 3 / 5 - 0.5 among 3, and values beyond the outermost centres are theirs.
    torch.testing.assert_close(found[0, 0, :, 1, 1], torch.tensor([0.0, 0.4, 1.0, 1.6, 2.0]))


def test_networks_that_differ_in_more_than_kernels_are_refused(make_plan) -> None:
    small, deeper = build_pair(make_plan, blocks_per_stage=(2, 2, 1))
    with pytest.raises(RunError, match=r"found stages\.0\.1\.1.* in one of them alone"):
        enlarge_kernels(small.state_dict(), deeper.state_dict())
    small, wider = build_pair(make_plan, features_per_stage=(6, 8, 8))
    with pytest.raises(RunError, match=r"expected \(6.*found \(4.*more than the extents of a kernel"):
        enlarge_kernels(small.state_dict(), wider.state_dict())
