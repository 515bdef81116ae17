"""Keeps planning from writing into folders that are no runs, and from orphaning trained models."""

from autoseg.errors import RunError
from autoseg.places.slurm.settings import FILE_NAME as SETTINGS_NAME
from autoseg.run_folder import RunFolder


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
    models = run.root / "models"
    if models.is_dir() and any(models.iterdir()):
        msg = (
            f"{models} holds trained models, which a new plan would orphan; "
            f"choose another folder with --run, or remove that folder yourself"
        )
        raise RunError(msg)
