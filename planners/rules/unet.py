"""The network of a U-Net preset: width and depth of its stages, for a given topology."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import PlainUNetPlan, ResidualEncoderUNetPlan, UNetFamily, UNetPlan
from planners.reasons import format_amount, record
from planners.rules.topology import Topology, choose_deep_supervision

BASE_FEATURES: Final = 32  # nnU-Net paper; doubled with every stage ...
MOST_FEATURES: Final = {2: 512, 3: 320}  # ... up to this number (nnU-Net paper), per dimensions of the network
BLOCKS: Final[Mapping[UNetFamily, str]] = {
    "plain_unet": "convolutions",
    "residual_encoder_unet": "residual blocks",
}
"""The parts of an encoder stage, in words."""
UNETS: Final[Mapping[UNetFamily, type[PlainUNetPlan] | type[ResidualEncoderUNetPlan]]] = {
    "plain_unet": PlainUNetPlan,
    "residual_encoder_unet": ResidualEncoderUNetPlan,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetRule:
    """Chooses a U-Net for a topology.

    Attributes:
        encoder_blocks: Convolutions (plain) or residual blocks of the first encoder stages; the last number repeats.
        decoder_convolutions: Convolutions of every decoder stage.
    """

    family: UNetFamily
    encoder_blocks: tuple[int, ...]
    decoder_convolutions: int

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[UNetPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(
            topology.stage_count, dimensions=dimensions, width=width or BASE_FEATURES, most=MOST_FEATURES[dimensions]
        )
        depth = self.choose_depth(topology.stage_count)
        deep_supervision = choose_deep_supervision(topology)
        encoder_blocks, decoder_convolutions = depth.value
        network = UNETS[self.family](
            dimensions=2 if len(topology.patch_voxels) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=features.value,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            blocks_per_stage=encoder_blocks,
            convolutions_per_decoder_stage=decoder_convolutions,
            deep_supervision=deep_supervision.value,
        )
        return network, (
            record("features", features, ", ".join(str(width) for width in features.value)),
            record("depth", depth, ", ".join(str(blocks) for blocks in encoder_blocks)),
            record("deep supervision", deep_supervision, "yes" if deep_supervision.value else "no"),
        )

    def choose_depth(self, stage_count: int) -> Decision[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Chooses the blocks of every encoder stage and the convolutions of every decoder stage (one fewer)."""
        last = len(self.encoder_blocks) - 1
        encoder = tuple(self.encoder_blocks[min(stage, last)] for stage in range(stage_count))
        decoder = (self.decoder_convolutions,) * (stage_count - 1)
        because = (
            f"the architecture {self.family} has {', '.join(str(blocks) for blocks in encoder)} "
            f"{BLOCKS[self.family]} in its {stage_count} encoder stages and "
            f"{format_amount(self.decoder_convolutions, 'convolution')} in each decoder stage"
        )
        return Decision((encoder, decoder), because)


PLAIN_UNET: Final = UNetRule(family="plain_unet", encoder_blocks=(2,), decoder_convolutions=2)
"""The network of the nnU-Net paper."""
RESIDUAL_ENCODER_UNET: Final = UNetRule(
    family="residual_encoder_unet",
    encoder_blocks=(1, 3, 4, 6),  # nnU-Net Revisited
    decoder_convolutions=1,
)
"""The network of nnU-Net Revisited."""


def choose_features(stage_count: int, *, dimensions: int, width: int, most: int) -> Decision[tuple[int, ...]]:
    """Doubles the features with every halving of the resolution, from `width` up to a limit."""
    # The exponent is limited so that absurdly deep networks do not build absurdly long integers.
    features = tuple(min(most, width * 2 ** min(stage, 10)) for stage in range(stage_count))
    because = f"{width} features, doubled in each of the {stage_count} stages up to {most} in {dimensions}D"
    return Decision(features, because)
