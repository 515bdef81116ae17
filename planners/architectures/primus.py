"""Primus: plain transformers."""

from dataclasses import dataclass
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import PlainTransformerPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import record
from planners.rules.tokens import TOKEN_TOPOLOGY
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES

HIDDEN_FACTOR: Final = 8 / 3  # channels of the gated perceptron, so that it has as many weights as one without a gate
LAYER_SCALE: Final = 0.1
DROP_PATH: Final = 0.2
DECODER_MULTIPLE: Final = 8  # of which the features of the decoder are multiples


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimusProfile:
    """Chooses a plain transformer for the tokens of a topology.

    Attributes:
        blocks: Transformer blocks.
        heads: Attention heads.
        head_features: Channels of each of them.
    """

    blocks: int
    heads: int
    head_features: int

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[PlainTransformerPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        heads = self.choose_heads(width or BASE_FEATURES)
        network = self.build(
            heads.value,
            steps=topology.strides[1:],
            grid=topology.bottleneck_voxels,
            input_channels=input_channels,
            output_channels=output_channels,
        )
        depth = Decision(self.blocks, "as published")
        return network, (
            record("heads", heads, f"{heads.value}, {network.features} features in all"),
            record("depth", depth, f"{self.blocks} blocks"),
        )

    def choose_heads(self, width: int) -> Decision[int]:
        """Chooses the number of heads in proportion to the wanted width."""
        heads = max(1, self.heads * width // BASE_FEATURES)
        because = f"{self.heads} as published for a width of {BASE_FEATURES}, in proportion to one of {width}"
        return Decision(heads, f"{because}; each has {self.head_features} features")

    def build(
        self,
        heads: int,
        *,
        steps: tuple[tuple[int, ...], ...],
        grid: tuple[int, ...],
        input_channels: int,
        output_channels: int,
    ) -> PlainTransformerPlan:
        """Builds the plan for tokens and the grid of them in a patch."""
        features = heads * self.head_features
        return PlainTransformerPlan(
            dimensions=2 if len(grid) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            token_steps=steps,
            features=features,
            blocks=self.blocks,
            heads=heads,
            hidden_features=round(features * HIDDEN_FACTOR),
            position_grid=grid,
            layer_scale=LAYER_SCALE,
            drop_path=DROP_PATH,
            decoder_features=compute_decoder_features(features, output_channels, len(steps)),
        )


def compute_decoder_features(features: int, output_channels: int, step_count: int) -> tuple[int, ...]:
    """Divides the features by equal ratios from step to step, down to twice the output channels."""
    ratio = max(1.0, features / (2 * output_channels)) ** (1 / step_count)
    wanted = (features / ratio**step for step in range(1, step_count))
    return tuple(max(1, round(count / DECODER_MULTIPLE)) * DECODER_MULTIPLE for count in wanted)


def _build(name: str, profile: PrimusProfile, sentence: str, parameter_count: int) -> Architecture:
    plan = profile.build(
        profile.heads, steps=((2, 2, 2),) * 3, grid=(12, 12, 12), input_channels=1, output_channels=2
    )  # a patch of 96 voxels along every axis
    return Architecture(
        name=name,
        sentence=sentence,
        source="Wald et al. 2025, arXiv:2503.01835",
        year=2025,
        choose_network=profile,
        topology=TOKEN_TOPOLOGY,
        published=(PublishedNetwork(plan=plan, parameter_count=parameter_count),),
    )


# The paper states 146.6 million for M; the other counts are of its description.
PRIMUS_S: Final = _build(
    "primus_s",
    PrimusProfile(blocks=12, heads=6, head_features=66),
    "Primus, small: a plain transformer over blocks of 8 voxels, with a light decoder.",
    23_868_062,
)
PRIMUS_B: Final = _build(
    "primus_b",
    PrimusProfile(blocks=12, heads=12, head_features=66),
    "Primus, base: twice as wide.",
    93_206_570,
)
PRIMUS_M: Final = _build(
    "primus_m", PrimusProfile(blocks=16, heads=12, head_features=72), "Primus, medium: more blocks.", 146_600_000
)
PRIMUS_L: Final = _build(
    "primus_l", PrimusProfile(blocks=24, heads=16, head_features=66), "Primus, large: more of everything.", 325_554_722
)
