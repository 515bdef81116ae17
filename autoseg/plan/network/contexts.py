"""Modules at the bottleneck of a network that widen the context of its features.

One more kind is one more subclass of `ContextPlan` and one more row of `CONTEXT_PLANS` (its module: a file and a row in
`autoseg.networks.parts.contexts`).
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import Count


class ContextPlan(Part):
    """A module that computes features from all features of the lowest resolution.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class PyramidPoolingPlan(ContextPlan):
    """Averages over a pyramid of grids, whatever the extents of the input (Zhao et al. 2017, arXiv:1612.01105).

    Attributes:
        grids: Cells along every axis, of each level of the pyramid.
    """

    name: Literal["spp"] = "spp"
    grids: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]


CONTEXT_PLANS: Final[dict[str, type[ContextPlan]]] = {"spp": PyramidPoolingPlan}
