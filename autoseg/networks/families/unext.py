"""UNeXt (Valanarasu and Patel 2022, arXiv:2203.04967)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import LINEAR, Enlargement, build_head
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.layers import Layer, build_activation, build_kernel
from autoseg.networks.parts.resampling import build_downsampling
from autoseg.networks.parts.shifted_perceptron import ChannelNormalization, ShiftedPerceptron
from autoseg.plan.network.unext import UNextPlan


class UNextNetwork(SegmentationNetwork):
    """Steps down and up again; features of both ways are added at all resolutions but that of the image."""

    plan: UNextPlan

    def __init__(self, plan: UNextPlan) -> None:
        super().__init__(plan)
        steps = range(1, plan.stage_count)
        self.down = nn.ModuleList(_build_step_down(plan, stage) for stage in steps)
        self.up = nn.ModuleList(_build_step_up(plan, stage) for stage in steps)
        self.mixing = nn.ModuleList(_build_mixing(plan, stage) for stage in steps[:-1])
        self.head = build_head(plan.features_per_stage[0], plan.output_channels, plan.dimensions)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes the logits."""
        encoded: list[Tensor] = []
        for down in self.down:
            image = down(image)
            encoded.append(image)
        features = encoded.pop()
        for up, mixing in zip(reversed(self.up[1:]), reversed(self.mixing), strict=True):
            features = mixing(up(features) + encoded.pop())
        return (self.head(self.up[0](features)),)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """That of the only output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The head."""
        return ("head",)


def _build_step_down(plan: UNextPlan, stage: int) -> nn.Module:
    channels = plan.features_per_stage[stage]
    before = plan.features_per_stage[stage - 1] if stage > 1 else plan.input_channels
    if _has_tokens(plan, stage):
        kernel = plan.kernel_sizes[stage]
        return nn.Sequential(
            build_kernel(before, channels, kernel, stride=plan.strides[stage]),
            ChannelNormalization(channels),
            ShiftedPerceptron(channels, kernel),
            ChannelNormalization(channels),
        )
    return nn.Sequential(
        Layer(before, channels, plan.kernel_sizes[stage - 1], layers=plan.layers, is_activated=False),
        build_downsampling("max_pool", channels, plan.strides[stage], plan.layers, channels_out=channels),
        build_activation(plan.layers),
    )


def _build_step_up(plan: UNextPlan, stage: int) -> nn.Module:
    """Builds the step from a stage to that before it; the last one, to the resolution of the image, has no norm."""
    channels, below = plan.features_per_stage[stage - 1 : stage + 1]
    kernel = plan.kernel_sizes[stage]
    convolution = (
        Layer(below, channels, kernel, layers=plan.layers, is_activated=False)
        if stage > 1
        else build_kernel(below, channels, kernel)
    )
    enlargement = Enlargement(plan.strides[stage], LINEAR[plan.dimensions])
    return nn.Sequential(convolution, enlargement, build_activation(plan.layers))


def _build_mixing(plan: UNextPlan, stage: int) -> nn.Module:
    if not _has_tokens(plan, stage + 1):
        return nn.Identity()
    channels = plan.features_per_stage[stage]
    return nn.Sequential(ShiftedPerceptron(channels, plan.kernel_sizes[stage]), ChannelNormalization(channels))


def _has_tokens(plan: UNextPlan, stage: int) -> bool:
    return stage >= plan.stage_count - plan.token_stages
