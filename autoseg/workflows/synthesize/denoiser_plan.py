"""Plans the denoiser of images, which follows from the plan of the configuration, and the variation of label maps."""

from collections.abc import Sequence
from math import ceil, gcd, prod
from typing import Final

from autoseg.plan.augmentation import DeformationPlan, TransformPlan, WarpPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.elastic import SpacedGridField
from autoseg.plan.label_prior import GEOMETRIC_TRANSFORMS
from autoseg.plan.losses import CrossEntropyTerm
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.network.latent_diffusion import DenoiserPlan, DiffusionPlan
from autoseg.plan.objectives import ChannelRange, ImageDenoisingObjective
from autoseg.plan.training import ADAMW, CosineSchedule

FIRST_FEATURES: Final = {2: 32, 3: 16}
"""By the dimensions; guess: a quarter and an eighth of those published for pictures of 32 x 32."""
CPU_SHARE: Final = 2  # on a CPU one in so many of them: a step on 320 x 320 pixels took 0.23 instead of 1.0 s
FACTORS: Final = (1, 2, 4, 4)  # features of every stage, as multiples of those of the first; guess
LEAST_EXTENT: Final = 4  # of the lowest stage
HEADS: Final = 4
MOST_ATTENDING_VOXELS: Final = 1024  # guess
ANISOTROPY: Final = 2.0  # axes so much coarser than the finest one are not reduced, and get kernels of 1
DIFFUSION: Final = DiffusionPlan(schedule="linear", steps=1000, first_variance=1e-4, last_variance=0.02)
"""As published (Ho et al. 2020)."""
SAMPLER_STEPS: Final = 25  # guess; 20 to 100 are published for DDIM
ETA: Final = 1.0  # share of the noise of DDPM that every step adds
ITERATIONS: Final = 10_000  # guess
ITERATIONS_PER_EPOCH: Final = 100
LEARNING_RATE: Final = 5e-4  # of AdamW; guess
WEIGHT_AVERAGE_DECAY: Final = 0.995  # about the last 200 iterations
PATCHES_PER_AXIS: Final = 2
NODES_PER_PATCH: Final = 4  # of the elastic deformation, along the shortest axis that is deformed
DISPLACEMENT: Final = 1 / 8  # of the distance of nodes, as in the 3D U-Net (arXiv:1606.06650)


