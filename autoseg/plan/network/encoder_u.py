"""Networks with an encoder of the literature, and those of them that are U-shaped.

One more encoder is one more subclass of `EncoderPlan` and one more row of `ENCODER_PLANS` (its module: a file and a row
in `autoseg.networks.parts.encoders`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import OneOf, Part
from autoseg.plan.network.base import PretrainedPlan, StagedNetworkPlan
from autoseg.plan.network.contexts import CONTEXT_PLANS, ContextPlan
from autoseg.plan.network.layers import DecoderFeatures, LayerPlan
from autoseg.plan.values import MOST_BLOCKS, MOST_STAGES, ChannelCount

EncoderDepths = Annotated[tuple[Annotated[int, Field(ge=0, le=MOST_BLOCKS)], ...], Field(max_length=MOST_STAGES)]


class EncoderPlan(Part):
    """An encoder whose stages are those of a network of the literature.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class VggEncoderPlan(EncoderPlan):
    """Convolutions after maximum poolings (Simonyan and Zisserman 2015, arXiv:1409.1556)."""

    name: Literal["vgg"] = "vgg"


class ResNetEncoderPlan(EncoderPlan):
    """A strided convolution, a maximum pooling, residual blocks (He et al. 2016, arXiv:1512.03385).

    Stage 0 is the image, stage 1 the convolution.

    Attributes:
        block: "basic": two convolutions; "bottleneck": three, of which the middle one has a quarter of the features.
    """

    name: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"]


class DenseNetEncoderPlan(EncoderPlan):
    """A strided convolution, a maximum pooling, dense blocks with transitions (Huang et al. 2017, arXiv:1608.06993).

    Stage 0 is the image, stage 1 the convolution. A transition halves the features before the next stage.

    Attributes:
        growth: Features that every layer of a dense block adds.
    """

    name: Literal["densenet"] = "densenet"
    growth: ChannelCount


ENCODER_PLANS: Final[dict[str, type[EncoderPlan]]] = {
    "vgg": VggEncoderPlan,
    "resnet": ResNetEncoderPlan,
    "densenet": DenseNetEncoderPlan,
}


COLOURS: Final = 3


class EncoderOfLiteraturePlan(StagedNetworkPlan):
    """A network with an encoder of the literature; abstract.

    The features of stage 0, where an encoder begins below it, are those of its convolution.

    Attributes:
        encoder: Kind of the encoder.
        blocks_per_stage: Convolutions, residual blocks or layers of a dense block of each stage. 0: a pooling alone, or
            what comes before the first block.
        pretrained: The weights with which training begins; None: random ones.
        layers: Normalization and activation.
    """

    encoder: Annotated[EncoderPlan, OneOf(ENCODER_PLANS, "name")]
    blocks_per_stage: EncoderDepths
    pretrained: PretrainedPlan | None = None
    layers: LayerPlan

    def find_pretrained(self) -> PretrainedPlan | None:
        """Finds the weights with which the encoder begins."""
        return self.pretrained

    def with_pretrained(self, pretrained: PretrainedPlan | None) -> "EncoderOfLiteraturePlan":
        """Returns the plan with other first weights of the encoder."""
        return self.model_copy(update={"pretrained": pretrained})

    def describe_weights(self) -> str:
        """Describes the first weights of the encoder."""
        return "random" if self.pretrained is None else self.pretrained.describe()

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of blocks."""
        return {**super().find_lengths(), "blocks_per_stage": len(self.blocks_per_stage)}

    @model_validator(mode="before")
    @classmethod
    def _complete_pretrained(cls, content: Any) -> Any:
        """Adds the rule of an earlier version, which did not name one: three channels were red, green and blue."""
        pretrained = content.get("pretrained") if isinstance(content, Mapping) else None
        if not isinstance(pretrained, Mapping) or "first_kernels" in pretrained:
            return content
        rule = "by_colour" if content.get("input_channels") == COLOURS else "mean"
        return {**content, "pretrained": {**pretrained, "first_kernels": rule}}

    @model_validator(mode="after")
    def _check_growth(self) -> "EncoderOfLiteraturePlan":
        if not isinstance(self.encoder, DenseNetEncoderPlan):
            return self
        for stage in range(2, self.stage_count):
            before = self.features_per_stage[stage - 1] // (1 if stage == 2 else 2)
            expected = before + self.blocks_per_stage[stage] * self.encoder.growth
            if self.features_per_stage[stage] != expected:
                msg = (
                    f"features_per_stage.{stage} must be {expected}, as {self.blocks_per_stage[stage]} layers add "
                    f"{self.encoder.growth} features each to {before} (got {self.features_per_stage[stage]})"
                )
                raise ValueError(msg)
        return self


class EncoderUPlan(EncoderOfLiteraturePlan):
    """An encoder of the literature, whose stages give the skip connections of a decoder.

    Attributes:
        decoder: "convolution": a convolution, then a transposed one; skip connections are concatenated (Iglovikov and
            Shvets 2018, arXiv:1801.05746). "bottleneck": a transposed convolution of a quarter of the features between
            convolutions of one voxel; skip connections are added (Gu et al. 2019, arXiv:1903.02740).
        decoder_features_per_stage: Channels of each decoder stage, one fewer than there are stages; index 0 is the
            lowest resolution. Where skip connections are added, those of the encoder's stage.
        contexts: Modules at the bottleneck, one after the other.
    """

    family: Literal["encoder_u"] = "encoder_u"
    decoder: Literal["convolution", "bottleneck"]
    decoder_features_per_stage: DecoderFeatures
    contexts: Annotated[tuple[Annotated[ContextPlan, OneOf(CONTEXT_PLANS, "name")], ...], Field(max_length=8)]

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and what they are made of."""
        parts = (self.encoder.name, f"{self.decoder} decoder", *(context.name for context in self.contexts))
        layers = (self.layers.normalization, self.layers.activation)
        return {
            **super().describe(),
            "parts": ", ".join((*parts, *layers)),
            "first weights": self.describe_weights(),
        }

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of blocks and decoder."""
        return {**super().find_lengths(), "decoder_features_per_stage": len(self.decoder_features_per_stage) + 1}

    @model_validator(mode="after")
    def _check_sums(self) -> "EncoderUPlan":
        if self.decoder != "bottleneck":
            return self
        if isinstance(self.encoder, VggEncoderPlan):
            msg = "decoder must be 'convolution' for the encoder vgg: sums of features begin with stage 2"
            raise ValueError(msg)
        decoded = self.decoder_features_per_stage[::-1]
        for stage in range(2, self.stage_count - 1):
            if decoded[stage] != self.features_per_stage[stage]:
                msg = (
                    f"decoder_features_per_stage must hold the {self.features_per_stage[stage]} features of stage "
                    f"{stage}, to which they are added (got {decoded[stage]})"
                )
                raise ValueError(msg)
        return self
