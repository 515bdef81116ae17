"""Connections from the encoder to the decoder of a U-shaped network.

One more kind is one more subclass of `SkipPlan` and one more row of `SKIP_PLANS` (its module: a file and a row in
`autoseg.networks.parts.skips`).
"""

from typing import Final, Literal

from autoseg.document import Part


class SkipPlan(Part):
    """How features of the encoder join those of the decoder.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class ConcatenationPlan(SkipPlan):
    """The channels of both (Ronneberger et al. 2015, arXiv:1505.04597)."""

    name: Literal["concatenation"] = "concatenation"


class AdditionPlan(SkipPlan):
    """The sum of both."""

    name: Literal["addition"] = "addition"


SKIP_PLANS: Final[dict[str, type[SkipPlan]]] = {"concatenation": ConcatenationPlan, "addition": AdditionPlan}
