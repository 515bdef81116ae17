"""Label autoencoders: what label maps can look like, as few numbers at a coarser grid."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from autoseg.document import Part
from autoseg.plan.network.base import StagedNetworkPlan
from autoseg.plan.values import BlockCount, ChannelCount, NonNegative

PICTURE_CHANNELS: Final = 3
ColourValue = Annotated[float, Field(ge=-1, le=1)]
Colour = tuple[ColourValue, ColourValue, ColourValue]


class LabelPicturesPlan(Part):
    """Pictures in red, green and blue that stand for label maps, for an autoencoder that was made for pictures.

    Attributes:
        colours: The colour of every output, from -1 to 1.
        kind: "labels": a voxel has the colour of its label, and the nearest colour tells the label. "regions", which
            may overlap: every region has channels of its own, 1 inside and -1 outside; its colour tells which.
    """

    colours: Annotated[tuple[Colour, ...], Field(min_length=1)]
    kind: Literal["labels", "regions"]

    @model_validator(mode="after")
    def _check_colours(self) -> "LabelPicturesPlan":
        if len(set(self.colours)) < len(self.colours):
            msg = "colours must differ, or nothing would tell the outputs apart"
            raise ValueError(msg)
        if self.kind == "labels":
            return self
        own = [[value for value in channel if value > -1] for channel in zip(*self.colours, strict=True)]
        if any(max(colour) < 1 for colour in self.colours) or any(len(values) > 1 for values in own):
            msg = "colours of regions must be 1 in a channel or more, which no other region has, and -1 in the others"
            raise ValueError(msg)
        return self


class LabelAutoencoderPlan(StagedNetworkPlan):
    """An encoder to latents and a decoder without skip connections (Rombach et al. 2022, arXiv:2112.10752).

    Its image is a label map, with one channel per output of a segmentation network. The latents lie on the grid of the
    last stage.

    Attributes:
        blocks_per_stage: Residual blocks of every stage of the encoder; the decoder has one more.
        latent_channels: Channels of the latents.
        latents: "bounded": a hyperbolic tangent keeps them between -1 and 1. "gaussian": the means of the autoencoder
            of Stable Diffusion, which also predicts variances, times 0.18215.
        latent_noise: Standard deviation of the noise that is added to the latents in training, so that similar latents
            mean similar label maps.
        has_attention: Whether the voxels of the last stage attend to each other.
        pictures: The pictures that stand for label maps, for the weights of Stable Diffusion; None: it sees label maps.
    """

    family: Literal["label_autoencoder"] = "label_autoencoder"
    blocks_per_stage: BlockCount
    latent_channels: ChannelCount
    latents: Literal["bounded", "gaussian"]
    latent_noise: NonNegative
    has_attention: bool
    pictures: LabelPicturesPlan | None = None

    def describe(self) -> Mapping[str, str]:
        """Describes the stages and the latents."""
        factor = " x ".join(map(str, self.patch_divisors))
        return {**super().describe(), "latents": f"{self.latent_channels} channels at 1 / ({factor})"}

    @model_validator(mode="after")
    def _check_latents(self) -> "LabelAutoencoderPlan":
        if prod(self.patch_divisors) == 1:
            msg = "strides must hold one above 1, or the latents would be as fine as the label map"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _check_pictures(self) -> "LabelAutoencoderPlan":
        if self.pictures is None:
            return self
        halving = (
            all(set(kernel) == {3} for kernel in self.kernel_sizes)
            and self.patch_divisors == (2 ** (self.stage_count - 1),) * self.dimensions
        )
        if self.dimensions != 2 or self.latents != "gaussian" or not halving:
            msg = (
                "pictures need dimensions 2, latents 'gaussian', kernel_sizes of 3 and strides of 2, as the "
                "autoencoder of Stable Diffusion has"
            )
            raise ValueError(msg)
        if len(self.pictures.colours) != self.output_channels:
            msg = f"pictures.colours must be {self.output_channels}, one per output (got {len(self.pictures.colours)})"
            raise ValueError(msg)
        return self
