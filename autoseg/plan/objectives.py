"""Objectives, which compute the loss of a batch, by their names.

One more objective is one more subclass of `ObjectivePlan` and one more row of `OBJECTIVE_PLANS`. What it computes is a
file and a row in `autoseg.training.objectives`.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.losses import ObjectivePlan, SegmentationObjective
from autoseg.plan.network.base import NetworkPlan, PerStageExtents
from autoseg.plan.network.detector import DetectorPlan
from autoseg.plan.network.label_autoencoder import LabelAutoencoderPlan
from autoseg.plan.network.mask_rcnn import MaskRcnnPlan
from autoseg.plan.network.point_rend import PointRendPlan
from autoseg.plan.values import ChannelCounts, Count, Finite, Fraction, NonNegative, Positive


class ReconstructionObjective(ObjectivePlan):
    """The loss terms compare the labels with what a label autoencoder makes of them; images are not used."""

    name: Literal["reconstruction"] = "reconstruction"

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network that is no label autoencoder."""
        if isinstance(network, LabelAutoencoderPlan):
            return None
        return f"objective 'reconstruction' needs a network of the family label_autoencoder (got {network.family!r})"


class LatentDiffusionObjective(ObjectivePlan):
    """The mean absolute difference of estimated and true latents, and the loss terms (arXiv:2406.18361).

    Attributes:
        latent_weight: Weight of the difference of latents.
        noise_weight: Weight of the difference of estimated and true noise, where the network estimates noise.
        last_step_fraction: Share of the samples with the noise of the last step, from which prediction begins; the
            others have that of a random step. 0: as published.
        segmentation_weight: Weight of the loss terms, which compare the decoded latents with the labels.
        autoencoder_iterations: Iterations in which the label autoencoder of the network is trained before.
    """

    name: Literal["latent_diffusion"] = "latent_diffusion"
    latent_weight: Positive
    noise_weight: NonNegative
    last_step_fraction: Fraction
    segmentation_weight: NonNegative
    autoencoder_iterations: Count

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network without latents."""
        if network.find_label_autoencoder() is not None:
            return None
        return f"objective 'latent_diffusion' needs a network of the family latent_diffusion (got {network.family!r})"


class DenoisingObjective(ObjectivePlan):
    """The mean squared difference of what a denoiser of label maps estimates, and the loss terms (arXiv:2208.04202).

    Attributes:
        estimate_weight: Weight of the difference of the estimate, noise or bits.
        segmentation_weight: Weight of the loss terms, which compare the logits that the estimate means with the labels.
        last_step_fraction: Share of the samples with the noise of the last step, from which prediction begins; the
            others have that of a random step. 0: as published.
        image_dropout: Probability that a sample is denoised without its image, which guidance needs.
    """

    name: Literal["denoising"] = "denoising"
    estimate_weight: Positive
    segmentation_weight: NonNegative
    last_step_fraction: Fraction
    image_dropout: Fraction

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network that denoises no label maps, or one that was never to see what guidance asks it for."""
        if network.required_objective != self.name:
            return f"objective 'denoising' needs a network of the family diffusion_unet (got {network.family!r})"
        if network.is_guided and self.image_dropout == 0:
            return "objective.image_dropout must be above 0, for example 0.1, for a guidance_scale other than 1 (got 0)"
        return None


class ChannelRange(Part):
    """Intensities of a channel of preprocessed images.

    Attributes:
        std: 1 for a channel of one value.
    """

    mean: Finite
    std: Positive
    lowest: Finite
    highest: Finite


