"""How often every class occurs in a dataset, and which images occur twice: read off the measurements of the cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autoseg.fingerprint import CaseFingerprint
from autoseg.labels import LabelScheme

FEWEST_CASES: Final = 5  # with fewer, at least one of five folds validates without the class


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """One class of a dataset.

    Attributes:
        values: Of the user's files.
        cases: Number of cases in which it occurs.
        voxels: In all cases together.
    """

    name: str
    values: tuple[int, ...]
    cases: int
    voxels: int


def count_classes(labels: LabelScheme, cases: Sequence[CaseFingerprint]) -> tuple[ClassCount, ...]:
    """One entry per class, in the order of `LabelScheme.class_names`."""
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
    """One warning for each class that occurs in fewer than five cases.

    Args:
        counts: Of all classes.
        counted: Number of cases that were counted.
        uncounted: Number of cases that were not, each of which may hold the class.
    """
    return [
        f"warning: class {count.name!r} occurs in {_describe(count.cases)} of {counted} cases: too few to learn it "
        f"well, or to validate it in each of five folds"
        for count in counts
        if count.cases + uncounted < FEWEST_CASES
    ]


def find_duplicates(cases: Sequence[CaseFingerprint]) -> tuple[tuple[str, ...], ...]:
    """Names of cases whose images are the same, one entry for each such image."""
    names: dict[str, list[str]] = {}
    for case in cases:
        if case.image_digest:
            names.setdefault(case.image_digest, []).append(case.name)
    return tuple(tuple(same) for same in names.values() if len(same) > 1)


def _describe(count: int) -> str:
    return f"only {count}" if count else "none"
