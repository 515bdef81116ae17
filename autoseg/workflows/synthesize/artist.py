"""Draws synthetic cases with a trained denoiser."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int16

from autoseg.networks.families import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.networks.weights import read_weights
from autoseg.plan.objectives import ImageDenoisingObjective
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.case import OUTSIDE_LABEL, PreprocessedCase
from autoseg.training.objectives.image_denoising import (
    build_condition,
    place_channels,
    restore_intensities,
    standardize,
)
from autoseg.workflows.folds.synthesis import SynthesisPlan
from autoseg.workflows.synthesize.image_sampling import sample_image
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
        seen = torch.from_numpy(np.maximum(label_map[0] if is_2d else label_map, 0))[None].to(device)
        generator = torch.Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
        noise = torch.randn((1, len(objective.channels), *seen.shape[1:]), generator=generator).to(device)
        lowest, highest = (
            standardize(place_channels(values, noise), objective.channels)
            for values in zip(*((channel.lowest, channel.highest) for channel in objective.channels), strict=True)
        )
        drawn = sample_image(
            self.network.estimate_image,
            build_condition(seen, self.job.plan.labels),
            noise,
            steps=self.network.implicit_steps,
            patch_voxels=self.plan.denoiser.patch_voxels,
            bounds=(lowest, highest),
            on_step=on_step,
        )
        image = restore_intensities(drawn, objective.channels)[0].cpu().numpy().reshape(-1, *label_map.shape)
        for channel, plan in zip(image, self.job.plan.channels, strict=True):
            if plan.inside_nonzero_only:
                channel[label_map <= OUTSIDE_LABEL] = 0
        return image


def build_artist(job: SynthesisJob, plan: SynthesisPlan) -> Artist:
    """Builds the trained denoiser of a fold.

    Raises:
        RunError: It cannot be read.
    """
    network = build_network(plan.denoiser.network)
    assert isinstance(network, DiffusionUNet), "plans are checked"
    network.load_state_dict(read_weights(job.folder.denoiser.final_checkpoint))
    return Artist(job=job, plan=plan, network=network.to(job.device).eval())
