"""The choice of the border by which objects are told apart, and of the steps to their centres."""

from typing import Final

from autoseg.labels import InstanceTargets
from autoseg.plan.decisions import Decision
from autoseg.plan.losses import CentreDistanceTerm

BORDER_FRACTION: Final = 0.25
CENTRE_STEPS: Final = 4  # guess; 16 for the objects of streets, which are larger (Bai and Urtasun 2017)
CENTRE_WEIGHT: Final = 1.0  # guess


def choose_border_fraction() -> Decision[float]:
    """Chooses the width of the border of an object, as a fraction of the largest distance from its surface.

    Measured: of 554 nuclei in 20 pictures of BBBC038 (areas of 21 to 2,591 pixels), cores find 99.8 % again at an
    overlap of 0.75 with fractions of 0.25 and of 0 (one pixel), 99.6 % with 0.4, and 99.2 % with two pixels.
    """
    because = (
        f"the core of an object is what is farther from its surface than {BORDER_FRACTION:g} of its largest distance "
        f"(at least one voxel), so the border that separates touching objects grows with them and no object loses its "
        f"core"
    )
    return Decision(BORDER_FRACTION, because)


def choose_centre_steps() -> Decision[int]:
    """Chooses the number of steps from the border of an object to its centre, where their distance is to be learned."""
    because = (
        f"asked for: the core is divided into {CENTRE_STEPS} steps (guess) of the distance from the surface, from 0 in "
        f"the border to 1 where it is largest in the object (StarDist), each a label as in the deep watershed transform"
    )
    return Decision(CENTRE_STEPS, because)


def choose_centre_loss(targets: InstanceTargets) -> Decision[CentreDistanceTerm]:
    """Chooses the loss of the centre distance."""
    because = (
        f"to cross entropy all wrong steps are alike, so the distance that is expected of their probabilities is "
        f"compared, too, with a weight of {CENTRE_WEIGHT:g} (guess)"
    )
    return Decision(CentreDistanceTerm(weight=CENTRE_WEIGHT, part_distances=targets.part_distances), because)
