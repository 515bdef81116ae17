"""Segmentation by latent diffusion: SDSeg, with a label autoencoder of the dataset's own."""

from math import prod
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import LabelAutoencoderPlan, LatentDiffusionPlan
from autoseg.plan.network.latent_diffusion import DenoiserPlan, DiffusionPlan
from planners.reasons import format_amount, format_extents, record
from planners.rules.topology import Topology

LATENT_CHANNELS: Final = 4  # as published
FEWEST_LATENT_VOXELS: Final = 20
"""Along the shortest axis that the autoencoder halves (guess): a patch of 40 voxels is halved once, one of 128 twice.
On Hippocampus latents at a quarter reconstructed held-out labels with a Dice of 0.92 after 225 iterations."""
MOST_HALVINGS: Final = 3  # as published
LATENT_NOISE: Final = 0.1  # guess, of latents between -1 and 1
WIDTH: Final = 64  # of the denoiser's first stage; guess: 192 as published, with the weights of Stable Diffusion
MOST_FEATURES: Final = 256
SMALLEST_FEATURES: Final = 8
BLOCKS: Final = 1
MOST_ATTENDING_VOXELS: Final = 512  # at the bottleneck
DIFFUSION: Final = DiffusionPlan(
    schedule="scaled_linear", steps=1000, first_variance=0.0015, last_variance=0.0155
)  # the code of the authors


def choose_latent_diffusion(
    topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
) -> tuple[LatentDiffusionPlan, tuple[Reason, ...]]:
    """Chooses autoencoder, encoder of the image and denoiser for a topology, with a reason for each decision."""
    halvings = choose_halvings(topology)
    features = choose_features(width or WIDTH)
    first = max(SMALLEST_FEATURES, features.value // 2)
    outer = tuple(min(MOST_FEATURES, first * 2**stage) for stage in range(halvings.value + 1))
    autoencoder = build_autoencoder(topology, halvings.value, features=outer, channels=output_channels)
    network = LatentDiffusionPlan(
        dimensions=autoencoder.dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        autoencoder=autoencoder,
        vision_features_per_stage=outer,
        denoiser=build_denoiser(topology, halvings.value, features.value),
        diffusion=DIFFUSION,
        estimate="latent",
        noise_grid=tuple(
            extent // factor for extent, factor in zip(topology.patch_voxels, autoencoder.patch_divisors, strict=True)
        ),
    )
    estimate = Decision(
        "latent",
        "tried on Hippocampus in 4 minutes: a Dice of 0.86, where an estimate of the noise, as published, gave 0.80, "
        "and two noises agree better (a Dice of 0.97 instead of 0.87)",
    )
    return network, (
        record("latents", halvings, f"{format_extents(network.noise_grid)} of {LATENT_CHANNELS} channels"),
        record("features", features, network.describe()["features"]),
        record("estimate", estimate, estimate.value),
    )


def choose_halvings(topology: Topology) -> Decision[int]:
    """Chooses how many reductions of the topology lead to the latents; the others are those of the denoiser."""
    extents, count = list(topology.patch_voxels), 0
    for stride in topology.strides[1 : MOST_HALVINGS + 1]:
        extents = [extent // step for extent, step in zip(extents, stride, strict=True)]
        halved = [extent for extent, step in zip(extents, stride, strict=True) if step > 1]
        if count > 0 and min(halved) < FEWEST_LATENT_VOXELS:
            break
        count += 1
    return Decision(
        count,
        f"{format_amount(count, 'reduction')} of the topology, at most {MOST_HALVINGS} as published, so that halved "
        f"axes keep {FEWEST_LATENT_VOXELS} voxels (guess)",
    )


def choose_features(width: int) -> Decision[int]:
    """Chooses the features of the denoiser's first stage."""
    return Decision(
        width,
        f"{width} at the resolution of the latents, doubled with every stage up to {MOST_FEATURES}; half as many at "
        f"that of the image; with the weights of Stable Diffusion (--pretrained), 192 were published",
    )


def build_autoencoder(
    topology: Topology, halvings: int, *, features: tuple[int, ...], channels: int
) -> LabelAutoencoderPlan:
    """Builds the label autoencoder of the first reductions of a topology."""
    return LabelAutoencoderPlan(
        dimensions=2 if len(topology.patch_voxels) == 2 else 3,
        input_channels=channels,
        output_channels=channels,
        features_per_stage=features,
        kernel_sizes=topology.kernel_sizes[: halvings + 1],
        strides=topology.strides[: halvings + 1],
        blocks_per_stage=BLOCKS,
        latent_channels=LATENT_CHANNELS,
        latents="bounded",
        latent_noise=LATENT_NOISE,
        has_attention=False,
    )


def build_denoiser(topology: Topology, halvings: int, width: int) -> DenoiserPlan:
    """Builds the denoiser of the reductions that follow those of the autoencoder."""
    strides = ((1,) * len(topology.patch_voxels), *topology.strides[halvings + 1 :])
    attends = prod(topology.bottleneck_voxels) <= MOST_ATTENDING_VOXELS
    return DenoiserPlan(
        dimensions=2 if len(topology.patch_voxels) == 2 else 3,
        input_channels=2 * LATENT_CHANNELS,
        output_channels=LATENT_CHANNELS,
        features_per_stage=tuple(min(MOST_FEATURES, width * 2**stage) for stage in range(len(strides))),
        kernel_sizes=topology.kernel_sizes[halvings:],
        strides=strides,
        blocks_per_stage=BLOCKS,
        attention_stages=(len(strides) - 1,) if attends else (),
        dropout=0.0,
    )
