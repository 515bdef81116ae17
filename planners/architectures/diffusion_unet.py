"""Segmentation by diffusion of the label map itself, with the U-Net of DDPM."""

from math import gcd
from typing import Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import DiffusionUNetPlan
from autoseg.plan.network.latent_diffusion import DenoiserPlan, DiffusionPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.reasons import format_amount, record
from planners.rules.topology import Topology

WIDTH: Final = {2: 64, 3: 32}  # of the first stage; guess: 128 as published, for pictures of 32 x 32
GROWTH: Final = 2  # features of all further stages, as a multiple of those of the first; as published
BLOCKS: Final = {2: 2, 3: 1}  # per stage; 2 as published, in 3D fewer (guess)
HEADS: Final = 4
FIRST_ATTENDING_STAGE: Final = 3  # at an eighth of the resolution, as published
MOST_ATTENDING_VOXELS: Final = 4096  # guess
SAMPLER_STEPS: Final = 1
SAMPLES: Final = 4
"""Measured with a network of Hippocampus after 450 iterations: see the reason of the decision."""
DIFFUSION: Final = DiffusionPlan(schedule="linear", steps=1000, first_variance=1e-4, last_variance=0.02)


def choose_diffusion_unet(
    topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
) -> tuple[DiffusionUNetPlan, tuple[Reason, ...]]:
    """Chooses the denoiser for a topology, and how prediction samples, with a reason for each decision."""
    dimensions = 2 if len(topology.patch_voxels) == 2 else 3
    first = width or WIDTH[dimensions]
    features = choose_features(topology.stage_count, first)
    attending = choose_attending_stages(topology)
    network = DiffusionUNetPlan(
        dimensions=dimensions,
        input_channels=input_channels,
        output_channels=output_channels,
        denoiser=DenoiserPlan(
            dimensions=dimensions,
            input_channels=input_channels + output_channels,
            output_channels=output_channels,
            features_per_stage=features.value,
            kernel_sizes=topology.kernel_sizes,
            strides=topology.strides,
            form="ddpm",
            heads=gcd(HEADS, features.value[-1]),
            blocks_per_stage=BLOCKS[dimensions],
            attention_stages=attending.value,
            dropout=0.0,
        ),
        diffusion=DIFFUSION,
        estimate="bits",
        sampler_steps=SAMPLER_STEPS,
        samples=SAMPLES,
        noise_grid=topology.patch_voxels,
    )
    sampling = Decision(
        network.prediction_calls,
        "after 450 iterations on Hippocampus one sample of 1 step gave a mean Dice of 0.749, of 2 steps 0.734, of 4 "
        "0.704, of 8 0.679, and four samples of 1 step 0.754; a network that is trained for longer may gain by more; "
        "every step of every sample is a call of the network for every window",
    )
    return network, (
        record("features", features, network.denoiser.describe()["features"]),
        record("attention", attending, format_amount(len(attending.value), "stage")),
        record("sampling", sampling, f"{SAMPLES} samples of {format_amount(SAMPLER_STEPS, 'step')}"),
    )


def choose_features(stages: int, first: int) -> Decision[tuple[int, ...]]:
    """Chooses the features of every stage."""
    return Decision(
        (first, *(GROWTH * first,) * (stages - 1)),
        f"{first} at the full resolution and {GROWTH} times as many below, as published (there 128)",
    )


def choose_attending_stages(topology: Topology) -> Decision[tuple[int, ...]]:
    """Chooses the stages whose voxels attend to each other: the coarse ones, as far as they are small enough."""
    first = min(FIRST_ATTENDING_STAGE, topology.stage_count - 1)
    stages = tuple(
        stage for stage in range(first, topology.stage_count) if topology.stage_voxels[stage] <= MOST_ATTENDING_VOXELS
    )
    return Decision(
        stages,
        f"{HEADS} heads from an eighth of the resolution on, as published, or in the lowest stage, where a patch has "
        f"at most {MOST_ATTENDING_VOXELS} voxels left (guess)",
    )


def _build_published() -> DiffusionUNetPlan:
    """Builds the network of Ho et al. for pictures of 32 x 32, which sees an image of three channels, too."""
    return DiffusionUNetPlan(
        dimensions=2,
        input_channels=3,
        output_channels=3,
        denoiser=DenoiserPlan(
            dimensions=2,
            input_channels=6,
            output_channels=3,
            features_per_stage=(128, 256, 256, 256),
            kernel_sizes=((3, 3),) * 4,
            strides=((1, 1), *((2, 2),) * 3),
            form="ddpm",
            heads=4,
            blocks_per_stage=2,
            attention_stages=(3,),
            dropout=0.0,
        ),
        diffusion=DIFFUSION,
        estimate="noise",
        sampler_steps=1000,
        samples=1,
        noise_grid=(32, 32),
    )


DIFFUSION_UNET: Final = Architecture(
    name="diffusion_unet",
    sentence="Denoises the label map itself, beside the image, in a few steps; the mean of several samples.",
    source="Ho et al. 2020, NeurIPS, arXiv:2006.11239; Chen et al. 2023, ICLR, arXiv:2208.04202",
    year=2020,
    choose_network=choose_diffusion_unet,
    published=(
        # 35,741,699 without the image, which adds 128 kernels of 3 x 3 x 3.
        PublishedNetwork(plan=_build_published(), parameter_count=35_741_699),
    ),
)
