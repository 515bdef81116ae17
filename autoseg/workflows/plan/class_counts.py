"""Counts the occurrences of each class in a dataset, and finds images that occur more than once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autoseg.fingerprint import CaseFingerprint
from autoseg.labels import LabelScheme

FEWEST_CASES: Final = 5  # with fewer, the class is missing in the validation of at least one of five folds


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """Occurrence of one class in a dataset.

    Attributes:
        name: Name of the class.
        values: Its values in the user's files.
        cases: Number of cases in which it occurs.
        voxels: Number of its voxels in all cases together.
    """

    name: str
    values: tuple[int, ...]
    cases: int
    voxels: int


def count_class_occurrences(labels: LabelScheme, cases: Sequence[CaseFingerprint]) -> tuple[ClassCount, ...]:
    """Counts cases and voxels of every class, in the order of `LabelScheme.class_names`."""
    return tuple(
        ClassCount(
            name=name,
            values=tuple(labels.file_values[label] for label in members),
            cases=sum(case.voxel_counts[index] > 0 for case in cases),
            voxels=sum(case.voxel_counts[index] for case in cases),
        )
        for index, (name, members) in enumerate(zip(labels.class_names, labels.class_labels, strict=True))
    )


def warn_of_rare_classes(counts: Sequence[ClassCount], *, counted: int, uncounted: int = 0) -> list[str]:
    """Writes one warning for each class that occurs in fewer than five cases.

    Args:
        counts: Occurrence of each class.
        counted: Number of cases that were counted.
        uncounted: Number of other cases, each of which may contain the class.
    """
    return [
        f"warning: class {count.name!r} occurs in {_describe(count.cases)} of {counted} cases: too few to learn it "
        f"well, or to have it among the held-out cases of all five folds"
        for count in counts
        if count.cases + uncounted < FEWEST_CASES
    ]


def find_duplicates(cases: Sequence[CaseFingerprint]) -> tuple[tuple[str, ...], ...]:
    """Finds cases with identical images; one group of names for each such image."""
    counts = Counter(hash(case.image_digest) for case in cases)  # a third of the memory of the digests
    names: dict[str, list[str]] = {}
    for case in cases:
        if case.image_digest and counts[hash(case.image_digest)] > 1:
            names.setdefault(case.image_digest, []).append(case.name)
    return tuple(tuple(same) for same in names.values() if len(same) > 1)


def _describe(count: int) -> str:
    return f"only {count}" if count else "none"