class ImageDenoisingObjective(ObjectivePlan):
    """The mean squared difference of images and what a denoiser of images estimates; the loss terms are not used.

    Attributes:
        channels: Intensities of every channel, which the denoiser sees with a mean of 0 and a standard deviation of 1.
        mask_dropout: Probability that an image is denoised without its label map, which guidance needs.
    """

    name: Literal["image_denoising"] = "image_denoising"
    channels: Annotated[tuple[ChannelRange, ...], Field(min_length=1)]
    mask_dropout: Fraction

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network that denoises no images, or other channels, or that was never to see what guidance asks."""
        if network.required_objective != self.name:
            return (
                f"objective 'image_denoising' needs a network of the family diffusion_unet whose estimate is 'image' "
                f"(got {network.family!r})"
            )
        if len(self.channels) != network.output_channels:
            return f"objective.channels must describe {network.output_channels} channels (got {len(self.channels)})"
        if network.is_guided and self.mask_dropout == 0:
            return "objective.mask_dropout must be above 0, for example 0.1, for a guidance_scale other than 1 (got 0)"
        return None


def find_autoencoder_problem(autoencoder: LabelAutoencoderPlan, network: NetworkPlan, field: str) -> str | None:
    """Finds a label autoencoder for other label maps than those that a network predicts; `field` is where it stands."""
    wanted = (network.dimensions, network.output_channels, network.output_channels)
    found = (autoencoder.dimensions, autoencoder.input_channels, autoencoder.output_channels)
    if found == wanted:
        return None
    return f"{field} must have dimensions and channels {wanted}, as the network (got {found})"


class ShapePriorObjective(ObjectivePlan):
    """The loss terms, and the squared difference of latents of prediction and labels (arXiv:1705.08302).

    Attributes:
        shape_prior_weight: Weight of the mean squared difference of latents; 0: the loss terms alone.
        autoencoder: The label autoencoder that computes the latents, which is trained before and then frozen.
        autoencoder_iterations: Iterations in which it is trained.
    """

    name: Literal["shape_prior"] = "shape_prior"
    shape_prior_weight: NonNegative
    autoencoder: LabelAutoencoderPlan
    autoencoder_iterations: Count

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds an autoencoder that does not fit the outputs of the network, or its patches."""
        unfit = find_autoencoder_problem(self.autoencoder, network, "objective.autoencoder")
        if unfit is not None:
            return unfit
        if any(network.margin_voxels) or any(
            whole % part for whole, part in zip(network.patch_divisors, self.autoencoder.patch_divisors, strict=True)
        ):
            return "objective 'shape_prior' needs a network without margins whose strides contain the autoencoder's"
        return super().find_problem(network)


class AdversarialObjective(ObjectivePlan):
    """The loss terms, and the cross entropy of predictions that are to be taken for label maps (arXiv:1611.08408).

    Attributes:
        adversarial_weight: Weight of the cross entropy; 0: the loss terms alone.
        discriminator_features: Channels of every convolution of the discriminator, which sees the image beside a label
            map or a prediction.
        discriminator_strides: Strides of every convolution, one value per axis.
    """

    name: Literal["adversarial"] = "adversarial"
    adversarial_weight: NonNegative
    discriminator_features: ChannelCounts
    discriminator_strides: PerStageExtents

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a discriminator that does not fit the images of the network."""
        if len(self.discriminator_strides) != len(self.discriminator_features):
            return (
                f"objective.discriminator_strides must describe the {len(self.discriminator_features)} convolutions of "
                f"discriminator_features (got {len(self.discriminator_strides)})"
            )
        if any(len(stride) != network.dimensions for stride in self.discriminator_strides):
            return f"objective.discriminator_strides must have {network.dimensions} values each, as the network"
        return super().find_problem(network)


class PointRendObjective(ObjectivePlan):
    """The loss terms of the coarse map and of lower levels, and cross entropy of points (arXiv:1912.08193).

    Cross entropy alone answers points of thin structures by background more often than a loss with Dice would: the
    Dice of a sample of voxels, rendered as in prediction, lets points be answered as the planned loss asks.

    Attributes:
        candidates_per_point: Voxels that are drawn, per point, for the most uncertain to be found among.
        uncertain_fraction: Share of the points that are the most uncertain candidates; the others are drawn uniformly.
        point_weight: Weight of the cross entropy of points.
        sample_dice_weight: Factor on the Dice of the loss, if it has one, of the candidates, the most uncertain of
            which have the logits of points, the others those of the coarse map, which it does not change; 0: as
            published.
    """

    name: Literal["point_rend"] = "point_rend"
    candidates_per_point: Count
    uncertain_fraction: Fraction
    point_weight: Positive
    # Left out where it is 0: the digest of trainings of earlier versions, which had none, stays the same.
    sample_dice_weight: NonNegative = Field(default=0.0, exclude_if=lambda weight: weight == 0)

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network without a head for points."""
        if isinstance(network, PointRendPlan):
            return None
        return f"objective 'point_rend' needs a network of the family point_rend (got {network.family!r})"


