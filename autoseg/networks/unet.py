"""The stages of the encoder, the decoder and the outputs that all U-Nets share."""

from collections.abc import Iterable
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import ConvolutionUnit, DecoderLevel, ResidualBlock, build_head
from autoseg.networks.levels import LevelNetwork
from autoseg.plan.network.unets import UNetPlan


class UNet(LevelNetwork):
    """A U-Net with the encoder of its family.

    Decoder levels and heads are numbered like the encoder's stages: level 0 has the full resolution. Every level has
    a head; without deep supervision only head 0 is computed. Names of the weights beside nnU-Net's, whose decoder
    counts from the lowest resolution, with j = stages - 2 - level (the encoders document theirs):

    | here | there |
    |---|---|
    | `levels.{level}.upsampling` | `decoder.transpconvs.{j}` |
    | `levels.{level}.units.{i}.normalized.{convolution|norm}` | `decoder.stages.{j}.convs.{i}.{conv|norm}` |
    | `heads.{level}` | `decoder.seg_layers.{j}` |

    Attributes:
        trained_output_count: All levels but the lowest (whose weight in the loss would be 0) under deep supervision,
            and at least one.
    """

    plan: UNetPlan

    def __init__(self, plan: UNetPlan, encoder: nn.Module) -> None:
        """Builds the decoder.

        Args:
            plan: Describes the whole network.
            encoder: Returns a list of the features of every stage, full resolution first.
        """
        super().__init__(plan)
        self.encoder = encoder
        level_count = len(plan.features_per_stage) - 1
        self.levels = nn.ModuleList(_build_level(plan, level) for level in range(level_count))
        self.heads = nn.ModuleList(
            build_head(features, plan.output_channels, plan.dimensions)
            for features in plan.features_per_stage[: max(1, level_count)]
        )
        self.trained_output_count = plan.trained_output_count
        # Heads without a gradient would be an error for distributed training.
        for head in self.heads[self.trained_output_count :]:
            head.requires_grad_(requires_grad=False)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, highest resolution first; exactly one entry without deep supervision.

        Args:
            image: Input image; each extent is a multiple of the product of the strides of its axis.
        """
        skips: list[Tensor] = self.encoder(image)
        features = skips.pop()
        output_count = self._count_outputs()
        logits: list[Tensor] = [] if len(self.levels) else [self.heads[0](features)]
        for level in reversed(range(len(self.levels))):
            features = self.levels[level](features, skips)
            if level < output_count:
                logits.append(self.heads[level](features))
        return tuple(reversed(logits))

    def compute_levels(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Tensor, list[Tensor]]:
        """Computes the features of all levels."""
        skips: list[Tensor] = self.encoder(image)
        fine, decoded = skips[0], [skips.pop()]
        for level in reversed(range(self.finest_level, len(self.levels))):
            decoded.append(self.levels[level](decoded[-1], skips))
        return fine, decoded[::-1]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Those of the stages."""
        return self.plan.features_per_stage

    @property
    def fine_channels(self) -> int:
        """Those of the first stage."""
        return self.plan.features_per_stage[0]

    @property
    def output_weights(self) -> tuple[float, ...]:
        """The weights 1, 1/2, 1/4, ... normalized to a sum of 1.

        The reference has one output more, of the lowest decoder resolution, and gives it weight 0; our networks do not
        compute it. (With two stages that rule leaves the reference only a zero to normalize: its loss is NaN.)
        """
        raw = [0.5**index for index in range(self._count_outputs())]
        return tuple(weight / sum(raw) for weight in raw)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The heads."""
        return tuple(f"heads.{level}" for level in range(len(self.heads)))

    def _count_outputs(self) -> int:
        return self.trained_output_count if self.deep_supervision else 1


def _build_level(plan: UNetPlan, level: int) -> DecoderLevel:
    lowest_level = len(plan.features_per_stage) - 2
    return DecoderLevel(
        plan.features_per_stage[level + 1],
        plan.features_per_stage[level],
        stride=plan.strides[level + 1],
        kernel=plan.kernel_sizes[level],
        unit_count=plan.convolutions_per_decoder_stage[lowest_level - level],
    )


def build_encoder_stages(
    plan: UNetPlan, block: type[ConvolutionUnit] | type[ResidualBlock], *, channels_in: int
) -> nn.ModuleList:
    """Builds stages of blocks; the first block of a stage has the stride of the stage."""
    channels = (channels_in, *plan.features_per_stage)
    stages = nn.ModuleList()
    for stage, (below, above) in enumerate(pairwise(channels)):
        kernel = plan.kernel_sizes[stage]
        first = block(below, above, kernel, stride=plan.strides[stage])
        further = [block(above, above, kernel) for _ in range(plan.blocks_per_stage[stage] - 1)]
        stages.append(nn.Sequential(first, *further))
    return stages


def compute_encoder_features(stages: Iterable[nn.Module], image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
    """Computes the features of every stage, full resolution first."""
    features = []
    for stage in stages:
        image = stage(image)
        features.append(image)
    return features
