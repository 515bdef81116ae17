"""Normalization and activation of the layers of a network, changes of resolution, weights of outputs."""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import MOST_STAGES, ChannelCount, Positive

Normalization = Literal["instance", "batch", "group", "layer", "none"]
Activation = Literal["leaky_relu", "relu", "prelu", "elu", "gelu", "silu"]
Downsampling = Literal["strided", "strided_wide", "max_pool", "average_pool"]
Upsampling = Literal["transposed", "transposed_wide", "linear", "linear_convolution", "nearest_convolution"]
OutputWeights = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MOST_STAGES)]
DecoderFeatures = Annotated[tuple[ChannelCount, ...], Field(max_length=MOST_STAGES)]


class LayerPlan(Part):
    """What follows every convolution of a network.

    Attributes:
        normalization: "instance" and "batch" normalize every channel, over a sample or over the batch; "group" groups
            of at most eight groups of channels (Wu and He 2018, arXiv:1803.08494), "layer" all channels of a sample
            together (Ba et al. 2016, arXiv:1607.06450).
        activation: The nonlinearity. "leaky_relu" has the slope 0.01.
    """

    normalization: Normalization
    activation: Activation
