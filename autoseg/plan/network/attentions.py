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
        reduction: Channels per hidden unit, of which there are at least eight, or as many as channels.
    """

    name: Literal["se"] = "se"
    reduction: Count


class ConvolutionalAttentionPlan(AttentionPlan):
    """A weight per channel, then one per voxel, each from means and maxima (CBAM, Woo et al. 2018, arXiv:1807.06521).

    Attributes:
        reduction: Channels per hidden unit, of which there are at least eight, or as many as channels.
        kernel: Extent of the convolution that computes the weights of voxels, along axes with kernels above one.
    """

    name: Literal["cbam"] = "cbam"
    reduction: Count
    kernel: Literal[3, 5, 7]


class ConcurrentExcitationPlan(AttentionPlan):
    """The sum of features weighted per channel and per voxel (scSE, Roy et al. 2018, arXiv:1803.02579).

    Attributes:
        reduction: Channels per hidden unit, of which there are at least eight, or as many as channels.
    """

    name: Literal["scse"] = "scse"
    reduction: Count


class DualExcitationPlan(AttentionPlan):
    """A weight per channel (squeeze and excitation) times one plus a weight per voxel (Sun et al. 2020,
    arXiv:2001.07645).

    Attributes:
        reduction: Channels per hidden unit, of which there are at least eight, or as many as channels.
    """

    name: Literal["dual_excitation"] = "dual_excitation"
    reduction: Count


ATTENTION_PLANS: Final[dict[str, type[AttentionPlan]]] = {
    "se": SqueezeExcitationPlan,
    "cbam": ConvolutionalAttentionPlan,
    "scse": ConcurrentExcitationPlan,
    "dual_excitation": DualExcitationPlan,
}
