"""Normalization and activation of the layers of a network."""

from typing import Literal

from autoseg.document import Part

Normalization = Literal["instance", "batch", "group", "layer", "none"]
Activation = Literal["leaky_relu", "relu", "prelu", "elu", "gelu", "silu"]


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
