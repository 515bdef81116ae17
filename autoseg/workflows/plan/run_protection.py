"""Keeps planning from writing into folders that are no runs, and from orphaning trained models."""

from pathlib import Path
from typing import Final

from autoseg.dataset import DatasetRecord
from autoseg.errors import RunError, shorten_names
from autoseg.places.slurm.settings import FILE_NAME as SETTINGS_NAME
from autoseg.run_folder import RunFolder

WORDS: Final = {
    "source": "place",
    "channel_names": "channels",
    "file_ending": "ending of the files",
    "fix_geometry": "--fix-geometry",
    "targets": "--task or --targets",
}
"""Fields of the record of a dataset in words; the others are called as they are."""


def refuse_foreign_folder(run: RunFolder) -> None:
    """Refuses a folder without a plan that holds anything but settings for its jobs, and what a planning that was
    interrupted leaves.

    Raises:
        RunError: It does.
    """
    left = (run.dataset, run.fingerprint, run.logs, run.references, run.splits)
    known = {SETTINGS_NAME, *(path.name for path in left)}
    names = {path.name for path in run.root.iterdir() if not path.name.startswith(".")}
    foreign = sorted(names - known)
    if foreign:
        msg = f"{run.root} is no run folder but holds {foreign[0]!r}; choose an empty or new folder with --run"
        raise RunError(msg)


def refuse_to_lose_models(run: RunFolder) -> None:
    """Refuses to replace a plan by which models were trained.

    Raises:
        RunError: There are models.
    """
    if has_models(run):
        msg = (
            f"{_find_models(run)} holds trained models, which a new plan would orphan; "
            f"choose another folder with --run, or remove that folder yourself"
        )
        raise RunError(msg)


def has_models(run: RunFolder) -> bool:
    """Whether the run holds models, which keep its plan from being replaced."""
    models = _find_models(run)
    return models.is_dir() and any(models.iterdir())


def _find_models(run: RunFolder) -> Path:
    return run.root / "models"


def describe_changes(earlier: DatasetRecord, now: DatasetRecord) -> str:
    """Describes what differs between the dataset that a run was planned from and the one that is given."""
    before, after = ({case.name: case for case in record.cases} for record in (earlier, now))
    cases = {
        "not there": after.keys() - before.keys(),
        "only there": before.keys() - after.keys(),
        "with other files, or files of another size or time": {
            name for name in before.keys() & after.keys() if before[name] != after[name]
        },
    }
    differing = [name for name in DatasetRecord.model_fields if getattr(earlier, name) != getattr(now, name)]
    changes = [
        f"{WORDS.get(name, name)}: {getattr(earlier, name)} there, {getattr(now, name)} now"
        if name in ("name", "source")
        else f"different {WORDS.get(name, name)}"
        for name in differing
        if name != "cases"
    ]
    changes += [f"cases {where}: {shorten_names(sorted(names))}" for where, names in cases.items() if names]
    if {*differing} <= {"name", "source"}:
        changes.append("if it was only moved or renamed, write this into the run's dataset.json")
    return "; ".join(changes or ["another order of the cases"])
