"""A second stream of a U-shaped network, which finds edges."""

from typing import Annotated

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import MOST_STAGES, ChannelCount, Positive

FeaturesPerGate = Annotated[tuple[ChannelCount, ...], Field(min_length=1, max_length=MOST_STAGES)]


class ShapeStreamPlan(Part):
    """Gated convolutions at the full resolution, whose edges the last features of the decoder are joined with.

    The edges are one more output in training; its target is computed from the label map (Sun et al. 2020,
    arXiv:2001.07645).

    Attributes:
        features_per_gate: Channels that enter each gate; the gates read as many last stages of the encoder.
        edge_weight: Factor on the loss of the edges, which is added to that of the segmentation.
    """

    features_per_gate: FeaturesPerGate
    edge_weight: Positive