def plan_denoiser(
    plan: ConfigurationPlan, ranges: Sequence[ChannelRange], *, condition_channels: int, device_type: str
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Plans the training of a denoiser of images, on the patches of the configuration.

    Args:
        plan: The configuration.
        ranges: Intensities of the channels of its training cases.
        condition_channels: Channels that tell a label map.
        device_type: Type of the device that will train it, such as "cpu".
    """
    features = _choose_features(plan.dimensions, device_type)
    network = _plan_network(plan, features.value, channels=(condition_channels, len(ranges)))
    training = plan.training.model_copy(
        update={
            "losses": (CrossEntropyTerm(weight=1.0),),  # not used
            "objective": ImageDenoisingObjective(channels=tuple(ranges), mask_dropout=0.0),
            "plausibility": None,
            "epochs": ceil(ITERATIONS / ITERATIONS_PER_EPOCH),
            "iterations_per_epoch": ITERATIONS_PER_EPOCH,
            "validation_iterations_per_epoch": 1,
            "budget_seconds": None,
            "sufficient_iterations": None,
            **ADAMW,
            "initial_learning_rate": LEARNING_RATE,
            "schedule": CosineSchedule(),
            "warmup_iterations": ITERATIONS_PER_EPOCH,
            "weight_average_decay": WEIGHT_AVERAGE_DECAY,
            "augmentation_end_fraction": 0.0,
            "transforms": tuple(row for row in plan.training.transforms if row.name in GEOMETRIC_TRANSFORMS),
        }
    )
    denoiser = plan.model_copy(update={"network": network, "training": training, "border": "mirror"})
    return denoiser, (
        Reason(subject="features", value=network.denoiser.describe()["features"], because=features.because),
        Reason(
            subject="iterations",
            value=str(ITERATIONS),
            because="a guess; --budget and --epochs shorten the training",
        ),
        Reason(
            subject="transforms",
            value=", ".join(row.name for row in training.transforms) or "none",
            because="the denoiser learns the intensities of the images as they are, so that only the geometry changes",
        ),
        Reason(
            subject="border",
            value="mirror",
            because="beyond an image it is mirrored, or the denoiser would learn to draw empty corners",
        ),
        Reason(
            subject="sampling",
            value=f"{SAMPLER_STEPS} steps, each with the noise of DDPM (eta {ETA:g})",
            because="each is a call of the denoiser for the whole case; 20 to 100 are published (arXiv:2010.02502); "
            "new noise lets later steps mend what earlier ones got wrong, such as the brightness of a region",
        ),
    )


def _choose_features(dimensions: int, device_type: str) -> Decision[int]:
    share = CPU_SHARE if device_type == "cpu" else 1
    first = FIRST_FEATURES[dimensions] // share
    because = f"{first} at the full resolution and up to {FACTORS[-1]} times as many below (guess)"
    if share > 1:
        because += f"; 1 in {share} of those on a GPU, as more steps of a smaller one learn more in minutes"
    return Decision(first, because)


def _plan_network(plan: ConfigurationPlan, first: int, *, channels: tuple[int, int]) -> DiffusionUNetPlan:
    strides, kernels = choose_stages(plan.patch_voxels, plan.spacing_mm)
    condition, image = channels
    features = tuple(first * factor for factor in FACTORS[: len(strides)])
    lowest = [
        extent // prod(along) for extent, along in zip(plan.patch_voxels, zip(*strides, strict=True), strict=True)
    ]
    return DiffusionUNetPlan(
        dimensions=plan.dimensions,
        input_channels=condition,
        output_channels=image,
        denoiser=DenoiserPlan(
            dimensions=plan.dimensions,
            input_channels=condition + image,
            output_channels=image,
            features_per_stage=features,
            kernel_sizes=kernels,
            strides=strides,
            form="ddpm",
            heads=gcd(HEADS, features[-1]),
            blocks_per_stage=1,
            attention_stages=(len(strides) - 1,) if prod(lowest) <= MOST_ATTENDING_VOXELS else (),
            dropout=0.0,
        ),
        diffusion=DIFFUSION,
        estimate="image",
        sampler_steps=SAMPLER_STEPS,
        samples=1,
        noise_grid=plan.patch_voxels,
    )


def choose_stages(
    patch_voxels: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Chooses strides and kernels: every stage halves the axes that are about as fine as the finest one."""
    extents, spacings = list(patch_voxels), list(spacing_mm)
    strides, kernels = [(1,) * len(extents)], [_choose_kernel(spacings)]
    while len(strides) < len(FACTORS):
        stride = tuple(
            2 if extent % 2 == 0 and extent >= 2 * LEAST_EXTENT and _is_fine(spacing, spacings) else 1
            for extent, spacing in zip(extents, spacings, strict=True)
        )
        if prod(stride) == 1:
            break
        extents = [extent // step for extent, step in zip(extents, stride, strict=True)]
        spacings = [spacing * step for spacing, step in zip(spacings, stride, strict=True)]
        strides.append(stride)
        kernels.append(_choose_kernel(spacings))
    return tuple(strides), tuple(kernels)


def _choose_kernel(spacings: Sequence[float]) -> tuple[int, ...]:
    return tuple(3 if _is_fine(spacing, spacings) else 1 for spacing in spacings)


def _is_fine(spacing: float, spacings: Sequence[float]) -> bool:
    return spacing < ANISOTROPY * min(spacings)


def plan_variation(plan: ConfigurationPlan) -> tuple[tuple[TransformPlan, ...], Reason]:
    """Plans how label maps are varied: by the changes of geometry of training, and always elastically."""
    rows = [row for row in plan.training.transforms if row.name in GEOMETRIC_TRANSFORMS]
    warp = next((row for row in rows if isinstance(row, WarpPlan)), None)
    others = [row for row in rows if not isinstance(row, WarpPlan)]
    is_coarse = plan.dimensions == 3 and plan.spacing_mm[0] >= ANISOTROPY * min(plan.spacing_mm[1:])
    in_plane = is_coarse if warp is None else warp.in_plane_only
    shortest = min(plan.patch_voxels[1:] if in_plane and plan.dimensions == 3 else plan.patch_voxels)
    distance = max(2.0, shortest / NODES_PER_PATCH)
    elastic = SpacedGridField(probability=1.0, std_voxels=DISPLACEMENT * distance, spacing_voxels=distance)
    known = None if warp is None else warp.model_dump(exclude={"name", "elastic"})
    still = {
        "rotation_probability": 0.0,
        "rotation_limit_degrees": 0.0,
        "in_plane_only": in_plane,
        "scaling_probability": 0.0,
        "scaling_range": (1.0, 1.0),
        "shear_probability": 0.0,
        "shear_limit_degrees": 0.0,
    }
    row = DeformationPlan.model_validate({**still, **(known or {}), "elastic": elastic.model_dump()})
    reason = Reason(
        subject="variation",
        value=f"elastic, standard deviation {elastic.std_voxels:.3g} voxels at nodes {distance:.3g} voxels apart",
        because="anatomy is to be new, and stay plausible: displacements of an eighth of the distance of nodes, as in "
        "arXiv:1606.06650, after the rotation, scaling and mirroring of the configuration with its probabilities",
    )
    return (row, *others), reason
