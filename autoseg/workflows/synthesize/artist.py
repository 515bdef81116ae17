"""Draws synthetic cases with a trained denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from autoseg.networks.families import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.networks.weights import read_weights
from autoseg.plan.objectives import ChannelRange, ImageDenoisingObjective
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.case import OUTSIDE_LABEL, PreprocessedCase
from autoseg.training.objectives.image_denoising import (
    build_condition,
    place_channels,
    restore_intensities,
    standardize,
)
from autoseg.workflows.folds.synthesis import SynthesisPlan
from autoseg.workflows.synthesize.job import SynthesisJob
from autoseg.workflows.synthesize.label_variation import build_synthetic_geometry, vary_label_map


@dataclass(frozen=True, slots=True, kw_only=True)
class Artist:
    """Draws any synthetic case of a fold from its number alone."""

    job: SynthesisJob
    plan: SynthesisPlan
    network: DiffusionUNet

    @property
    def step_count(self) -> int:
        """Number of steps of an image."""
        return len(self.network.implicit_steps)

    def choose_source(self, index: int) -> str:
        """Chooses the training case whose label map is varied: every one as often as the others."""
        names = self.plan.training_cases
        return names[int(np.random.default_rng(self.job.seed).permutation(len(names))[index % len(names)])]

    def draw(self, index: int, *, on_step: Callable[[int], None]) -> PreprocessedCase:
        """Varies a label map and draws an image for it.

        Raises:
            RunError: The source cannot be read.
        """
        source = open_case(self.job.data_folder, self.choose_source(index))
        seeds = np.random.SeedSequence((self.job.seed, index))
        label_map = vary_label_map(source, self.plan, seeds)
        image = self.draw_image(label_map, seeds, on_step=on_step)
        extents = (image.shape[1], image.shape[2], image.shape[3])
        geometry = build_synthetic_geometry(source.geometry, extents)
        return PreprocessedCase(image=image, label_map=label_map, geometry=geometry)

    def draw_image(
        self, label_map: Int16[np.ndarray, "z y x"], seeds: np.random.SeedSequence, *, on_step: Callable[[int], None]
    ) -> Float32[np.ndarray, "channel z y x"]:
        """Draws an image for a label map; channels that are normalized inside the nonzero region are 0 beyond it."""
        is_2d, device, objective = (
            self.plan.denoiser.dimensions == 2,
            self.job.device,
            self.plan.denoiser.training.objective,
        )
        assert isinstance(objective, ImageDenoisingObjective), "plans are checked"
        seen = np.maximum(label_map[0] if is_2d else label_map, 0)
        beyond = [
            (0, -extent % step) for extent, step in zip(seen.shape, self.network.plan.patch_divisors, strict=True)
        ]
        whole = torch.from_numpy(np.pad(seen, beyond, mode="symmetric"))[None].to(device)
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
        drawn = sample_image(
            self.network,
            build_condition(whole, self.job.plan.labels),
            channels=objective.channels,
            eta=self.plan.eta,
            generator=generator,
            on_step=on_step,
        )
        inside = tuple(slice(extent) for extent in seen.shape)
        image = drawn[0].cpu().numpy()[:, *inside].reshape(-1, *label_map.shape)
        for channel, plan in zip(image, self.job.plan.channels, strict=True):
            if plan.inside_nonzero_only:
                channel[label_map <= OUTSIDE_LABEL] = 0
        return image


@torch.inference_mode()
def sample_image(
    network: DiffusionUNet,
    masks: Float32[Tensor, "1 mask *space"],
    *,
    channels: Sequence[ChannelRange],
    eta: float,
    generator: torch.Generator,
    on_step: Callable[[int], None] = lambda done: None,
) -> Float32[Tensor, "1 channel *space"]:
    """Goes back from noise to an image, step by step, at all voxels at once: windows would be of different brightness.

    Args:
        network: The denoiser.
        masks: The channels that describe the label map; extents are multiples of the divisors of the network.
        channels: Intensities of the channels of the image, to which estimates are clipped.
        eta: Share of the noise of DDPM that every step adds.
        generator: Source of the noise.
        on_step: Called with the number of steps that are done.
    """
    noise = torch.randn((1, len(channels), *masks.shape[2:]), generator=generator).to(masks.device)
    lowest, highest = (
        standardize(place_channels(values, noise), channels)
        for values in zip(*((channel.lowest, channel.highest) for channel in channels), strict=True)
    )
    numbers = [step.number for step in network.implicit_steps]

    def estimate(noisy: Tensor, number: int) -> Tensor:
        start = network.estimate_image(masks, noisy, number)
        on_step(numbers.index(number) + 1)
        return torch.minimum(torch.maximum(start, lowest), highest)

    drawn = network.diffusion.sample_implicitly(estimate, noise, steps=numbers, eta=eta, generator=generator)
    return restore_intensities(drawn, channels)


def build_artist(job: SynthesisJob, plan: SynthesisPlan) -> Artist:
    """Builds the trained denoiser of a fold.

    Raises:
        RunError: It cannot be read.
    """
    network = build_network(plan.denoiser.network)
    assert isinstance(network, DiffusionUNet), "plans are checked"
    network.load_state_dict(read_weights(job.folder.denoiser.final_checkpoint))
    return Artist(job=job, plan=plan, network=network.to(job.device).eval())
