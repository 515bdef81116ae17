"""The second network of a cascade: full resolution, with the low-resolution result as further input."""

from autoseg.labels import LabelScheme
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from autoseg.plan.stages import MasksOfPreviousStage
from planners.reasons import format_amount, record

LOW_RESOLUTION = "3d_lowres"
FULL_RESOLUTION = "3d_fullres"
CASCADE = "3d_cascade_fullres"


def choose_cascade(full: ConfigurationPlan, labels: LabelScheme) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Chooses the full-resolution configuration, with one more input channel for every foreground label.

    Source: nnU-Net paper (Isensee et al. 2021), "3D U-Net cascade". The estimate of the memory ignores input channels,
    so patch and batch stay the same.
    """
    previous = MasksOfPreviousStage(configuration=LOW_RESOLUTION)
    images, extra = full.network.input_channels, previous.count_channels(labels)
    masks = f"{format_amount(extra, 'mask')}, one per foreground label predicted by {LOW_RESOLUTION}"
    channels = Decision(images + extra, f"{format_amount(images, 'image channel')} and {masks}")
    transforms = (*full.training.transforms, *REFERENCE_MASK_TRANSFORMS)
    cascade = full.model_copy(
        update={
            "previous_stage": previous,
            "data_of": FULL_RESOLUTION,
            "network": full.network.with_input_channels(channels.value),
            "training": full.training.model_copy(update={"transforms": transforms}),
        }
    )
    exists = Decision(
        CASCADE,
        f"{LOW_RESOLUTION} sees what {FULL_RESOLUTION} cannot; all else, but for random changes of masks, is as in "
        f"{FULL_RESOLUTION}",
    )
    reasons = (record(CASCADE, exists, "planned"), record(f"{CASCADE}: input channels", channels, str(channels.value)))
    return cascade, reasons
