"""What a dataset is, once read, and the list of what is wrong with it while it is being read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from autoseg.labels import LabelScheme

DESCRIPTION_NAME: Final = "dataset.json"
SPLITS_NAME: Final = "splits_final.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One subject or picture.

    Attributes:
        image_paths: One file per channel, or a single file that holds all channels.
        label_path: None where no reference is known.
    """

    name: str
    image_paths: tuple[Path, ...]
    label_path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A labelled dataset. The number of channels in a file is not known before it is read.

    Attributes:
        name: The folder's name.
        file_ending: Ending of the images in lower case.
        splits_file: Folds that came with the dataset (splits_final.json), or None.
        notes: Oddities that are no errors, one sentence each.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    cases: tuple[Case, ...]
    splits_file: Path | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class Findings:
    """Collects everything that is wrong, so that it is reported at once."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
