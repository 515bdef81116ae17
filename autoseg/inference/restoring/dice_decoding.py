"""Decodes probabilities into the labels with the highest expected Dice instead of the most probable ones.

If voxels are independent given the image, the set of voxels with the highest expected Dice consists of the most
probable ones (Dai and Li 2023, RankSEG, JMLR 24). Its size follows from the reciprocal moment approximation (Wang and
Dai 2025, RankSEG-RMA, NeurIPS): the expected Dice of a set of N voxels is about

    F = 2 * (sum of their probabilities) / (N + expected number of voxels of the class + 1),

where each sum is over the volume. A further voxel raises F as long as its probability is above F / 2, so the best set
is that above half of the highest F: at most one half, and lower for a class that the network is unsure of.

The first pass over the strips of a volume counts the probabilities of each class in narrow bins, which gives the
thresholds; the second decides. Neither keeps more than a strip.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int16, Int64
from torch import Tensor

from autoseg.inference.restoring.decoding import compose_regions, compute_argmax, compute_probabilities
from autoseg.inference.restoring.restore_grid import iterate_mean_probabilities, retry_with_logits_in_ram
from autoseg.labels import LabelScheme
from autoseg.nonzero_region import slice_box
from autoseg.plan.preprocessing import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry

BINS: Final = 2**14
"""Bins of the probabilities of a class. A threshold is off by less than the width of one, 6e-5, at which the expected
Dice is flat: a voxel more or less there changes it by less than that, divided by the number of voxels."""
BACKGROUND: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DiceRule:
    """Decides the labels of a volume.

    Attributes:
        thresholds: Probability above which a voxel belongs to a class; infinite for a class that is not there, and for
            the background of labels.
        weights: Change of the expected Dice of a class per voxel and probability above the threshold.
    """

    thresholds: Float64[np.ndarray, " class"]
    weights: Float64[np.ndarray, " class"]

    def decode(self, probabilities: Float32[Tensor, "*space class"], labels: LabelScheme) -> Int16[Tensor, "*space"]:
        """Decodes probabilities to internal labels.

        Labels: the class that gains most of those whose threshold is exceeded, else background. Regions: each whose
        threshold is exceeded, in the order of declaration.
        """
        thresholds, weights = (
            torch.from_numpy(values.astype(np.float32)).to(probabilities.device)
            for values in (self.thresholds, self.weights)
        )
        if labels.has_regions:
            inside = (probabilities > thresholds).unbind(-1)
            return compose_regions(inside, labels)
        gains = (probabilities - thresholds) * weights
        gains[..., BACKGROUND] = 0
        return compute_argmax(gains)


def find_dice_rule(parts: Iterable[Float32[Tensor, "*space class"]], labels: LabelScheme) -> DiceRule:
    """Finds the rule for a volume of which the parts hold all voxels that may belong to a class.

    A class that the usual decoding finds nowhere stays absent: the Dice of an absent class is not defined, so nothing
    could be gained.
    """
    classes = labels.output_channel_count
    counts = np.zeros((classes, BINS), np.int64)
    expected_voxels = np.zeros(classes)
    is_found = np.zeros(classes, bool)
    for part in parts:
        flat = part.reshape(-1, classes)
        counts += _count_bins(flat)
        expected_voxels += flat.sum(dim=0).cpu().numpy()  # of a strip; not every device knows float64
        is_found |= _find_classes(flat, labels)
    if not labels.has_regions:
        is_found[BACKGROUND] = False
    return _compute_rule(counts, expected_voxels, is_found)


def _count_bins(probabilities: Float32[Tensor, "voxel class"]) -> Int64[np.ndarray, "class bin"]:
    classes = probabilities.shape[1]
    bins = (probabilities * BINS).to(torch.int32).clamp_(0, BINS - 1)
    bins += BINS * torch.arange(classes, dtype=torch.int32, device=bins.device)
    counts: Int64[np.ndarray, "class bin"] = (
        torch.bincount(bins.flatten(), minlength=classes * BINS).reshape(classes, BINS).cpu().numpy()
    )
    return counts


def _find_classes(probabilities: Float32[Tensor, "voxel class"], labels: LabelScheme) -> np.ndarray:
    if labels.has_regions:
        return (probabilities.amax(dim=0) > 0.5).cpu().numpy()
    found = np.zeros(probabilities.shape[1], bool)
    found[compute_argmax(probabilities).to(torch.int64).bincount().nonzero().flatten().cpu().numpy()] = True
    return found


def _compute_probabilities(logits: Float32[Tensor, "*space class"], labels: LabelScheme) -> Tensor:
    """Does as `compute_probabilities`, but for rounding, and several times as fast for few labels on a CPU."""
    if labels.has_regions:
        return compute_probabilities(logits, labels)
    first = logits.movedim(-1, 0).contiguous()  # PyTorch's softmax is vectorized along the other axes alone (measured)
    return torch.softmax(first, dim=0).movedim(0, -1).contiguous()


def _compute_rule(
    counts: Int64[np.ndarray, "class bin"], expected_voxels: Float64[np.ndarray, " class"], is_found: np.ndarray
) -> DiceRule:
    centres = (np.arange(BINS) + 0.5) / BINS
    voxels = counts[:, ::-1].cumsum(axis=1)
    sums = (counts * centres)[:, ::-1].cumsum(axis=1)
    sizes = voxels + expected_voxels[:, None] + 1
    halves = sums / sizes
    best = halves.argmax(axis=1)
    chosen = (np.arange(len(counts)), best)
    thresholds = np.where(is_found, halves[chosen], np.inf)
    return DiceRule(thresholds=thresholds, weights=1 / sizes[chosen])


@torch.inference_mode()
def restore_dice_label_map(
    logits: Sequence[Float[Tensor, "class _z _y _x"]],
    geometries: Sequence[CaseGeometry],
    resamplings: Sequence[ResamplingPlan],
    *,
    labels: LabelScheme,
    strip_bytes: int | None = None,
) -> Int16[np.ndarray, "file_z file_y file_x"]:
    """Restores the internal labels with the highest expected Dice on the grid of the image file.

    Arguments as in `restore_mean_label_map`; one model is an ensemble of one.
    """

    def restore(parts: Sequence[Tensor]) -> Int16[np.ndarray, "file_z file_y file_x"]:
        volume = np.zeros(geometries[0].grid.shape_voxels, np.int16)
        cropped = geometries[0].reorientation.apply(volume)[slice_box(geometries[0].crop_box)]
        first, second = (
            iterate_mean_probabilities(
                parts, geometries, resamplings, labels=labels, strip_bytes=strip_bytes, compute=_compute_probabilities
            )
            for _ in range(2)
        )
        rule = find_dice_rule((probabilities for _, _, probabilities in first), labels)
        for z, rows, probabilities in second:
            cropped[z, rows] = rule.decode(probabilities, labels).cpu().numpy()
        return volume

    return retry_with_logits_in_ram(restore, logits)
