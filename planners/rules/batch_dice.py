"""The choice of batch Dice: the Dice loss treats a batch as one large volume."""

import math

from autoseg.plan.decisions import Decision
from planners.reasons import format_share


def choose_batch_dice(
    patch_voxels: tuple[int, ...], median_shape_voxels: tuple[float, ...], *, has_coarser_configuration: bool
) -> Decision[bool]:
    """Chooses batch Dice for 2D, and for 3D where the context is so small that a coarser configuration exists as well.

    Patches with little or no foreground make the Dice of single samples unstable. Source: the rule of the reference
    planner.
    """
    covered = format_share(math.prod(patch_voxels) / math.prod(median_shape_voxels))
    if len(patch_voxels) == 2:
        return Decision(
            True, f"a patch covers {covered} of one median slice of a case and may hold no foreground at all"
        )
    if has_coarser_configuration:
        because = f"a patch covers only {covered} of the median case, so a single sample may hold little foreground"
        return Decision(True, because)
    because = f"a patch covers {covered} of the median case and no coarser configuration is planned to see more"
    return Decision(False, because)
