"""The interpolation of images, labels and logits."""

from typing import Final

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision
from autoseg.plan.preprocessing import ResamplingPlan
from planners.reasons import format_lengths

# nnU-Net paper: cubic splines for images, linear for one-hot labels (and, in the implementation, for logits); an axis
# that is more than three times as coarse as the finest is resampled apart, by nearest neighbour.
RESAMPLING: Final = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3.0)


def choose_resampling(spacing_mm: tuple[float, ...], distance_unit: DistanceUnit = "mm") -> Decision[ResamplingPlan]:
    """Chooses always the same orders; the reason explains the threshold at a target spacing.

    The first criterion is the spacing of the case itself, the target spacing is the second (see
    `autoseg.preprocessing`), so the reason can speak only of cases that are not anisotropic themselves.

    Args:
        spacing_mm: Spacing of the configuration; two values in 2D.
        distance_unit: Unit of the spacing.
    """
    lengths = format_lengths(spacing_mm, distance_unit)
    threshold = RESAMPLING.anisotropy_threshold
    if len(spacing_mm) == 2:
        because = (
            f"slices are resampled to {lengths} and their distance stays; cases with slices more "
            f"than {threshold:g} times as coarse as that are resampled slice by slice"
        )
        return Decision(RESAMPLING, because)
    ratio = max(spacing_mm) / min(spacing_mm)
    numbers = f"at {lengths} the coarsest axis is {ratio:.3g} times the finest"
    if ratio <= threshold:
        rule = f"not more than {threshold:g}, so only cases that exceed that themselves"
    elif spacing_mm.count(max(spacing_mm)) > 1:
        rule = f"more than {threshold:g}, but two axes tie for it, so only cases with one axis beyond that"
    else:
        rule = f"more than {threshold:g}, so cases"
    because = f"{numbers}, {rule} are resampled slice by slice in plane and by nearest neighbour across"
    return Decision(RESAMPLING, because)
