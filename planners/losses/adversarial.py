"""Adversarial training: Dice and cross entropy, and a discriminator that tells predictions from label maps."""

from math import prod
from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import ObjectivePlan
from autoseg.plan.network import NetworkPlan, StagedNetworkPlan
from autoseg.plan.objectives import AdversarialObjective
from planners.losses.rule import Terms
from planners.rules.topology import Topology

WEIGHT: Final = 0.1  # guess: a prediction that deceives nobody adds about 0.7 times as much to a loss of about 1
FEATURES: Final = (16, 32, 64)  # of the discriminator; guess
CALLS: Final = 3  # in a step: for the network, and for itself with the prediction and with the label map


def choose_adversarial_terms(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Keeps Dice and cross entropy."""
    del fingerprint
    return Decision(
        configuration.training.losses,
        f"the terms compare voxels one by one; what makes a label map look unlike a true one is found by a "
        f"discriminator that learns beside the network (weight {WEIGHT:g}, a guess); its feature maps count in the "
        f"memory of a patch",
    )


def choose_adversarial(configuration: ConfigurationPlan) -> ObjectivePlan:
    """Chooses a discriminator with the first strides of the network, or halving every axis where it has none."""
    strides = choose_strides(configuration.network)
    return AdversarialObjective(
        adversarial_weight=WEIGHT,
        discriminator_features=FEATURES[: len(strides)],
        discriminator_strides=strides,
    )


def choose_strides(network: NetworkPlan) -> tuple[tuple[int, ...], ...]:
    """Chooses the strides of the discriminator."""
    halved = ((2,) * network.dimensions,) * len(FEATURES)
    strides = network.strides[1:] if isinstance(network, StagedNetworkPlan) else halved
    return (strides or halved)[: len(FEATURES)]


def count_discriminator(network: NetworkPlan, topology: Topology) -> int:
    """Counts what the discriminator keeps of one patch, as elements of feature maps.

    What a convolution writes is kept with its activation, as in a U-Net with its normalization; the image and the
    probabilities, which lie beside it, alone: they count half.
    """
    voxels = prod(topology.patch_voxels)
    elements = (network.input_channels + network.output_channels) * voxels // 2
    for features, stride in zip(FEATURES, choose_strides(network), strict=False):
        voxels //= prod(stride)
        elements += features * voxels
    return CALLS * elements
