"""The profile of a U-shaped network of residual units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import AdditiveUPlan
from autoseg.plan.network.additive_u import MedNeXtUnitPlan, PreActivationUnitPlan
from autoseg.plan.network.layers import LayerPlan
from planners.reasons import record
from planners.rules.topology import Topology, choose_deep_supervision
from planners.rules.unet import BASE_FEATURES, MOST_FEATURES, choose_features

_CHANNELWISE: Final = LayerPlan(normalization="instance", activation="gelu")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveUProfile:
    """Chooses a U-shaped network of residual units for a topology.

    Attributes:
        encoder_units: Units of the first encoder stages; the last number repeats.
        decoder_units: Units of the decoder stages of the first resolutions; None: those of the encoder.
        expansion_ratios: Those of MedNeXt for the first stages; the last number repeats. None: units of SegResNet.
        response_normalization: Whether MedNeXt's units have it.
        upsampling: Steps to higher resolutions of SegResNet.
        kernel: Extent of a kernel along an axis for which the topology has kernels of more than one voxel.
        width_factor: Features of every stage, and their limit, in multiples of the usual ones.
        layers: Normalization and activation.
    """

    encoder_units: tuple[int, ...]
    decoder_units: tuple[int, ...] | None = None
    expansion_ratios: tuple[int, ...] | None = None
    response_normalization: bool = False
    upsampling: Literal["linear", "transposed"] = "linear"
    kernel: int = 3
    width_factor: int = 1
    layers: LayerPlan = _CHANNELWISE

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[AdditiveUPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        dimensions = len(topology.patch_voxels)
        features = choose_features(
            topology.stage_count,
            dimensions=dimensions,
            width=self.width_factor * (width or BASE_FEATURES),
            most=self.width_factor * MOST_FEATURES[dimensions],
        )
        depth = self.choose_depth(topology.stage_count)
        outputs = choose_output_weights(topology)
        network = self.build(
            features.value,
            kernel_sizes=tuple(
                tuple(self.kernel if extent > 1 else 1 for extent in extents) for extents in topology.kernel_sizes
            ),
            strides=topology.strides,
            input_channels=input_channels,
            output_channels=output_channels,
            output_weights=outputs.value,
        )
        return network, (
            record("features", features, ", ".join(map(str, features.value))),
            record("depth", depth, ", ".join(map(str, depth.value))),
            record("outputs", outputs, ", ".join(f"{weight:.3g}" for weight in outputs.value)),
        )

    def choose_depth(self, stage_count: int) -> Decision[tuple[int, ...]]:
        """Chooses the units of every encoder stage."""
        units = _extend(self.encoder_units, stage_count)
        published = ", ".join(map(str, self.encoder_units))
        return Decision(units, f"as published for the first stages ({published}), the last number for all others")

    def build(
        self,
        features: Sequence[int],
        *,
        kernel_sizes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        input_channels: int,
        output_channels: int,
        output_weights: tuple[float, ...] = (1.0,),
    ) -> AdditiveUPlan:
        """Builds the plan for features, kernels and strides of every stage."""
        stages = len(features)
        return AdditiveUPlan(
            dimensions=2 if len(strides[0]) == 2 else 3,
            input_channels=input_channels,
            output_channels=output_channels,
            features_per_stage=tuple(features),
            kernel_sizes=tuple(kernel_sizes),
            strides=tuple(strides),
            blocks_per_stage=_extend(self.encoder_units, stages),
            decoder_blocks_per_stage=_extend(self.decoder_units or self.encoder_units, stages - 1)[::-1],
            unit=self._build_unit(stages),
            layers=self.layers,
            output_weights=output_weights,
        )

    def build_published(self, features: Sequence[int], *, input_channels: int, output_channels: int) -> AdditiveUPlan:
        """Builds the network of a paper, which halves all three axes with every stage."""
        return self.build(
            features,
            kernel_sizes=((self.kernel,) * 3,) * len(features),
            strides=((1,) * 3, *((2,) * 3,) * (len(features) - 1)),
            input_channels=input_channels,
            output_channels=output_channels,
        )

    def _build_unit(self, stages: int) -> MedNeXtUnitPlan | PreActivationUnitPlan:
        if self.expansion_ratios is None:
            return PreActivationUnitPlan(upsampling=self.upsampling)
        return MedNeXtUnitPlan(
            expansion_ratios=_extend(self.expansion_ratios, stages), response_normalization=self.response_normalization
        )


def choose_output_weights(topology: Topology) -> Decision[tuple[float, ...]]:
    """Chooses the weights of the trained outputs, halved with every resolution."""
    supervised = choose_deep_supervision(topology)
    count = topology.stage_count - 2 if supervised.value else 1
    return Decision(tuple(0.5**index for index in range(count)), supervised.because)


def _extend(first: tuple[int, ...], count: int) -> tuple[int, ...]:
    return tuple(first[min(index, len(first) - 1)] for index in range(count))
