"""Networks of parallel branches: HRNet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from autoseg.plan.decisions import Reason
from autoseg.plan.network import ParallelPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import record
from planners.rules.stem import StemmedTopology, divide_topology, format_strides
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES, MOST_FEATURES, choose_features

STEM_LAYERS: Final = 2
FEWEST_BRANCHES: Final = 2  # one branch has nothing to exchange
GIBI: Final = 2**30  # the "G" of the operations that the authors publish, as a count of their network shows
_LAYERS = LayerPlan(normalization="instance", activation="relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelProfile:
    """Chooses a network of parallel branches for a topology.

    Attributes:
        head: "v1" or "v2", as in the plan.
        stem_stages: Strides of the topology that belong to the stem; 0 keeps the full resolution.
        stem_features: Features of the stem, for a width of `BASE_FEATURES`.
        stem_blocks: Bottleneck blocks after the stem.
        modules: Exchanges with two branches, three, ...: one number fewer than there are branches at most.
        blocks: Residual blocks of every branch before every exchange.
        layers: Normalization and activation.
    """

    head: Literal["v1", "v2"]
    stem_stages: int = STEM_LAYERS
    stem_features: int = 64
    stem_blocks: int = 4
    modules: tuple[int, ...] = (1, 4, 3)
    blocks: int = 4
    layers: LayerPlan = _LAYERS

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[ParallelPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        stem = divide_topology(
            topology, self.stem_stages, fewest_stages=FEWEST_BRANCHES, most_stages=len(self.modules) + 1
        )
        dimensions = len(topology.patch_voxels)
        wanted = width or BASE_FEATURES
        features = choose_features(
            len(stem.value.strides), dimensions=dimensions, width=wanted, most=MOST_FEATURES[dimensions]
        )
        scaled = replace(self, stem_features=max(1, self.stem_features * wanted // BASE_FEATURES))
        network = scaled.build(
            features.value, stem.value, input_channels=input_channels, output_channels=output_channels
        )
        return network, (
            record("features", features, ", ".join(map(str, features.value))),
            record("stem", stem, format_strides(stem.value.stem_strides)),
        )

    def build(
        self, features: Sequence[int], topology: StemmedTopology, *, input_channels: int, output_channels: int
    ) -> ParallelPlan:
        """Builds the plan for the features of every branch. Layers of the stem that are left have no stride."""
        ones, unstrided = (1,) * len(topology.strides[0]), STEM_LAYERS - len(topology.stem_strides)
        return ParallelPlan(
            dimensions=2 if len(ones) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            stem_features=self.stem_features,
            stem_kernel_sizes=(*topology.stem_kernels, *topology.kernel_sizes[:1] * unstrided),
            stem_strides=(*topology.stem_strides, *(ones,) * unstrided),
            layers=self.layers,
            stem_blocks=self.stem_blocks,
            modules_per_stage=self.modules[: len(features) - 1],
            blocks_per_branch=self.blocks,
            head=self.head,
        )


def _publish(variant: str, width: int, parameter_count: int, profile: ParallelProfile) -> PublishedNetwork:
    topology = StemmedTopology(
        stem_kernels=((3, 3),) * STEM_LAYERS,
        stem_strides=((2, 2),) * STEM_LAYERS,
        kernel_sizes=((3, 3),) * 4,
        strides=((1, 1), *((2, 2),) * 3),
    )
    published = replace(profile, layers=LayerPlan(normalization="batch", activation="relu"))
    features = tuple(width * 2**branch for branch in range(4))
    plan = published.build(features, topology, input_channels=3, output_channels=19)
    return PublishedNetwork(variant=variant, plan=plan, parameter_count=parameter_count)


_V2 = ParallelProfile(head="v2")
HRNET_V1: Final = Architecture(
    name="hrnet_v1",
    sentence="Parallel branches of all resolutions that exchange features; logits of the highest one.",
    source="Sun et al. 2019, CVPR, arXiv:1902.09212",
    year=2019,
    choose_network=ParallelProfile(head="v1"),
)
HRNET_V2: Final = Architecture(
    name="hrnet_v2",
    sentence="Parallel branches of all resolutions that exchange features; logits of all of them, joined.",
    source="Wang et al. 2020, TPAMI, arXiv:1908.07919",
    year=2019,
    choose_network=_V2,
    published=(
        replace(_publish("W48", 48, 65_859_379, _V2), multiply_adds=696.2 * GIBI, extents_voxels=(1024, 2048)),
        _publish("W32", 32, 29_546_515, _V2),
        _publish("W18", 18, 9_641_119, _V2),
        replace(
            _publish("W18 small", 18, 3_939_579, replace(_V2, stem_blocks=2, modules=(1, 3, 2), blocks=2)),
            multiply_adds=71.6 * GIBI,
            extents_voxels=(1024, 2048),
        ),
    ),
)
