"""SDSeg, from scratch or with the weights of Stable Diffusion: its autoencoder of pictures, and a denoiser."""

from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Final

from autoseg.geometry import DistanceUnit
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import LabelAutoencoderPlan, LatentDiffusionPlan
from autoseg.plan.network.base import PretrainedPlan
from autoseg.plan.network.label_autoencoder import LabelPicturesPlan
from autoseg.plan.network.latent_diffusion import DenoiserPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.latent_diffusion import (
    DIFFUSION,
    LATENT_CHANNELS,
    WIDTH,
    build_denoiser,
    choose_latent_diffusion,
)
from planners.reasons import format_extents, record
from planners.rules.label_pictures import choose_colours
from planners.rules.topology import UNET_TOPOLOGY, Topology, TopologyRule, compute_topology

FEATURES: Final = (128, 256, 512, 512)  # of the autoencoder
DENOISER_FEATURES: Final = (192, 384, 384, 768, 768)
BLOCKS: Final = 2
HEADS: Final = 8
DROPOUT: Final = 0.2
HALVINGS: Final = len(FEATURES) - 1
DENOISER_HALVINGS: Final = len(DENOISER_FEATURES) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentDiffusionProfile:
    """Chooses latent diffusion for a topology.

    Attributes:
        pretrained: Weights of Stable Diffusion with which training begins; None: none, and nothing of that form.
    """

    pretrained: PretrainedPlan | None = None

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[LatentDiffusionPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters."""
        if self.pretrained is None:
            return choose_latent_diffusion(
                topology, input_channels=input_channels, output_channels=output_channels, width=width
            )
        form = choose_form(self.pretrained)
        denoiser = _build_denoiser(topology.strides[HALVINGS + 1 :]) if form.value == "noise" else None
        network = LatentDiffusionPlan(
            dimensions=2,
            input_channels=input_channels,
            output_channels=output_channels,
            autoencoder=_build_autoencoder(output_channels),
            vision_features_per_stage=FEATURES,
            denoiser=denoiser or build_denoiser(topology, HALVINGS, width or WIDTH),
            diffusion=DIFFUSION,
            estimate="noise" if form.value == "noise" else "latent",
            noise_grid=tuple(extent // 2**HALVINGS for extent in topology.patch_voxels),
            pretrained=self.pretrained,
        )
        first = Decision(str(self.pretrained.path), f"as stated; the SHA-256 of the file is {self.pretrained.sha256}")
        return network, (
            record("first weights", first, first.value),
            record("estimate", form, network.estimate),
            record(
                "latents", _explain_latents(), f"{format_extents(network.noise_grid)} of {LATENT_CHANNELS} channels"
            ),
        )

    def with_pretrained(self, pretrained: PretrainedPlan) -> "LatentDiffusionProfile":
        """Returns the profile whose networks begin with the weights of a file."""
        return replace(self, pretrained=pretrained)

    def build_published(self) -> LatentDiffusionPlan:
        """Builds the network of the authors' code, for colour images and label maps of three labels."""
        return LatentDiffusionPlan(
            dimensions=2,
            input_channels=3,
            output_channels=3,
            autoencoder=_build_autoencoder(3),
            vision_features_per_stage=FEATURES,
            denoiser=_build_denoiser(((2, 2),) * DENOISER_HALVINGS),
            diffusion=DIFFUSION,
            estimate="noise",
            noise_grid=(32, 32),
            pretrained=self.pretrained,
        )

    @property
    def topology(self) -> TopologyRule:
        """The rule for dividing the patch, which is that of the weights where there are some."""
        if self.pretrained is None:
            return UNET_TOPOLOGY
        halvings = HALVINGS + (DENOISER_HALVINGS if "denoiser" in self.pretrained.parts else 0)
        return TopologyRule(
            compute=partial(compute_published_topology, halvings=halvings),
            explain=partial(explain_published_topology, halvings=halvings),
            requirement="the weights of Stable Diffusion are those of a 2D network, so there is none in 3D",
        )


def choose_form(pretrained: PretrainedPlan) -> Decision[str]:
    """Chooses what the denoiser estimates: as it was trained, where the file holds one."""
    if "denoiser" in pretrained.parts:
        return Decision("noise", "as published, for which the denoiser in the file was trained")
    return Decision(
        "latent",
        "the file holds no denoiser of the published form (those that attend to a text cannot take an image), so it "
        "begins with random weights, and estimates latents, which was better on Hippocampus",
    )


def compute_published_topology(spacing_mm: tuple[float, ...], extents: tuple[float, ...], *, halvings: int) -> Topology:
    """Halves both axes of a slice as often as the weights demand; a denoiser without weights then does as a U-Net.

    Volumes are not divided at all: there are no weights for them.
    """
    if len(extents) != 2:
        ones = (1,) * len(extents)
        whole = tuple(map(ceil, extents))
        return Topology(patch_voxels=whole, strides=(ones,), kernel_sizes=((3,) * len(extents),), divisors=ones)
    del spacing_mm  # the pixels of pictures are squares
    coarse = [ceil(extent / 2**halvings) for extent in extents]
    rest = compute_topology((1.0, 1.0), coarse) if halvings == HALVINGS else None
    strides = ((1, 1), *((2, 2),) * halvings, *(() if rest is None else rest.strides[1:]))
    below = tuple(coarse) if rest is None else rest.patch_voxels
    return Topology(
        patch_voxels=tuple(extent * 2**halvings for extent in below),
        strides=strides,
        kernel_sizes=((3, 3),) * len(strides),
        divisors=tuple(2**halvings * divisor for divisor in ((1, 1) if rest is None else rest.divisors)),
    )


def explain_published_topology(
    topology: Topology, spacing_mm: tuple[float, ...], distance_unit: DistanceUnit, *, halvings: int
) -> Decision[Topology]:
    """Puts into words how often axes are halved."""
    del spacing_mm, distance_unit
    more = "" if topology.stage_count == 1 + halvings else ", and as often again as a U-Net would halve the latents"
    return Decision(topology, f"both axes are halved {halvings} times, as the weights of Stable Diffusion demand{more}")


def _explain_latents() -> Decision[None]:
    return Decision(None, "an eighth of both axes, as the autoencoder of Stable Diffusion has them")


def _build_autoencoder(outputs: int) -> LabelAutoencoderPlan:
    return LabelAutoencoderPlan(
        dimensions=2,
        input_channels=outputs,
        output_channels=outputs,
        features_per_stage=FEATURES,
        kernel_sizes=((3, 3),) * len(FEATURES),
        strides=((1, 1), *((2, 2),) * HALVINGS),
        blocks_per_stage=BLOCKS,
        latent_channels=LATENT_CHANNELS,
        latents="gaussian",
        latent_noise=0.0,
        has_attention=True,
        pictures=LabelPicturesPlan(colours=choose_colours(outputs), kind="labels"),
    )


def _build_denoiser(strides: tuple[tuple[int, ...], ...]) -> DenoiserPlan:
    return DenoiserPlan(
        dimensions=2,
        input_channels=2 * LATENT_CHANNELS,
        output_channels=LATENT_CHANNELS,
        features_per_stage=DENOISER_FEATURES,
        kernel_sizes=((3, 3),) * len(DENOISER_FEATURES),
        strides=((1, 1), *strides),
        heads=HEADS,
        blocks_per_stage=BLOCKS,
        attention_stages=tuple(range(DENOISER_HALVINGS)),
        dropout=DROPOUT,
    )


_PROFILE: Final = LatentDiffusionProfile()

LATENT_DIFFUSION: Final = Architecture(
    name="latent_diffusion",
    sentence="SDSeg: denoises a compressed label map in one step, given the image; for pretrained weights, too.",
    source="Lin et al. 2024, MICCAI, arXiv:2406.18361",
    year=2024,
    choose_network=_PROFILE,
    published=(
        # Autoencoder 83,653,863, encoder of the image 34,163,664, denoiser 294,973,828, as in the code of the authors.
        PublishedNetwork(plan=_PROFILE.build_published(), parameter_count=412_791_355),
    ),
)
