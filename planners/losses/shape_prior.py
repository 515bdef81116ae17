"""The anatomical constraint: Dice and cross entropy, and latents of a label autoencoder."""

from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import ObjectivePlan, SegmentationObjective
from autoseg.plan.network import StagedNetworkPlan
from autoseg.plan.objectives import ShapePriorObjective
from planners.architectures.latent_diffusion import build_autoencoder, choose_halvings
from planners.losses.rule import Terms
from planners.rules.topology import Topology
from planners.rules.training import AUTOENCODER_ITERATIONS

WEIGHT: Final = 0.1
"""Guess: latents between -1 and 1 differ by less than 1 in the mean square, Dice and cross entropy by about 1. The
authors took 0.01 for latents without bounds."""
FEATURES: Final = (16, 32, 64, 128)  # of the autoencoder; guess


def choose_shape_prior_terms(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Keeps Dice and cross entropy."""
    del fingerprint
    return Decision(
        configuration.training.losses,
        f"the terms compare voxels one by one; a shape is compared by the latents of a label autoencoder, which is "
        f"trained first from label maps alone (weight {WEIGHT:g}, a guess)",
    )


def choose_shape_prior(configuration: ConfigurationPlan) -> ObjectivePlan:
    """Chooses an autoencoder with the first strides of the network; none where the network has no such strides."""
    network = configuration.network
    if not isinstance(network, StagedNetworkPlan) or network.stage_count == 1:
        return SegmentationObjective()
    topology = Topology(
        patch_voxels=configuration.patch_voxels,
        strides=network.strides,
        kernel_sizes=network.kernel_sizes,
        divisors=network.patch_divisors,
    )
    halvings = choose_halvings(topology).value
    return ShapePriorObjective(
        shape_prior_weight=WEIGHT,
        autoencoder=build_autoencoder(
            topology, halvings, features=FEATURES[: halvings + 1], channels=network.output_channels
        ),
        autoencoder_iterations=AUTOENCODER_ITERATIONS,
    )
