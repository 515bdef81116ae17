"""The choice of the border by which objects are told apart."""

from typing import Final

from autoseg.plan.decisions import Decision

BORDER_FRACTION: Final = 0.25


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
