import pytest
import torch
from builders.nnunet_models import (
    build_foreign_configuration,
    build_foreign_dataset,
    build_foreign_network,
    build_foreign_plans,
)
from torch import nn

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_networks import build_network_plan
from autoseg.exchange.nnunet_schema import NnunetConfiguration
from autoseg.exchange.nnunet_weights import convert_from_nnunet, convert_to_nnunet
from autoseg.networks import build_network
from autoseg.plan import NetworkPlan

KINDS = [(dimensions, residual) for dimensions in (2, 3) for residual in (False, True)]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, NetworkPlan]:
    """A network of nnU-Net's making, and our plan of it."""
    dimensions, residual = request.param
    configuration = build_foreign_configuration(dimensions, residual=residual)
    theirs = build_foreign_network(build_foreign_plans({"x": configuration}), build_foreign_dataset(), "x")
    parsed = NnunetConfiguration.model_validate(configuration)
    return theirs, build_network_plan(parsed, input_channels=1, output_channels=3, where="plans.json")


@pytest.mark.parametrize("pair", KINDS, indirect=True)
def test_our_network_with_their_weights_computes_what_theirs_computes(pair: tuple[nn.Module, NetworkPlan]) -> None:
    theirs, plan = pair
    ours = build_network(plan).eval()
    ours.load_state_dict(convert_from_nnunet(theirs.state_dict(), plan, where="x"))
    ours.set_deep_supervision(enabled=False)
    image = torch.randn((2, 1, *(8, 16, 16)[-plan.dimensions :]))
    with torch.inference_mode():
        (found,), expected = ours(image), theirs(image)
    assert found.shape == expected.shape == (2, 3, *image.shape[2:])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", KINDS, indirect=True)
def test_converting_there_and_back_gives_every_name_and_value_again(pair: tuple[nn.Module, NetworkPlan]) -> None:
    theirs, plan = pair
    expected = theirs.state_dict()
    back = convert_to_nnunet(convert_from_nnunet(expected, plan, where="x"), plan)
    assert set(back) == set(expected)
    assert all(torch.equal(back[name], expected[name]) for name in expected)
    theirs.load_state_dict(back)


@pytest.mark.parametrize("pair", [(3, False)], indirect=True)
def test_missing_and_unexpected_weights_are_named(pair: tuple[nn.Module, NetworkPlan]) -> None:
    theirs, plan = pair
    weights = theirs.state_dict()
    moved = weights.pop("decoder.seg_layers.2.bias")
    with pytest.raises(
        ExchangeError, match=r"missing decoder\.seg_layers\.2\.bias, not expected encoder\.gate\.weight"
    ):
        convert_from_nnunet({**weights, "encoder.gate.weight": moved}, plan, where="x")


@pytest.mark.parametrize("pair", [(3, False)], indirect=True)
def test_running_statistics_of_another_normalization_are_refused(pair: tuple[nn.Module, NetworkPlan]) -> None:
    theirs, plan = pair
    extra = {"encoder.stages.0.0.convs.0.norm.running_mean": torch.zeros(4)}
    with pytest.raises(ExchangeError, match="running_mean"):
        convert_from_nnunet({**theirs.state_dict(), **extra}, plan, where="x")


@pytest.mark.parametrize("pair", [(3, True)], indirect=True)
def test_a_weight_of_another_shape_is_named(pair: tuple[nn.Module, NetworkPlan]) -> None:
    theirs, plan = pair
    changed = {"encoder.stem.convs.0.conv.weight": torch.zeros(4, 2, 1, 3, 3)}
    with pytest.raises(ExchangeError, match=r"encoder\.stem\.convs\.0\.conv\.weight has the shape \(4, 2, 1, 3, 3\)"):
        convert_from_nnunet({**theirs.state_dict(), **changed}, plan, where="x")
