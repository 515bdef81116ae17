"""Correction of a label map, one class at a time, in patches that are placed around the boundaries of its classes.

Boundary patch refinement (Tang et al. 2021, arXiv:2104.05239): where patches of a class overlap, their probabilities
are averaged; outside them nothing changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32
from torch import Tensor, nn

from autoseg.errors import PredictionError
from autoseg.geometry import IntTriple, add_slice_axis
from autoseg.inference.sliding_window.mirroring import ChannelExchange, predict_mirrored
from autoseg.inference.sliding_window.prediction import (
    MEMORY_ADVICE,
    OnWindow,
    compute_inference_batch_size,
    explain_broken_output,
    retry_with_fewer_patches,
    switch_to_evaluation,
)
from autoseg.labels import LabelScheme
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.stages import BoundaryOfPreviousStage
from autoseg.runtime.cpu_threads import adaptive_cpu_threads
from autoseg.runtime.device import translate_memory_errors
from autoseg.stages.boundary import build_class_masks, find_boundary, select_centres

SMALLEST_PROBABILITY: Final = 1e-13
"""Below it, logarithms of probabilities are those of this number: no average over models lifts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refinement:
    networks: tuple[nn.Module, ...]
    mirror_axes: tuple[int, ...]
    batch_size: int
    patch_voxels: IntTriple
    is_2d: bool
    device: torch.device

    def predict(self, patches: Float32[np.ndarray, "patch channel z y x"]) -> Float32[np.ndarray, "patch z y x"]:
        """Predicts the probability of the class, by the mean of the logits of networks and mirrored views."""
        inputs = torch.from_numpy(patches).to(self.device)
        inputs = inputs.squeeze(2) if self.is_2d else inputs
        total = sum(
            predict_mirrored(network, inputs, self.mirror_axes, inference_batch_size=self.batch_size)
            for network in self.networks
        )
        assert isinstance(total, Tensor), "there is a network"
        inside = torch.softmax(total / len(self.networks), 1)[:, 1]
        return np.asarray((inside.unsqueeze(1) if self.is_2d else inside).float().cpu().numpy())


@torch.inference_mode()
def refine_boundaries(
    networks: nn.Module | Sequence[nn.Module],
    image: Float32[Tensor, "channel z y x"],
    *,
    labels: LabelScheme,
    configuration: ConfigurationPlan,
    mirror_axes: Sequence[int],
    exchange: ChannelExchange | None = None,
    device: torch.device,
    step_fraction: float = 0.5,
    inference_batch_size: int | None = None,
    on_window: OnWindow | None = None,
) -> Float32[Tensor, "class z y x"]:
    """Corrects the label map that is the last channel of the image; returns logits of all classes on the CPU.

    Arguments are those of `predict_logits`, but that patches lie where boundaries are.

    Raises:
        PredictionError: The output of the network is not finite.
        DeviceError: Not even one patch fits in the memory of the device.
    """
    del step_fraction
    stage = configuration.previous_stage
    assert isinstance(stage, BoundaryOfPreviousStage), "there is no boundary to correct"
    assert exchange is None, "the plan was checked"
    members = (networks,) if isinstance(networks, nn.Module) else tuple(networks)
    refinement = _Refinement(
        networks=members,
        mirror_axes=tuple(mirror_axes),
        batch_size=inference_batch_size or compute_inference_batch_size(configuration, device),
        patch_voxels=add_slice_axis(configuration.patch_voxels, 1),
        is_2d=configuration.dimensions == 2,
        device=device,
    )
    given = image.cpu().numpy()
    masks = build_class_masks(given[-1].astype(np.int16), labels)
    patch, axes = refinement.patch_voxels, configuration.dimensions
    centres = [
        select_centres(find_boundary(mask, axes=axes), patch, overlap_limit=stage.overlap_limit) for mask in masks
    ]
    padded = np.pad(given[:-1], ((0, 0), *_list_padding(patch)))  # a patch around a voxel begins there in it

    def refine(count: int) -> list[Float32[np.ndarray, "z y x"]]:
        own = replace(refinement, batch_size=count)
        counter = _Counter(total=sum(map(len, centres)), on_window=on_window)
        return [
            _refine_class(own, padded, mask, places, counter=counter)
            for mask, places in zip(masks, centres, strict=True)
        ]

    fits = translate_memory_errors(device, purpose="the network and one patch", advice=MEMORY_ADVICE)
    with switch_to_evaluation(members), adaptive_cpu_threads(device), fits:
        refined = retry_with_fewer_patches(refine, refinement.batch_size, device=device, networks=members)
    broken = [name for name, values in zip(labels.class_names, refined, strict=True) if not np.isfinite(values).all()]
    if broken:
        msg = (
            f"the network's output must be finite, found infinite values or NaN for {', '.join(broken)}; "
            f"{explain_broken_output(image, members, device)}"
        )
        raise PredictionError(msg)
    return torch.from_numpy(compute_logits(np.stack(refined), has_regions=labels.has_regions))


