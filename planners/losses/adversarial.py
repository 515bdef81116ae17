"""Adversarial training: Dice and cross entropy, and a discriminator that tells predictions from label maps."""

from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import ObjectivePlan
from autoseg.plan.network import StagedNetworkPlan
from autoseg.plan.objectives import AdversarialObjective
from planners.losses.rule import Terms

WEIGHT: Final = 0.1  # guess: a prediction that deceives nobody adds about 0.7 times as much to a loss of about 1
FEATURES: Final = (16, 32, 64)  # of the discriminator; guess


def choose_adversarial_terms(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Keeps Dice and cross entropy."""
    del fingerprint
    return Decision(
        configuration.training.losses,
        f"the terms compare voxels one by one; what makes a label map look unlike a true one is found by a "
        f"discriminator that learns beside the network (weight {WEIGHT:g}, a guess)",
    )


def choose_adversarial(configuration: ConfigurationPlan) -> ObjectivePlan:
    """Chooses a discriminator with the first strides of the network, or halving every axis where it has none."""
    network = configuration.network
    halved = ((2,) * network.dimensions,) * len(FEATURES)
    strides = network.strides[1:] if isinstance(network, StagedNetworkPlan) else halved
    strides = (strides or halved)[: len(FEATURES)]
    return AdversarialObjective(
        adversarial_weight=WEIGHT,
        discriminator_features=FEATURES[: len(strides)],
        discriminator_strides=strides,
    )
