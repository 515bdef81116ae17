"""Finds models and their folds in nnU-Net's result folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from autoseg.dataset.cases import Findings
from autoseg.dataset.description import read_dataset_json
from autoseg.errors import DatasetError, ExchangeError, Problem, describe_folds, quote_path
from autoseg.labels import LabelScheme

PLANS_NAME: Final = "plans.json"
DATASET_NAME: Final = "dataset.json"
FOLD_PREFIX: Final = "fold_"
CHECKPOINT_ENDING: Final = ".pth"
SEPARATOR: Final = "__"
NAME_PARTS: Final = 3
DEEPEST_MODEL: Final = 2  # folders between the given one (results, a dataset's results, a model) and a model
CheckpointKind = Literal["final", "best", "latest"]
CHECKPOINT_KINDS: Final[tuple[CheckpointKind, ...]] = ("final", "best", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetModel:
    """A folder with plans.json, dataset.json and folds; usually called `<trainer>__<plans>__<configuration>`.

    Attributes:
        kind: The kind of checkpoint that is used.
        folds: Names of the folds that have it, sorted: the numbered ones before "all".
    """

    root: Path
    kind: CheckpointKind
    folds: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.resolve().name

    @property
    def plans_file(self) -> Path:
        """The file with the plans."""
        return self.root / PLANS_NAME

    def get_checkpoint(self, fold: str) -> Path:
        """Returns the checkpoint of one fold."""
        return self.root / f"{FOLD_PREFIX}{fold}" / get_checkpoint_name(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledChannels:
    """Inputs and outputs of a model by its dataset.json."""

    channel_names: tuple[str, ...]
    labels: LabelScheme
    file_ending: str


def get_checkpoint_name(kind: CheckpointKind) -> str:
    """Returns the file name of a kind of checkpoint."""
    return f"checkpoint_{kind}{CHECKPOINT_ENDING}"


def find_model_roots(folder: Path) -> tuple[Path, ...]:
    """Finds the model folders in a folder (a model, a dataset's results, or all results); empty if there are none."""
    for depth in range(DEEPEST_MODEL + 1):
        pattern = "*/" * depth + PLANS_NAME
        found = sorted(path.parent for path in folder.glob(pattern) if _has_folds(path.parent))
        if found:
            return tuple(found)
    return ()


def list_missing_parts(folder: Path) -> tuple[str, ...]:
    """Lists the parts of a model folder that a folder lacks."""
    files = tuple(name for name in (PLANS_NAME, DATASET_NAME) if not (folder / name).is_file())
    return files if _has_folds(folder) else (*files, f"{FOLD_PREFIX}0 or the like")


def find_enclosing_model(path: Path) -> Path | None:
    """Returns the model folder of a fold or a checkpoint; None for other paths."""
    if path.is_file() and path.suffix == CHECKPOINT_ENDING:
        return path.absolute().parent.parent
    is_fold = path.is_dir() and path.absolute().name.startswith(FOLD_PREFIX) and not (path / PLANS_NAME).exists()
    return path.absolute().parent if is_fold else None


def open_nnunet_model(root: Path, kind: CheckpointKind) -> NnunetModel:
    """Opens a model folder and finds its folds.

    Raises:
        ExchangeError: No fold has the checkpoint.
    """
    folds = _find_folds(root, kind)
    if not folds:
        raise ExchangeError(_describe_missing(root, kind))
    return NnunetModel(root=root, kind=kind, folds=folds)


def list_folds_without(model: NnunetModel) -> tuple[str, ...]:
    """Lists the folders of folds that lack the kind of checkpoint that is used, as where training has not ended."""
    folders = sorted(path.name for path in model.root.glob(f"{FOLD_PREFIX}*") if path.is_dir())
    return tuple(name for name in folders if name.removeprefix(FOLD_PREFIX) not in model.folds)


def guess_configuration(root: Path) -> str | None:
    """Returns the configuration in the name of a model folder; None if it was renamed (checkpoints name it as well)."""
    parts = root.resolve().name.split(SEPARATOR)
    return parts[-1] if len(parts) == NAME_PARTS else None


def find_sibling(root: Path, configuration: str) -> Path | None:
    """Finds the model folder of another configuration with the same trainer and plans; None if there is none."""
    parts = root.resolve().name.split(SEPARATOR)
    if len(parts) != NAME_PARTS:
        return None
    sibling = root.resolve().with_name(SEPARATOR.join([*parts[:-1], configuration]))
    return sibling if (sibling / PLANS_NAME).is_file() else None


def read_labelled_channels(model: NnunetModel) -> LabelledChannels:
    """Reads a model's dataset.json by the rules for datasets.

    Raises:
        DatasetError: The file has problems; the message lists all of them.
    """
    findings = Findings()
    found = read_dataset_json(model.root, findings)
    if found is None or findings.problems:
        heading = f"{model.root / DATASET_NAME} cannot be used:"
        raise DatasetError(heading, findings.list_problems())
    if found.channel_names is None or found.labels is None or found.file_ending is None:
        heading = f"{model.root / DATASET_NAME} is incomplete:"
        raise DatasetError(heading, [Problem(text="channel_names, labels and file_ending are needed")])
    return LabelledChannels(channel_names=found.channel_names, labels=found.labels, file_ending=found.file_ending)


def select_folds(model: NnunetModel, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the wanted folds, or all folds.

    Raises:
        ExchangeError: A wanted fold has no checkpoint.
    """
    if wanted is None:
        return model.folds
    missing = [fold for fold in wanted if fold not in model.folds]
    if missing:
        msg = f"{model.root} has no checkpoint of {describe_folds(missing)}; it has folds: {', '.join(model.folds)}"
        raise ExchangeError(msg)
    return tuple(dict.fromkeys(wanted))


def _has_folds(root: Path) -> bool:
    return any(path.is_dir() for path in root.glob(f"{FOLD_PREFIX}*"))


def _find_folds(root: Path, kind: CheckpointKind) -> tuple[str, ...]:
    files = root.glob(f"{FOLD_PREFIX}*/{get_checkpoint_name(kind)}")
    return tuple(sorted(file.parent.name.removeprefix(FOLD_PREFIX) for file in files))


def _describe_missing(root: Path, kind: CheckpointKind) -> str:
    there = sorted(f"{file.parent.name}/{file.name}" for file in root.glob(f"{FOLD_PREFIX}*/checkpoint_*.pth"))
    kinds = sorted({file.rpartition("checkpoint_")[2].removesuffix(".pth") for file in there})
    advice = (
        f"take another with: autoseg import {quote_path(root)} RUN --checkpoint {kinds[0]}"
        if kinds
        else "copy the folds there"
    )
    return f"{root} has no {get_checkpoint_name(kind)} in any fold, found {', '.join(there) or 'none'}; {advice}"
