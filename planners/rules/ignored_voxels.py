"""Voxels of the ignore label, where a network learns from whole label maps instead of single voxels."""

from typing import Final

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from planners.rules.foreground import find_ignored_share

MOST_IGNORED_FRACTION: Final = 0.5
"""With more, most of what is encoded would be made up (guess)."""


def choose_ignored_voxels(
    fingerprint: Fingerprint, *, learner: str = "latent diffusion", advice: str = "choose another --architecture"
) -> Decision[str]:
    """Chooses what a label autoencoder is given in place of voxels that are ignored.

    Args:
        fingerprint: Fingerprint of the dataset.
        learner: The network that learns from whole label maps, in words.
        advice: Advice for data of which too much is ignored.

    Raises:
        PlanError: More than half of the voxels are ignored.
    """
    share = find_ignored_share(fingerprint)
    if share is not None and share > MOST_IGNORED_FRACTION:
        msg = (
            f"{learner} learns from whole label maps, but {share:.0%} of the voxels carry the ignore label (at "
            f"most {MOST_IGNORED_FRACTION:.0%} may); {advice}, or label more of the images"
        )
        raise PlanError(msg)
    found = "were not counted" if share is None else f"are {share:.2g} of all"
    return Decision(
        "nearest label",
        f"a label autoencoder encodes whole label maps: voxels to be ignored ({found}) get the label of the nearest "
        f"labelled voxel there, and do not count in the loss of decoded label maps",
    )
