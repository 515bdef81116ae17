"""The plans that all families of networks extend."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoseg.document import Part
from autoseg.plan.values import MOST_STAGES, ChannelCount, ChannelCounts, KernelExtents

PerStageExtents = Annotated[tuple[KernelExtents, ...], Field(max_length=MOST_STAGES)]


class PretrainedPlan(Part):
    """A local file of weights with which the training of an encoder begins.

    Attributes:
        path: Absolute path of the file.
        sha256: SHA-256 of its content.
        first_kernels: Rule for the kernels that see the image. "by_colour": those for red, green and blue are kept, as
            the channels are these three. "mean": every channel gets their mean, in such a proportion that equal
            channels give the response to a grey image.
        parts: Parts of the network that the file has weights for, where these are not one encoder: the "autoencoder" of
            latents, and the "denoiser".
    """

    path: Path
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    first_kernels: Literal["by_colour", "mean"]
    parts: tuple[Literal["autoencoder", "denoiser"], ...] = ()

    def describe(self) -> str:
        """Describes the file in a few words."""
        kernels = "kept by colour" if self.first_kernels == "by_colour" else "the mean of all colours"
        return f"{self.path.name} ({self.sha256:.8}), first kernels {kernels}"


class NetworkPlan(Part):
    """A network of any family; abstract. `NETWORK_PLANS` has the families.

    Attributes:
        family: Key of `NETWORK_PLANS`, and of the table of networks that are built from such plans.
        dimensions: Spatial axes of the input.
        input_channels: Image channels, and masks of a previous stage.
        output_channels: Logit channels.
        planes: Number of networks, one for the slices across each of `plane_axes` of the configuration; 1: one sees
            them all.
    """

    family: str
    dimensions: Literal[2, 3]
    input_channels: ChannelCount
    output_channels: ChannelCount
    planes: Annotated[int, Field(ge=1, le=3)] = Field(default=1, exclude_if=lambda count: count == 1)

    @property
    @abstractmethod
    def patch_divisors(self) -> tuple[int, ...]:
        """The number of voxels per axis of which the extent of every input must be a multiple."""

    @property
    def margin_voxels(self) -> tuple[int, ...]:
        """The number of voxels per axis by which the first output is smaller than the input at either end."""
        return (0,) * self.dimensions

    @property
    def trained_output_count(self) -> int:
        """How many outputs are compared with the labels in training; 1 for families without deep supervision."""
        return 1

    @property
    def required_objective(self) -> str | None:
        """Name of the only objective that trains the network; None for most families: any that compares logits."""
        return None

    @property
    def is_guided(self) -> bool:
        """Whether prediction also estimates without the image, which training must then have shown to the network."""
        return False

    @property
    def prediction_calls(self) -> int:
        """How often a prediction computes what a training step computes once; 1 for most families."""
        return 1

    @property
    def validation_calls(self) -> int:
        """The same of a step of validation: the call of the loss, and those of a prediction where they are others."""
        return 1 if self.prediction_calls == 1 else 1 + self.prediction_calls

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Describes the parameters of the family in a few words each, by short headings, for a table about the plan.

        The heading "features" is in every table: the channels of the stages, divided by spaces.
        """

    def find_pretrained(self) -> PretrainedPlan | None:
        """Finds the weights with which the training of an encoder begins; None: all weights are random."""
        return None

    def with_pretrained(self, pretrained: PretrainedPlan | None) -> "NetworkPlan":
        """Returns the plan with other first weights; itself where the family has no encoder of the literature."""
        del pretrained
        return self

    @property
    def may_have_planes(self) -> bool:
        """Whether there may be a network for each plane: where any objective that compares logits trains it, alone."""
        return self.dimensions == 2 and self.required_objective is None and self.find_label_autoencoder() is None

    def with_planes(self, count: int) -> "NetworkPlan":
        """Returns the plan of so many networks alike."""
        return self.model_copy(update={"planes": count})

    def with_input_channels(self, count: int) -> "NetworkPlan":
        """Returns the plan of the same network for so many input channels."""
        return self.model_copy(update={"input_channels": count})

    @property
    def finds_boxes(self) -> bool:
        """Whether logits tell the boxes of objects, not their voxels: good for a first stage alone."""
        return False

    @property
    def finds_objects(self) -> bool:
        """Whether logits are those of cores and borders of objects that the network finds one by one."""
        return False

    def find_label_autoencoder(self) -> "NetworkPlan | None":
        """Finds the label autoencoder that the network contains, which is trained before it; None for most families."""
        return None

    def list_pruned_depths(self) -> tuple[int, ...]:
        """Lists the depths to which a trained network can be pruned, the smallest first; none for most families."""
        return ()

    def prune(self, depth: int) -> "NetworkPlan":
        """Returns the plan of the network that is left at a depth, a part of the whole one.

        Its weights have the names and shapes that they have in the whole network.

        Raises:
            ValueError: The network cannot be pruned to that depth.
        """
        msg = f"networks of the family {self.family} cannot be pruned (got the depth {depth})"
        raise ValueError(msg)


class StagedNetworkPlan(NetworkPlan):
    """A network whose stages halve the resolution by the strides of the topology rule; abstract.

    Stage 0 has the full resolution, the last stage is the bottleneck.

    Attributes:
        features_per_stage: Channels of each stage.
        kernel_sizes: Per stage, one value per axis.
        strides: Per stage; the first stage has ones.
    """

    features_per_stage: ChannelCounts
    kernel_sizes: PerStageExtents
    strides: PerStageExtents

    @property
    def stage_count(self) -> int:
        """Number of resolutions, the bottleneck included."""
        return len(self.features_per_stage)

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        """The product of the strides of every axis."""
        return tuple(prod(steps) for steps in zip(*self.strides, strict=True))

    def describe(self) -> Mapping[str, str]:
        """Describes features, strides and kernels of all stages."""
        return {
            "features": " ".join(map(str, self.features_per_stage)),
            "strides": _format_per_axis(self.strides),
            "kernels": _format_per_axis(self.kernel_sizes),
        }

    def find_lengths(self) -> Mapping[str, int]:
        """Finds for which number of stages every field is made that has one entry per stage."""
        return {"kernel_sizes": len(self.kernel_sizes), "strides": len(self.strides)}

    @model_validator(mode="after")
    def _check_stages(self) -> "StagedNetworkPlan":
        for field, length in self.find_lengths().items():
            if length != self.stage_count:
                msg = f"{field} must describe the {self.stage_count} stages of features_per_stage"
                raise ValueError(msg)
        if any(len(entry) != self.dimensions for entry in (*self.kernel_sizes, *self.strides)):
            msg = f"kernel_sizes and strides must have {self.dimensions} values per stage"
            raise ValueError(msg)
        if any(extent % 2 == 0 for entry in self.kernel_sizes for extent in entry):
            msg = "kernel_sizes must be odd, or outputs would not lie on their inputs"
            raise ValueError(msg)
        if any(step != 1 for step in self.strides[0]):
            msg = "strides.0 must be ones: the first stage has the full resolution"
            raise ValueError(msg)
        return self


def _format_per_axis(stages: Sequence[Sequence[int]]) -> str:
    return " ".join("x".join(map(str, entry)) for entry in stages)
