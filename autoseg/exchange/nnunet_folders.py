"""Finds models and their folds in nnU-Net's result folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from autoseg.dataset.cases import Findings
from autoseg.dataset.description import read_dataset_json
from autoseg.errors import DatasetError, ExchangeError
from autoseg.labels import LabelScheme
from autoseg.problems import Problem

PLANS_NAME: Final = "plans.json"
DATASET_NAME: Final = "dataset.json"
FOLD_PREFIX: Final = "fold_"
CHECKPOINT_ENDING: Final = ".pth"
SEPARATOR: Final = "__"
NAME_PARTS: Final = 3
DEEPEST_MODEL: Final = 2  # folders between what the user names (results, a dataset's results, a model) and a model
CheckpointKind = Literal["final", "best", "latest"]
CHECKPOINT_KINDS: Final[tuple[CheckpointKind, ...]] = ("final", "best", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class NnunetModel:
    """A folder with plans.json, dataset.json and folds; usually called `<trainer>__<plans>__<configuration>`.

    Attributes:
        kind: Which checkpoint of each fold counts.
        folds: Names of the folds that have it, sorted: the numbered ones before "all".
    """

    root: Path
    kind: CheckpointKind
    folds: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.root.resolve().name

    @property
    def plans_file(self) -> Path:
        """How images are preprocessed and networks built."""
        return self.root / PLANS_NAME

    def get_checkpoint(self, fold: str) -> Path:
        """The file of one fold."""
        return self.root / f"{FOLD_PREFIX}{fold}" / get_checkpoint_name(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledChannels:
    """What a model's dataset.json says about inputs and outputs."""

    channel_names: tuple[str, ...]
    labels: LabelScheme
    file_ending: str


def get_checkpoint_name(kind: CheckpointKind) -> str:
    """As nnU-Net writes it."""
    return f"checkpoint_{kind}{CHECKPOINT_ENDING}"


def find_model_roots(folder: Path) -> tuple[Path, ...]:
    """The model folders that a folder is or holds (a dataset's results, or all results); empty if it has none."""
    for depth in range(DEEPEST_MODEL + 1):
        pattern = "*/" * depth + PLANS_NAME
        found = sorted(path.parent for path in folder.glob(pattern) if _has_folds(path.parent))
        if found:
            return tuple(found)
    return ()


def list_lacking(folder: Path) -> tuple[str, ...]:
    """What a folder does not have of a model folder."""
    files = tuple(name for name in (PLANS_NAME, DATASET_NAME) if not (folder / name).is_file())
    return files if _has_folds(folder) else (*files, f"{FOLD_PREFIX}0 or the like")


def find_enclosing_model(path: Path) -> Path | None:
    """The folder that should be named instead of one fold or one checkpoint of a model; None for other paths."""
    if path.is_file() and path.suffix == CHECKPOINT_ENDING:
        return path.absolute().parent.parent
    is_fold = path.is_dir() and path.absolute().name.startswith(FOLD_PREFIX) and not (path / PLANS_NAME).exists()
    return path.absolute().parent if is_fold else None


def open_nnunet_model(root: Path, kind: CheckpointKind) -> NnunetModel:
    """Looks which folds a model folder has.

    Raises:
        ExchangeError: No fold has the checkpoint.
    """
    folds = _find_folds(root, kind)
    if not folds:
        raise ExchangeError(_describe_missing(root, kind))
    return NnunetModel(root=root, kind=kind, folds=folds)


def guess_configuration(root: Path) -> str | None:
    """What a model folder is for, by its name; None if it was renamed (its checkpoints tell in any case)."""
    parts = root.resolve().name.split(SEPARATOR)
    return parts[-1] if len(parts) == NAME_PARTS else None


def find_sibling(root: Path, configuration: str) -> Path | None:
    """The folder beside a model's that holds another configuration by the same trainer and plans, if there is one."""
    parts = root.resolve().name.split(SEPARATOR)
    if len(parts) != NAME_PARTS:
        return None
    sibling = root.resolve().with_name(SEPARATOR.join([*parts[:-1], configuration]))
    return sibling if (sibling / PLANS_NAME).is_file() else None


def read_labelled_channels(model: NnunetModel) -> LabelledChannels:
    """Reads a model's dataset.json by the rules for datasets.

    Raises:
        DatasetError: Everything that is wrong with it.
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
    """The wanted folds, or all that there are.

    Raises:
        ExchangeError: A wanted fold has no checkpoint.
    """
    if wanted is None:
        return model.folds
    missing = [fold for fold in wanted if fold not in model.folds]
    if missing:
        msg = f"{model.root} has no checkpoint of fold {', '.join(missing)}; it has folds: {', '.join(model.folds)}"
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
        f"take another with: autoseg import {root} RUN --checkpoint {kinds[0]}" if kinds else "copy the folds there"
    )
    return f"{root} has no {get_checkpoint_name(kind)} in any fold, found {', '.join(there) or 'none'}; {advice}"
