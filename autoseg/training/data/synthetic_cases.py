"""Synthetic cases, which only ever train the fold whose training cases they were made from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoseg.preprocessing.cache import CachedCase, open_case


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticCases:
    """Synthetic cases in the form of preprocessed ones.

    Attributes:
        folder: Their folder, which holds no other cases.
        names: No name of a case of the dataset is among them. Empty for those of a finished training.
        digest: SHA-256 of the record that tells how they were made.
    """

    folder: Path
    names: tuple[str, ...]
    digest: str

    def build_opening(self, data_folder: Path) -> Callable[[str], CachedCase]:
        """Builds a function that opens a case of either folder by its name, also in another process."""
        return partial(_open_either, self, data_folder)


def remember_synthetic_cases(digest: str) -> SyntheticCases:
    """Describes those of a finished training, which needs them no more."""
    return SyntheticCases(folder=Path(), names=(), digest=digest)


def _open_either(synthetic: SyntheticCases, data_folder: Path, name: str) -> CachedCase:
    return open_case(synthetic.folder if name in synthetic.names else data_folder, name)
