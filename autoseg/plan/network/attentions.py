"""Attention over channels and positions of the features of a stage.

One more kind is one more subclass of `AttentionPlan` and one more row of `ATTENTION_PLANS` (its module: a file and a
row in `autoseg.networks.parts.attentions`).
"""

from typing import Final, Literal

from autoseg.document import Part
from autoseg.plan.values import Count


class AttentionPlan(Part):
    """A module that scales the features at the end of a stage by weights that it computes from them.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class SqueezeExcitationPlan(AttentionPlan):
    """A weight per channel, from its mean (squeeze and excitation, Hu et al. 2018, arXiv:1709.01507).

    Attributes:
        reduction: Channels per hidden unit.
    """

    name: Literal["se"] = "se"
    reduction: Count


ATTENTION_PLANS: Final[dict[str, type[AttentionPlan]]] = {"se": SqueezeExcitationPlan}
