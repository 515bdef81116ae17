"""Nested U-shaped networks: UNet++."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import NestedUPlan
from autoseg.plan.network.blocks import BlockPlan, PlainBlockPlan
from autoseg.plan.network.layers import LayerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import format_amount, record
from planners.rules.topology import Topology
from planners.rules.unet import MOST_FEATURES, choose_features

PAPER_WIDTH: Final = 32
BLOCKS_PER_NODE: Final = 2
_PLAIN = PlainBlockPlan()
_LAYERS = LayerPlan(normalization="instance", activation="relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedUProfile:
    """Chooses a nested U-shaped network for a topology.

    Attributes:
        block: Blocks of all nodes.
        layers: Normalization and activation.
    """

    block: BlockPlan = _PLAIN
    layers: LayerPlan = _LAYERS

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[NestedUPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(
            topology.stage_count,
            dimensions=dimensions,
            width=width or PAPER_WIDTH,
            most=MOST_FEATURES[dimensions],
        )
        outputs = choose_outputs(topology.stage_count)
        network = self.build(
            features.value,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            input_channels=input_channels,
            output_channels=output_channels,
            output_weights=outputs.value,
        )
        return network, (
            record("features", features, ", ".join(map(str, features.value))),
            record("outputs", outputs, ", ".join(f"{weight:.3g}" for weight in outputs.value)),
        )

    def build(
        self,
        features: Sequence[int],
        *,
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        input_channels: int,
        output_channels: int,
        output_weights: tuple[float, ...],
    ) -> NestedUPlan:
        """Builds the plan for features, kernels and strides of every stage."""
        return NestedUPlan(
            dimensions=2 if len(strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=tuple(kernel_sizes),
            strides=tuple(strides),
            blocks_per_stage=(BLOCKS_PER_NODE,) * len(features),
            block=self.block,
            layers=self.layers,
            downsampling="max_pool",
            upsampling="transposed",
            depth=len(features) - 1,
            output_weights=output_weights,
        )


def choose_outputs(stage_count: int) -> Decision[tuple[float, ...]]:
    """Trains one output of full resolution per column of nodes, with equal weights."""
    columns = stage_count - 1
    because = f"{format_amount(stage_count, 'stage')} give {format_amount(columns, 'output')} that count alike"
    return Decision((1.0,) * columns, because)


def _build_published(layers: LayerPlan, outputs: int) -> NestedUPlan:
    return NestedUProfile(layers=layers).build(
        (32, 64, 128, 256, 512),
        kernel_sizes=((3, 3),) * 5,
        strides=((1, 1), *((2, 2),) * 4),
        input_channels=1,
        output_channels=1,
        output_weights=(1.0,) * outputs,
    )


_WITHOUT_NORMALIZATION: Final = LayerPlan(normalization="none", activation="relu")
UNET_PLUS_PLUS: Final = Architecture(
    name="unet_plus_plus",
    sentence="U-Nets of every depth nested in each other, all with an output of full resolution; can be pruned.",
    source="Zhou et al. 2018, DLMIA, arXiv:1807.10165",
    year=2018,
    choose_network=NestedUProfile(),
    published=(
        PublishedNetwork(
            variant="one output", plan=_build_published(_WITHOUT_NORMALIZATION, 1), parameter_count=9_041_601
        ),
        PublishedNetwork(
            variant="four outputs", plan=_build_published(_WITHOUT_NORMALIZATION, 4), parameter_count=9_041_700
        ),
    ),
)
