"""Training of diffusion of images, given their label maps (arXiv:2006.11239, with the roles of arXiv:2208.04202
exchanged)."""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from autoseg.labels import LabelScheme
from autoseg.networks.network import SegmentationNetwork
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.objectives import ChannelRange, ImageDenoisingObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.runtime.streams import copy_to_device, fill_numbers
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, find_valid_voxels
from autoseg.training.objectives.objective import NetworkCall, Objective

VALIDATION_SEED: Final = 0


class ImageDenoising(Objective):
    """The mean squared difference of images and their estimates from noise that was added to them.

    Nothing is segmented, so that validation scores no logits.
    """

    def __init__(
        self, plan: ConfigurationPlan, labels: LabelScheme, network: SegmentationNetwork, *, part: BatchPart, seed: int
    ) -> None:
        super().__init__()
        del network, seed
        assert isinstance(plan.training.objective, ImageDenoisingObjective), "the table of objectives says so"
        assert isinstance(plan.network, DiffusionUNetPlan), "plans are checked"
        self.plan, self.network, self.labels, self.part = plan.training.objective, plan.network, labels, part

    def find_capture_problem(self) -> str | None:
        """Finds that the noise is drawn on the CPU."""
        return "the noise of diffusion is drawn on the CPU"

    def forward(self, network: NetworkCall, batch: Batch) -> tuple[Tensor, Tensor]:
        """Calls the network once, on the masks of label maps in place of images."""
        start = standardize(batch.image, self.plan.channels)
        noise, steps, kept = self._draw(start)
        (found,) = network(build_condition(batch.label_map, self.labels) * kept, start, noise, steps)
        loss = self.part.add_up((found.float() - start).square().mean() * self.part.share)
        return loss, found.new_zeros((0, self.labels.output_channel_count, *found.shape[2:]))

    def _draw(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws noise, steps, and which samples keep their label map: in training anew in every iteration, in
        validation always the same noise and steps, with every label map."""
        generator = None if self.training else torch.Generator().manual_seed(VALIDATION_SEED)
        count = len(start)
        noise = torch.randn(start.shape, generator=generator)
        steps = torch.randint(1, self.network.diffusion.steps + 1, (count,), generator=generator)
        is_kept = torch.rand(count, generator=generator) >= (self.plan.mask_dropout if self.training else 0.0)
        kept = is_kept.float().reshape(-1, *(1,) * (start.ndim - 1))
        noise, steps, kept = (copy_to_device(drawn, start.device) for drawn in (noise, steps, kept))
        return noise, steps, kept


def count_condition_channels(labels: LabelScheme) -> int:
    """Counts the channels of `build_condition`."""
    return labels.output_channel_count + (labels.ignore_label is not None)


def build_condition(
    label_map: Int16[Tensor, " batch *space"], labels: LabelScheme
) -> Float32[Tensor, "batch channel *space"]:
    """Builds what tells a denoiser of images their label map: the masks of all outputs, one of ignored voxels last.

    Ignored voxels are in no other mask: what they show is not known.
    """
    masks, valid = build_output_masks(label_map, labels), find_valid_voxels(label_map, labels)
    return masks if valid is None else torch.cat((masks * valid, (~valid).float()), dim=1)


def standardize(
    image: Float32[Tensor, "batch channel *space"], channels: Sequence[ChannelRange]
) -> Float32[Tensor, "batch channel *space"]:
    """Brings the channels of preprocessed images to a mean of 0 and a standard deviation of 1."""
    means, stds = (place_channels(values, image) for values in _list_moments(channels))
    return (image - means) / stds


def restore_intensities(
    image: Float32[Tensor, "batch channel *space"], channels: Sequence[ChannelRange]
) -> Float32[Tensor, "batch channel *space"]:
    """Undoes `standardize`."""
    means, stds = (place_channels(values, image) for values in _list_moments(channels))
    return image * stds + means


def place_channels(values: Sequence[float], like: Tensor) -> Tensor:
    """Returns one value a channel, in the shape in which it changes images."""
    return fill_numbers(values, like.device, shape=(1, -1, *(1,) * (like.ndim - 2)), dtype=like.dtype)


def _list_moments(channels: Sequence[ChannelRange]) -> tuple[list[float], list[float]]:
    return [channel.mean for channel in channels], [channel.std for channel in channels]
