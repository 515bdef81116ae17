"""Modules at the bottleneck of a network that widen the context of its features.

One more kind is one more subclass of `ContextPlan` and one more row of `CONTEXT_PLANS` (its module: a file and a row in
`autoseg.networks.parts.contexts`).
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import ChannelCount, Count


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


class DilatedPyramidPlan(ContextPlan):
    """Parallel dilated convolutions and the mean of the patch, reduced to `channels` (Chen et al. 2018,
    arXiv:1802.02611).

    Attributes:
        channels: Channels of every branch and of the result.
        dilations: One per dilated convolution, along axes with kernels above one.
    """

    name: Literal["aspp"] = "aspp"
    channels: ChannelCount
    dilations: Annotated[tuple[Count, ...], Field(max_length=8)]


class DenseDilationPlan(ContextPlan):
    """Sums of cascades of dilated convolutions, which see 3, 7, 9 and 19 voxels (CE-Net, Gu et al. 2019,
    arXiv:1903.02740).
    """

    name: Literal["dac"] = "dac"


class MultiKernelPoolingPlan(ContextPlan):
    """Maxima over blocks of several sizes, each reduced to one channel (CE-Net, Gu et al. 2019, arXiv:1903.02740).

    Attributes:
        kernels: Extents of the blocks.
    """

    name: Literal["rmp"] = "rmp"
    kernels: Annotated[tuple[Count, ...], Field(max_length=8)]


class NonLocalPlan(ContextPlan):
    """Attention of every voxel to all others (Wang et al. 2018, arXiv:1711.07971; 2020, arXiv:1812.04103).

    Attributes:
        heads: Independent attentions, each over its share of the channels.
        tokens_limit: Largest number of voxels that a voxel attends to; more are averaged in blocks.
    """

    name: Literal["non_local"] = "non_local"
    heads: Count
    tokens_limit: Count


class DualAttentionPlan(ContextPlan):
    """Attention between positions and between channels (Fu et al. 2019, arXiv:1809.02983).

    Attributes:
        reduction: Channels per channel of the queries and keys of positions.
        tokens_limit: Largest number of positions that a position attends to; more are averaged in blocks.
    """

    name: Literal["dual_attention"] = "dual_attention"
    reduction: Count
    tokens_limit: Count


class GraphUNetPlan(ContextPlan):
    """A U-Net on the graph of the voxels, in which neighbours share a face (Gao and Ji 2019, arXiv:1905.05178).

    Attributes:
        kept_fractions: The share of its nodes that every pooling keeps.
    """

    name: Literal["graph_unet"] = "graph_unet"
    kept_fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=8)]


CONTEXT_PLANS: Final[dict[str, type[ContextPlan]]] = {
    "spp": PyramidPoolingPlan,
    "aspp": DilatedPyramidPlan,
    "dac": DenseDilationPlan,
    "rmp": MultiKernelPoolingPlan,
    "non_local": NonLocalPlan,
    "dual_attention": DualAttentionPlan,
    "graph_unet": GraphUNetPlan,
}
