"""The normalization of the intensities of an image channel."""

from typing import Final

from autoseg.errors import PlanError
from autoseg.fingerprint import ChannelFingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.preprocessing import WINDOW_ADVICE, ChannelPlan, IntensityWindow, NormalizationScheme

SCHEME_OF_CHANNEL_NAME: Final[dict[str, NormalizationScheme]] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
# nnU-Net paper: cropping that removes at least a quarter of the voxels is taken as a sign of masked images.
MASK_BELOW_RELATIVE_SIZE: Final = 0.75


def choose_normalization(
    channel: ChannelFingerprint, *, median_relative_size_after_cropping: float
) -> Decision[ChannelPlan]:
    """Decides by the channel's name (case is ignored); unknown names, such as those of MR sequences, get z-scores.

    Raises:
        PlanError: A CT channel has no foreground intensities from which its window could be taken, or only equal ones.
    """
    scheme = SCHEME_OF_CHANNEL_NAME.get(channel.name.casefold(), "zscore")
    inside = scheme == "zscore" and median_relative_size_after_cropping < MASK_BELOW_RELATIVE_SIZE
    window = _choose_window(channel) if scheme == "ct" else None
    plan = ChannelPlan(name=channel.name, normalization=scheme, inside_nonzero_only=inside, window=window)
    return Decision(plan, _explain(plan, median_relative_size_after_cropping))


def _choose_window(channel: ChannelFingerprint) -> IntensityWindow:
    foreground = channel.foreground
    if foreground is None:
        msg = (
            f"channel {channel.name!r} is CT and needs intensities of the foreground, but no case has a foreground "
            f"voxel; check the label files, or rename the channel in dataset.json to have it normalized per image"
        )
        raise PlanError(msg)
    window = IntensityWindow.from_foreground(foreground)
    flaw = window.explain_flaw()
    if flaw is not None:
        msg = (
            f"channel {channel.name!r} is CT and is normalized by the intensities of the foreground, but {flaw}; "
            f"{WINDOW_ADVICE}"
        )
        raise PlanError(msg)
    return window


def _explain(plan: ChannelPlan, relative_size: float) -> str:
    if plan.window is not None:
        window = plan.window
        return (
            f"the name {plan.name!r} stands for Hounsfield units: clipped to [{window.lower:g}, {window.upper:g}], the "
            f"0.5th and 99.5th percentile of the foreground, then shifted by its mean {window.mean:g} and divided by "
            f"its standard deviation {window.std:g}"
        )
    if plan.name.casefold() in SCHEME_OF_CHANNEL_NAME:
        cause = f"the name {plan.name!r} asks for it"
    else:
        cause = f"the name {plan.name!r} stands for no fixed scale, so every image is standardized by itself"
    if plan.normalization != "zscore":
        return cause
    comparison = "below" if plan.inside_nonzero_only else "not below"
    where = "inside the nonzero region only" if plan.inside_nonzero_only else "with all voxels of the crop"
    return (
        f"{cause}, {where}: the median crop keeps {100 * relative_size:.4g} % of the voxels, {comparison} "
        f"{100 * MASK_BELOW_RELATIVE_SIZE:g} %"
    )
