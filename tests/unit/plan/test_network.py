import pytest
from builders.networks import build_small_network_plan
from builders.plans import build_network_plan
from pydantic import TypeAdapter, ValidationError

from autoseg.plan import NETWORK_PLANS, ConfigurationPlan, NetworkPlan
from autoseg.plan.upgrades import upgrade_version_1

UNET = build_network_plan(
    features_per_stage=(4, 8, 8),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
)
FIELDS = UNET.model_dump(mode="json", exclude={"family"})


@pytest.fixture
def read():
    """Reads a network as a configuration does."""
    field = ConfigurationPlan.model_fields["network"]
    return TypeAdapter(field.rebuild_annotation()).validate_python


@pytest.mark.parametrize("family", NETWORK_PLANS)
def test_the_family_decides_how_a_network_is_read(read, family):
    planned = build_small_network_plan(family, 3)
    network = read(planned.model_dump(mode="json"))
    assert type(network) is NETWORK_PLANS[family]
    assert network == planned


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("u_shaped", "plain, concatenation, instance, leaky_relu"),
        ("nested_u", "plain, depth 2, instance, leaky_relu"),
        ("fcn", "plain, fused stages 1, instance, leaky_relu"),
        ("dilated", "bottleneck, output stride 4, aspp_low_level, batch, relu"),
        ("parallel", "exchanges 1 1, v2, batch, relu"),
    ],
)
def test_the_parts_of_a_network_are_described_in_one_row(family, parts):
    described = build_small_network_plan(family, 3).describe()
    assert described["parts"] == parts
    assert list(described) == ["features", "strides", "kernels", "parts"]


@pytest.mark.parametrize("family", ["swin", None])
def test_an_unknown_family_is_refused_with_those_there_are(read, family):
    with pytest.raises(ValidationError, match="'family' must be one of plain_unet, residual_encoder_unet"):
        read({"family": family, **FIELDS})


def test_there_is_no_network_without_a_family():
    with pytest.raises(TypeError, match="abstract"):
        NetworkPlan(family="x", dimensions=3, input_channels=1, output_channels=2)


def test_patches_of_a_unet_are_divided_by_all_strides():
    assert UNET.patch_divisors == (2, 4, 4)


def test_a_unet_is_described_stage_by_stage():
    assert UNET.describe() == {
        "features": "4 8 8",
        "strides": "1x1x1 1x2x2 2x2x2",
        "kernels": "1x3x3 3x3x3 3x3x3",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks_per_stage": [1, 1]}, "blocks_per_stage must describe the 3 stages"),
        ({"strides": [[1, 1], [2, 2], [2, 2]]}, "must have 3 values per stage"),
        ({"kernel_sizes": [[2, 3, 3], [3, 3, 3], [3, 3, 3]]}, "kernel_sizes must be odd"),
        ({"strides": [[1, 1, 2], [1, 2, 2], [2, 2, 2]]}, "strides.0 must be ones"),
    ],
)
def test_a_unet_that_cannot_be_built_is_refused(read, changes, message):
    with pytest.raises(ValidationError, match=message):
        read({"family": "plain_unet", **FIELDS, **changes})


@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
def test_the_architecture_of_version_1_is_the_family(read, family):
    old = {"schema_version": 1, "configurations": {"2d": {"network": {"architecture": family, **FIELDS}}}}
    upgraded = upgrade_version_1(old)["configurations"]["2d"]["network"]
    assert read(upgraded) == NETWORK_PLANS[family](**FIELDS)
