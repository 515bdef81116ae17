"""Options for importing and exporting models, and their result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.dataset.folds import name_folds
from autoseg.errors import describe_folds
from autoseg.exchange.nnunet_folders import CheckpointKind

ExportFormat = Literal["autoseg", "nnunet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """Options that the user chose.

    Attributes:
        configuration: Configuration to import; None imports every model of the source.
        folds: Folds to import; None imports every fold.
        checkpoint: The checkpoint of nnU-Net to import; nnU-Net itself predicts with "final" by default.
        accepts_any_trainer: Accept trainers that nnU-Net does not ship.
        overwrite: Replace models that the run already holds.
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    checkpoint: CheckpointKind = "final"
    accepts_any_trainer: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Takes folds also as numbers, and a single one by itself."""
        object.__setattr__(self, "folds", name_folds(self.folds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedModel:
    """One configuration that was imported or exported.

    Attributes:
        configuration: Name of the configuration.
        folds: All of its folds.
        written: Folds that did not exist before.
        folder: Folder or file that holds the model.
    """

    configuration: str
    folds: tuple[str, ...]
    written: tuple[str, ...]
    folder: Path

    def describe(self) -> str:
        """Describes what was written, in one line."""
        return f"{self.configuration}, {describe_folds(self.written)}: {self.folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Options that the user chose.

    Attributes:
        format: "nnunet" writes model folders of nnU-Net, "autoseg" writes one file for autoseg.
        configuration: Configuration to export; None exports every trained one (for autoseg: the selected ones, if a
            selection exists).
        folds: Folds to export; None exports every trained one (for autoseg: the selected ones, if a selection exists).
        overwrite: Replace an earlier export.
    """

    format: ExportFormat = "nnunet"
    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Takes folds also as numbers, and a single one by itself."""
        object.__setattr__(self, "folds", name_folds(self.folds))