@dataclass(slots=True, kw_only=True)
class _Counter:
    total: int
    on_window: OnWindow | None
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.on_window is not None:
            self.on_window(self.done, self.total)


def _refine_class(
    refinement: _Refinement,
    padded: Float32[np.ndarray, "channel padded_z padded_y padded_x"],
    mask: Bool[np.ndarray, "z y x"],
    centres: Int32[np.ndarray, "centre 3"],
    *,
    counter: _Counter,
) -> Float32[np.ndarray, "z y x"]:
    patch = refinement.patch_voxels
    padded_mask = np.pad(mask, _list_padding(patch))[None]
    places = [tuple(slice(*ends) for ends in zip(centre, centre + patch, strict=True)) for centre in centres]

    def predict() -> Iterator[Float32[np.ndarray, "z y x"]]:
        for first in range(0, len(places), refinement.batch_size):
            group = places[first : first + refinement.batch_size]
            cuts = [[values[(slice(None), *place)] for values in (padded, padded_mask)] for place in group]
            yield from refinement.predict(np.stack([np.concatenate(cut, dtype=np.float32) for cut in cuts]))
            counter.add(len(group))

    return average_patches(mask, centres, predict(), patch_voxels=patch)


def average_patches(
    mask: Bool[np.ndarray, "z y x"],
    centres: Int32[np.ndarray, "centre 3"],
    patches: Iterable[Float32[np.ndarray, "patch_z patch_y patch_x"]],
    *,
    patch_voxels: IntTriple,
) -> Float32[np.ndarray, "z y x"]:
    """Returns the mean probability of the patches that cover a voxel, and that of the mask, 0 or 1, where none does.

    Args:
        mask: The class before.
        centres: The voxel around which each patch lies, which is voxel `patch // 2` of it.
        patches: Probabilities of the class.
        patch_voxels: Extent of a patch, which may hang over the image.
    """
    padding = _list_padding(patch_voxels)
    total = np.pad(np.zeros(mask.shape, np.float32), padding)
    count = np.zeros(total.shape, np.int32)
    for (z, y, x), probabilities in zip(centres, patches, strict=True):
        place = (slice(z, z + patch_voxels[0]), slice(y, y + patch_voxels[1]), slice(x, x + patch_voxels[2]))
        total[place] += probabilities
        count[place] += 1
    inside = tuple(slice(below, below + extent) for (below, _), extent in zip(padding, mask.shape, strict=True))
    total, count = total[inside], count[inside]
    return np.where(count > 0, total / np.maximum(count, 1), mask).astype(np.float32)


def _list_padding(patch_voxels: IntTriple) -> list[tuple[int, int]]:
    return [(extent // 2, extent - extent // 2) for extent in patch_voxels]


def compute_logits(
    probabilities: Float32[np.ndarray, "class z y x"], *, has_regions: bool
) -> Float32[np.ndarray, "output z y x"]:
    """Computes logits of which the highest is the class of the highest probability, or background where none is above
    one half; of regions, those of their probabilities."""
    kept = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - np.finfo(np.float32).eps)
    if has_regions:
        return np.asarray(np.log(kept) - np.log1p(-kept), np.float32)
    outside = np.clip(1 - probabilities.max(axis=0, keepdims=True), SMALLEST_PROBABILITY, 1)
    inside = np.clip(probabilities, SMALLEST_PROBABILITY, 1)
    return np.asarray(np.log(np.concatenate([outside, inside])), np.float32)
