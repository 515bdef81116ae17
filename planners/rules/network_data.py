"""Decisions about a network that depend on what its channels and its outputs stand for."""

from collections.abc import Sequence
from typing import Literal

from autoseg.labels import LabelScheme
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import DetectorPlan, HybridPlan, LatentDiffusionPlan, NetworkPlan, PointRendPlan
from autoseg.plan.preprocessing import ChannelPlan, are_colours
from planners.reasons import format_amount, record
from planners.rules.label_pictures import choose_pictures

COLOURS = 3


def adapt_network(
    network: NetworkPlan, labels: LabelScheme, channels: Sequence[ChannelPlan]
) -> tuple[NetworkPlan, tuple[Reason, ...]]:
    """Adapts a network to the channels and the classes of a dataset, with a reason for each decision.

    Most families depend on their number alone, and stay as they are.
    """
    reasons = []
    pretrained = network.find_pretrained()
    if pretrained is not None:
        kernels = choose_first_kernels(channels, network.input_channels)
        network = network.with_pretrained(pretrained.model_copy(update={"first_kernels": kernels.value}))
        reasons.append(record("first kernels", kernels, kernels.value.replace("_", " ")))
    if isinstance(network, LatentDiffusionPlan) and network.autoencoder.pictures is not None:
        pictures = choose_pictures(labels)
        autoencoder = network.autoencoder.model_copy(update={"pictures": pictures.value})
        network = network.model_copy(update={"autoencoder": autoencoder})
        colours = format_amount(len(pictures.value.colours), "colour")
        reasons.append(record("pictures of label maps", pictures, colours))
    if isinstance(network, DetectorPlan):
        function = choose_probabilities(labels)
        network = network.model_copy(update={"probabilities": function.value})
        reasons.append(record("probabilities of boxes", function, function.value))
    if isinstance(network, HybridPlan | PointRendPlan):
        function = choose_probabilities(labels)
        network = network.model_copy(update={"probabilities": function.value})
        reasons.append(
            record("probabilities of slices", function, function.value)
            if isinstance(network, HybridPlan)
            else record("probabilities of points", function, function.value)
        )
    return network, tuple(reasons)


def choose_first_kernels(
    channels: Sequence[ChannelPlan], input_channels: int
) -> Decision[Literal["by_colour", "mean"]]:
    """Chooses how kernels that were trained on colour images become those of the channels of a dataset.

    Args:
        channels: Channels of the image.
        input_channels: Channels that the network sees: these, and masks of a previous stage or neighbouring slices.
    """
    if are_colours(channels) and input_channels == COLOURS:
        return Decision("by_colour", "the channels are red, green and blue, as in the images of the pretrained weights")
    names = ", ".join(channel.name for channel in channels)
    others = input_channels - len(channels)
    more = f" and {others} masks of the previous stage or neighbouring slices" if others else ""
    return Decision(
        "mean",
        f"the channels ({names}{more}) are not red, green and blue, so each gets the mean of the kernels of these "
        f"three, times 3 / {input_channels}",
    )


def choose_probabilities(labels: LabelScheme) -> Decision[Literal["softmax", "sigmoid"]]:
    """Chooses the function that turns logits into probabilities within a network, as decoding and loss do."""
    if labels.has_regions:
        return Decision("sigmoid", "regions may overlap, so every one has a probability of its own")
    return Decision("softmax", "labels exclude each other, so their probabilities add up to one")
