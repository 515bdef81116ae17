"""The share of the voxels that belongs to every class, and the weights of classes that follow from it."""

from dataclasses import dataclass
from math import prod, sqrt
from typing import Final

from autoseg.fingerprint import Fingerprint
from planners.reasons import format_share

SMALLEST_SHARE: Final = 1e-3
"""Smaller shares count as this one, lest single voxels have all the weight; patches that are centred on foreground show
rare classes more often than whole images do. A guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassShares:
    """Shares of the voxels of all cropped images.

    Attributes:
        background: Share of background; for regions one share for each, of the voxels outside it.
        classes: Share of every class, label or region, from which weights follow: at least 0.1 %.
        counted: The same as it was counted.
        has_regions: Whether classes may overlap.
        has_ignore: Whether there may be ignored voxels, which count as background.
    """

    background: tuple[float, ...]
    classes: tuple[float, ...]
    counted: tuple[float, ...]
    has_regions: bool
    has_ignore: bool

    def weigh_by_root(self, *, is_normalized: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Computes 1 / sqrt(share) for background and classes; normalized, a voxel weighs 1 on average."""
        background, classes = (tuple(1 / sqrt(share) for share in shares) for shares in (self.background, self.classes))
        mean = self.compute_mean(background, classes) if is_normalized else 1.0
        return _round(background, mean), _round(classes, mean)

    def weigh_by_rest(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Computes the mean share of the other classes for background and classes: for two classes, beta."""
        others = 1 if self.has_regions else len(self.classes)
        background, classes = (
            tuple((1 - share) / others for share in shares) for shares in (self.background, self.classes)
        )
        return _round(background), _round(classes)

    def list_probabilities(self) -> tuple[float, ...]:
        """Lists the shares of background and classes, or of regions: what the output layers should begin with."""
        shares = self.classes if self.has_regions else (*self.background, *self.classes)
        return tuple(min(round(share, 4), 1 - SMALLEST_SHARE) for share in shares)

    def compute_mean(self, background: tuple[float, ...], classes: tuple[float, ...]) -> float:
        """Computes the mean weight of a voxel (and of regions, if any)."""
        total = sum(
            share * weight
            for share, weight in zip((*self.background, *self.classes), (*background, *classes), strict=True)
        )
        return total / len(self.background)

    def explain_start(self) -> str:
        """Explains the probabilities that the output layers begin with."""
        return (
            f"{self.describe()}, and these are the probabilities that the output layers begin with, as in the paper on "
            f"focal loss: rare classes that begin with those of all others lose them before they are learnt"
        )

    def describe(self) -> str:
        """Describes the shares in words."""
        lowest, highest = format_share(min(self.counted)), format_share(max(self.counted))
        filled = lowest if lowest == highest else f"{lowest} to {highest}"
        classes = f"{'regions' if self.has_regions else 'foreground classes'} fill {filled} of the voxels"
        ignored = ", ignored voxels counted as background" if self.has_ignore else ""
        is_raised = min(self.counted) < SMALLEST_SHARE
        raised = f", where less than {format_share(SMALLEST_SHARE)} counts as that" if is_raised else ""
        return f"{classes} of the cropped images{ignored}{raised}"


def compute_class_shares(fingerprint: Fingerprint) -> ClassShares:
    """Computes the shares of all classes over all cases, those for weights at least 0.1 %."""
    labels = fingerprint.labels
    total = sum(prod(case.cropped_shape_voxels) for case in fingerprint.cases)
    counts = [sum(own) for own in zip(*(case.known_voxel_counts for case in fingerprint.cases), strict=True)]
    classes = tuple(count / total for count in counts)
    background = tuple(1 - share for share in classes) if labels.has_regions else (1 - sum(classes),)
    return ClassShares(
        background=tuple(max(share, SMALLEST_SHARE) for share in background),
        classes=tuple(max(share, SMALLEST_SHARE) for share in classes),
        counted=classes,
        has_regions=labels.has_regions,
        has_ignore=labels.ignore_label is not None,
    )


def _round(weights: tuple[float, ...], divisor: float = 1.0) -> tuple[float, ...]:
    return tuple(round(weight / divisor, 4) for weight in weights)
