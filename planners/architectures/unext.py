"""UNeXt."""

from collections.abc import Sequence
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import UNextPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import record
from planners.rules.topology import Topology

FEATURES: Final = (16, 16, 32, 128, 160, 256)  # code of the authors, whose paper names others; the first is the head's
SMALL_FEATURES: Final = (8, 8, 16, 32, 64, 128)
TOKEN_STAGES: Final = 2  # of the lowest resolutions


def choose_unext(
    topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
) -> tuple[UNextPlan, tuple[Reason, ...]]:
    """Chooses a UNeXt for a topology, with a reason for each of its parameters."""
    features = choose_unext_features(topology.stage_count, width or FEATURES[0])
    network = _build(
        features.value,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        channels=(input_channels, output_channels),
        layers=LayerPlan(normalization="instance", activation="relu"),
    )
    tokens = Decision(
        network.token_stages,
        f"the {TOKEN_STAGES} lowest of {topology.stage_count} resolutions as published, but not that of the image",
    )
    return network, (
        record("features", features, ", ".join(map(str, features.value))),
        record("stages with perceptrons", tokens, str(tokens.value)),
    )


def choose_unext_features(stage_count: int, width: int) -> Decision[tuple[int, ...]]:
    """Chooses the published features of every resolution, in proportion to the first."""
    last = len(FEATURES) - 1
    features = tuple(FEATURES[min(stage, last)] * width // FEATURES[0] for stage in range(stage_count))
    return Decision(features, f"as published for {width} features at the resolution of the image")


def _build(
    features: Sequence[int],
    *,
    kernel_sizes: Sequence[tuple[int, ...]],
    strides: Sequence[tuple[int, ...]],
    channels: tuple[int, int],
    layers: LayerPlan,
) -> UNextPlan:
    return UNextPlan(
        dimensions=2 if len(strides[0]) == 2 else 3,
        input_channels=channels[0],
        output_channels=channels[1],
        features_per_stage=tuple(features),
        kernel_sizes=tuple(kernel_sizes),
        strides=tuple(strides),
        token_stages=min(TOKEN_STAGES, len(features) - 1),
        layers=layers,
    )


def _build_published(features: Sequence[int]) -> UNextPlan:
    return _build(
        features,
        kernel_sizes=((3, 3),) * len(features),
        strides=((1, 1), *((2, 2),) * (len(features) - 1)),
        channels=(3, 1),
        layers=LayerPlan(normalization="batch", activation="relu"),
    )


UNEXT: Final = Architecture(
    name="unext",
    sentence="UNeXt: few convolutions, and perceptrons over shifted channels at low resolutions; small and fast.",
    source="Valanarasu and Patel 2022, MICCAI, arXiv:2203.04967",
    year=2022,
    choose_network=choose_unext,
    published=(
        PublishedNetwork(
            plan=_build_published(FEATURES),
            parameter_count=1_471_921,
            multiply_adds=0.56e9,  # counted on the code of the authors; the paper says 0.57
            extents_voxels=(256, 256),
        ),
        PublishedNetwork(variant="small", plan=_build_published(SMALL_FEATURES), parameter_count=253_561),
    ),
)