class DetectionObjective(ObjectivePlan):
    """Boxes of a detector are compared with those of the objects; the loss terms are not used (arXiv:2209.02976).

    An object is a connected component of the foreground, the classes of its box are those that it holds. Its cells are
    those with the highest products of powers of their score and of the overlap of their box with its own
    (task-aligned assignment, Feng et al. 2021, arXiv:2108.07755).

    Attributes:
        dilation_mm: Distance by which the box of an object is larger than it, at either end of each axis.
        cells_per_object: Cells that are assigned to each object, at most.
        score_power: Power of the score.
        overlap_power: Power of the overlap.
        class_weight: Weight of the varifocal loss of scores (Zhang et al. 2021, arXiv:2008.13367).
        negative_weight: Factor in it on cells without an object.
        focusing_power: Power in it of the scores of these.
        box_loss: Loss of boxes: one minus the intersection over union, or a variant of it.
        box_weight: Weight of the loss of boxes.
        bin_weight: Weight of the distribution focal loss of distances (Li et al. 2020, arXiv:2006.04388).
    """

    name: Literal["detection"] = "detection"
    dilation_mm: NonNegative
    cells_per_object: Count
    score_power: NonNegative
    overlap_power: NonNegative
    class_weight: Positive
    negative_weight: NonNegative
    focusing_power: NonNegative
    box_loss: Literal["iou", "giou", "diou", "ciou", "siou"]
    box_weight: Positive
    bin_weight: NonNegative

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network that is no detector, or that gives no bins."""
        if not isinstance(network, DetectorPlan):
            return f"objective 'detection' needs a network of the family detector (got {network.family!r})"
        if self.bin_weight > 0 and network.distance_bins == 1:
            return (
                "objective.bin_weight must be 0 for a detector with distance_bins 1, which gives distances themselves"
            )
        return None


class MaskRcnnObjective(ObjectivePlan):
    """Objects of Mask R-CNN are compared with those of the labels; the loss terms are not used (arXiv:1703.06870).

    Proposals are trained as the boxes of a detector of one class are; regions by the sum of the losses of their class,
    their box and, where they have an object, the mask of its class.

    Attributes:
        cells_per_object: Cells that are assigned to each object, at most.
        score_power: Power of the score in the product by which they are.
        overlap_power: Power of the overlap in it.
        negative_weight: Factor in the varifocal loss on cells without an object.
        focusing_power: Power in it of the scores of these.
        box_loss: Loss of the boxes of cells.
        box_weight: Its weight.
        class_weight: Weight of the cross entropy of the classes of regions.
        offset_weight: Weight of the loss of their boxes.
        mask_weight: Weight of the cross entropy of masks.
    """

    name: Literal["mask_rcnn"] = "mask_rcnn"
    cells_per_object: Count
    score_power: NonNegative
    overlap_power: NonNegative
    negative_weight: NonNegative
    focusing_power: NonNegative
    box_loss: Literal["iou", "giou", "diou", "ciou", "siou"]
    box_weight: Positive
    class_weight: Positive
    offset_weight: Positive
    mask_weight: Positive

    def find_problem(self, network: NetworkPlan) -> str | None:
        """Finds a network that finds no objects."""
        if isinstance(network, MaskRcnnPlan):
            return None
        return f"objective 'mask_rcnn' needs a network of the family mask_rcnn (got {network.family!r})"


class PlausibilityPlan(Part):
    """A label autoencoder that tells how plausible predictions are; the training of the network knows nothing of it.

    Attributes:
        autoencoder: The label autoencoder, which is trained before the network.
        autoencoder_iterations: Iterations in which it is trained.
    """

    autoencoder: LabelAutoencoderPlan
    autoencoder_iterations: Count

    def find_problem(self, network: NetworkPlan, objective: ObjectivePlan, patch_voxels: tuple[int, ...]) -> str | None:
        """Finds a reason why it cannot stand beside a network that is trained so on such patches."""
        has_own = isinstance(objective, ShapePriorObjective | ReconstructionObjective)
        if has_own or network.find_label_autoencoder() is not None:
            return f"plausibility must be null beside the objective {objective.name!r}, which has a label autoencoder"
        if network.finds_boxes or network.finds_objects:
            return f"plausibility must be null for a network of the family {network.family}, which finds objects"
        unfit = find_autoencoder_problem(self.autoencoder, network, "plausibility.autoencoder")
        divisors = self.autoencoder.patch_divisors
        if unfit is None and any(extent % step for extent, step in zip(patch_voxels, divisors, strict=True)):
            return f"plausibility.autoencoder.strides must divide patch_voxels {patch_voxels} (got {divisors})"
        return unfit


OBJECTIVE_PLANS: Final[dict[str, type[ObjectivePlan]]] = {
    "segmentation": SegmentationObjective,
    "reconstruction": ReconstructionObjective,
    "latent_diffusion": LatentDiffusionObjective,
    "denoising": DenoisingObjective,
    "image_denoising": ImageDenoisingObjective,
    "shape_prior": ShapePriorObjective,
    "adversarial": AdversarialObjective,
    "point_rend": PointRendObjective,
    "detection": DetectionObjective,
    "mask_rcnn": MaskRcnnObjective,
}
