"""U-shaped networks of residual units."""

from itertools import pairwise
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_head
from autoseg.networks.initialization import CONVOLUTION_KINDS
from autoseg.networks.levels import LevelNetwork
from autoseg.networks.parts.additive_u import build_unit
from autoseg.networks.parts.additive_u.unit import Step, UnitSite
from autoseg.plan.network.additive_u import AdditiveUPlan

UNIFORM_SLOPE: Final = 5**0.5  # of the distribution from which PyTorch draws the weights of its layers


class AdditiveUNetwork(LevelNetwork):
    """An encoder and a decoder of residual units; features of both are added at every resolution.

    `stages`, `levels` and `heads` are numbered by resolution; 0 is that of the image.
    """

    plan: AdditiveUPlan

    def __init__(self, plan: AdditiveUPlan) -> None:
        super().__init__(plan)
        channels = (plan.input_channels, *plan.features_per_stage)
        self.stages = nn.ModuleList(
            _build_encoder_stage(plan, stage, channels_in=below, channels_out=above)
            for stage, (below, above) in enumerate(pairwise(channels))
        )
        self.levels = nn.ModuleList(AdditiveDecoderStage(plan, level) for level in range(plan.stage_count - 1))
        self.heads = nn.ModuleList(
            build_head(plan.features_per_stage[level], plan.output_channels, plan.dimensions)
            for level in range(len(plan.output_weights))
        )

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, the most important output first."""
        decoded = self._decode(self._encode(image))
        return tuple(self.heads[level](decoded[level]) for level in range(len(self.output_weights)))

    def compute_levels(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Tensor, list[Tensor]]:
        """Computes the features of all levels."""
        encoded = self._encode(image)
        return encoded[0], self._decode(encoded)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Those of the stages."""
        return self.plan.features_per_stage

    @property
    def fine_channels(self) -> int:
        """Those of the first stage."""
        return self.plan.features_per_stage[0]

    def _encode(self, image: Tensor) -> list[Tensor]:
        encoded: list[Tensor] = []
        for stage in self.stages:
            image = stage(image)
            encoded.append(image)
        return encoded

    def _decode(self, encoded: list[Tensor]) -> list[Tensor]:
        decoded = [encoded.pop()]
        for level in reversed(range(self.finest_level, len(self.levels))):
            decoded.append(self.levels[level](decoded[-1], encoded.pop()))
        return decoded[::-1]

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Draws the weights of convolutions with a sixth of the usual variance, as PyTorch does and both papers' code.

        The usual ones would add up over the units: the logits would start large, and training with a high loss.
        """
        super().initialize_weights(generator)
        for module in self.modules():
            if isinstance(module, CONVOLUTION_KINDS):
                nn.init.kaiming_uniform_(module.weight, a=UNIFORM_SLOPE, generator=generator)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1."""
        return self.weight_outputs(self.plan.output_weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The heads."""
        return tuple(f"heads.{index}" for index in range(len(self.heads)))


class AdditiveDecoderStage(nn.Module):
    """One decoder stage: the step from below, to which the encoder's features are added, and units."""

    def __init__(self, plan: AdditiveUPlan, level: int) -> None:
        super().__init__()
        channels = plan.features_per_stage[level]
        self.step = build_unit(
            plan.unit, _locate(plan, level, "higher", channels=(plan.features_per_stage[level + 1], channels))
        )
        self.units = _stack_units(plan, level, plan.decoder_blocks_per_stage[plan.stage_count - 2 - level])

    def forward(
        self, below: Float[Tensor, "batch channels_below *space_below"], encoded: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Computes the features of this resolution."""
        features: Tensor = self.units(self.step(below) + encoded)
        return features


def _build_encoder_stage(plan: AdditiveUPlan, stage: int, *, channels_in: int, channels_out: int) -> nn.Module:
    site = _locate(plan, stage, "lower" if stage else "stem", channels=(channels_in, channels_out))
    return nn.Sequential(build_unit(plan.unit, site), _stack_units(plan, stage, plan.blocks_per_stage[stage]))


def _stack_units(plan: AdditiveUPlan, stage: int, count: int) -> nn.Module:
    channels = plan.features_per_stage[stage]
    site = _locate(plan, stage, "none", channels=(channels, channels))
    return nn.Sequential(*(build_unit(plan.unit, site) for _ in range(count)))


def _locate(plan: AdditiveUPlan, stage: int, step: Step, *, channels: tuple[int, int]) -> UnitSite:
    ones = (1,) * plan.dimensions
    stride = {"lower": plan.strides[stage], "higher": plan.strides[(stage + 1) % plan.stage_count]}.get(step, ones)
    return UnitSite(
        step=step,
        channels_in=channels[0],
        channels_out=channels[1],
        stage=stage,
        kernel=plan.kernel_sizes[stage],
        stride=stride,
        layers=plan.layers,
    )
