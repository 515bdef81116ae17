"""Neighbouring slices as further channels of a 2D network ("2.5D")."""

from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.reference import FLAT_PATCH_RATIO
from planners.reasons import format_amount, format_lengths, record, record_offer
from planners.rules.augmentation import ChooseAugmentation, choose_augmentation, describe_rotation
from planners.rules.median_shape import ResampledDataset

CONTEXT = "2.5d"
SLICES = "2d"

DISTANT_FACTOR: Final = 3.0
"""Slices are far apart where their distance is more than this number of pixels: the anisotropy factor of the nnU-Net
paper, whose 3D patches are then turned in plane only."""
CONTEXT_SLICES: Final = 2
DISTANT_CONTEXT_SLICES: Final = 1
"""Slices on either side, both guesses: Vu et al. 2020 (arXiv:1912.09287) compare several numbers of slices and find a
significant improvement over single ones on one of five data sets alone."""


def choose_context(
    slices: ConfigurationPlan, dataset: ResampledDataset, choose_transforms: ChooseAugmentation
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Chooses the configuration whose network segments a slice and also sees its neighbours.

    The estimate of the memory ignores input channels, so patch and batch are those of the 2D network.

    Args:
        slices: The 2D configuration.
        dataset: The dataset at full resolution, in three axes.
        choose_transforms: Chooses the augmentation for a patch.
    """
    context = choose_context_slices(slices.patch_voxels, dataset)
    chosen = with_context(slices, context.value, choose_transforms)
    return chosen, _explain(slices, context, choose_transforms)


def choose_context_slices(patch_voxels: tuple[int, ...], dataset: ResampledDataset) -> Decision[int]:
    """Chooses the number of neighbouring slices on either side of the one that is segmented."""
    factor = compute_slice_distance(dataset)
    wanted = DISTANT_CONTEXT_SLICES if factor > DISTANT_FACTOR else CONTEXT_SLICES
    compared = "more" if factor > DISTANT_FACTOR else "not more"
    count = wanted
    while count and FLAT_PATCH_RATIO * (2 * count + 1) >= max(patch_voxels):
        count -= 1
    fewer = "" if count == wanted else f", of which {count} are left so that the patch is flat enough to turn in plane"
    return Decision(
        count,
        f"slices are {format_lengths(dataset.spacing_mm[:1], dataset.distance_unit)} apart, {factor:.3g} times the "
        f"spacing in plane and so {compared} than {DISTANT_FACTOR:g} times: {wanted} on either side{fewer}",
    )


def compute_slice_distance(dataset: ResampledDataset) -> float:
    """Computes the distance of slices as a multiple of the coarser spacing in plane."""
    return dataset.spacing_mm[0] / max(dataset.spacing_mm[1:])


def with_context(
    slices: ConfigurationPlan, context_slices: int, choose_transforms: ChooseAugmentation = choose_augmentation
) -> ConfigurationPlan:
    """Returns the configuration that sees so many slices on either side; with 0 it is that of single slices."""
    if not context_slices:
        return slices.model_copy(update={"data_of": SLICES})
    count = 2 * context_slices + 1
    transforms = choose_transforms((count, *slices.patch_voxels)).value
    channels = slices.network.input_channels * count
    return slices.model_copy(
        update={
            "data_of": SLICES,
            "context_slices": context_slices,
            "network": slices.network.with_input_channels(channels),
            "training": slices.training.model_copy(update={"transforms": transforms}),
        }
    )


def offer_context(dataset: ResampledDataset) -> tuple[Reason, ...]:
    """Offers the configuration where slices are far apart; it is planned on request alone."""
    factor = compute_slice_distance(dataset)
    if factor <= DISTANT_FACTOR:
        return ()
    because = (
        f"slices are {factor:.3g} times as far apart as pixels, where 3D networks gain little: a 2D network that also "
        f"sees the neighbouring slices is planned with --configuration {CONTEXT}"
    )
    return (record_offer(CONTEXT, because),)


def _explain(
    slices: ConfigurationPlan, context: Decision[int], choose_transforms: ChooseAugmentation
) -> tuple[Reason, ...]:
    images, count = slices.network.input_channels, 2 * context.value + 1
    channels = Decision(images * count, f"{format_amount(images, 'image channel')} of {format_amount(count, 'slice')}")
    exists = Decision(
        CONTEXT, f"asked for; patch, batch and preprocessed data are those of {SLICES}, whose slices it sees in order"
    )
    augmentation = choose_transforms((count, *slices.patch_voxels) if context.value else slices.patch_voxels)
    return (
        record(CONTEXT, exists, "planned"),
        record(f"{CONTEXT}: context slices", context, str(context.value)),
        record(f"{CONTEXT}: input channels", channels, str(channels.value)),
        record(f"{CONTEXT}: augmentation", augmentation, describe_rotation(augmentation.value)),
    )
