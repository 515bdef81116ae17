"""A run of any number of cases, made of one of few by links and copies: what a stage does with many cases shows."""

import os
import shutil
from pathlib import Path
from typing import Final

from autoseg.dataset import read_dataset, record_dataset
from autoseg.dataset.folds import Splits, make_splits
from autoseg.document import read_document, write_document
from autoseg.evaluation.summary import EvaluationSummary, write_summary
from autoseg.fingerprint import Fingerprint
from benchmarks.growth_stages import CONFIGURATION, Folders

ARRAY_ENDINGS: Final = (".json", ".image.b2nd", ".labels.b2nd", ".locations.npy")


def simulate_run(folders: Folders, cases: int, template: Folders) -> None:
    """Makes a dataset and a run, planned, preprocessed, trained and validated, of copies of the cases of a template.

    The files of all cases are links to those of one; measurements and scores are copies of those of all its cases.
    """
    names = [f"case_{index:05d}" for index in range(cases)]
    shutil.copytree(template.run.root / "models", folders.run.root / "models", ignore=shutil.ignore_patterns("*.nii"))
    _link_dataset(folders, names, template)
    shutil.copy(template.run.plan, folders.run.plan)
    shutil.copy(template.run.recipe(CONFIGURATION), _make_folder(folders.run.recipe(CONFIGURATION)))
    for ending in ARRAY_ENDINGS:
        _link_all(template.run.preprocessed(CONFIGURATION), folders.run.preprocessed(CONFIGURATION), names, ending)
    _link_all(template.run.references, folders.run.references, names, ".nii")
    write_document(folders.run.dataset, record_dataset(read_dataset(folders.dataset)))
    _copy_measurements(folders, names, template)
    splits = make_splits(names)
    write_document(folders.run.splits, splits)
    _copy_scores(folders, splits, template)


def _link_dataset(folders: Folders, names: list[str], template: Folders) -> None:
    shutil.copy(template.dataset / "dataset.json", _make_folder(folders.dataset / "dataset.json"))
    _link_all(template.dataset / "imagesTr", folders.dataset / "imagesTr", names, "_0000.nii")
    _link_all(template.dataset / "labelsTr", folders.dataset / "labelsTr", names, ".nii")


def _make_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link_all(source: Path, target: Path, names: list[str], ending: str) -> None:
    """Links the files of all cases to those of the first case of the template."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(source / f"case_00000{ending}", target / f"{name}{ending}")


def _copy_measurements(folders: Folders, names: list[str], template: Folders) -> None:
    fingerprint = read_document(template.run.fingerprint, Fingerprint)
    measured = fingerprint.cases
    cases = tuple(
        measured[index % len(measured)].model_copy(update={"name": name, "image_digest": f"{index:064x}"})
        for index, name in enumerate(names)
    )
    write_document(folders.run.fingerprint, fingerprint.model_copy(update={"cases": cases}))


def _copy_scores(folders: Folders, splits: Splits, template: Folders) -> None:
    """Copies the scores of each fold, and links its predictions to those of one case."""
    for index, fold in enumerate(splits.folds):
        known = read_document(template.run.fold(CONFIGURATION, str(index)).summary, EvaluationSummary)
        scored = known.metric_per_case
        entries = tuple(
            scored[place % len(scored)].model_copy(
                update={"case": case, "prediction_file": f"{case}.nii", "reference_file": f"{case}.nii"}
            )
            for place, case in enumerate(fold.validation)
        )
        folder = folders.run.fold(CONFIGURATION, str(index)).validation
        write_summary(folder, known.model_copy(update={"metric_per_case": entries}))
        for case in fold.validation:
            os.link(folders.run.references / f"{case}.nii", folder / f"{case}.nii")
