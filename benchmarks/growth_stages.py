"""The stages whose cost `benchmarks.growth` measures, each a function of a working folder, and made-up data."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import nibabel
import numpy as np

from autoseg.dataset import read_dataset
from autoseg.dataset.folds import Splits, select_fold
from autoseg.document import read_document
from autoseg.fingerprint import Machine
from autoseg.measurement import merge_channels, open_summary_store
from autoseg.measurement.foreground import SUMMARY_VALUES, IntensitySummary
from autoseg.plan.document import Plan
from autoseg.preprocessing.cache import open_case
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder, write_text
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.folds.status import read_run_status
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.planning import PlanRequest, build_plan_rule, plan_dataset, preprocess_run
from autoseg.workflows.plan.splitting import SplitRequest, describe_duplicates, divide_into_folds
from benchmarks.stages import shorten
from planners import PLANNERS

CONFIGURATION: Final = "3d_fullres"
EXTENT_VOXELS: Final = 8
WORKERS: Final = 2
CASES_PER_BATCH: Final = 10
PROGRESS: Final = SilentProgress()


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Folders of one number of cases."""

    root: Path

    @property
    def dataset(self) -> Path:
        """The made-up dataset."""
        return self.root / "Dataset001_Small"

    @property
    def run(self) -> RunFolder:
        """The run of the dataset."""
        return RunFolder(self.root / "small.autoseg")

    @property
    def predictions(self) -> Path:
        """Predictions of its images."""
        return self.root / "predictions"


def write_dataset(folders: Folders, cases: int) -> None:
    """Writes cases of 8 x 8 x 8 voxels with two classes, all different; groups.json holds pairs."""
    for name in ("imagesTr", "labelsTr"):
        (folders.dataset / name).mkdir(parents=True, exist_ok=True)
    shape = (EXTENT_VOXELS,) * 3
    header = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)).to_bytes()[:352]
    random = np.random.default_rng(0)
    names = [f"case_{index:05d}" for index in range(cases)]
    for name in names:
        label_map = np.zeros(shape, np.int16)
        label_map[1:5, 2:6, 2:6], label_map[5:7, 2:6, random.integers(1, 7)] = 1, 2
        image = random.normal(100 * label_map, 20).astype(np.int16)
        (folders.dataset / "imagesTr" / f"{name}_0000.nii").write_bytes(header + image.tobytes(order="F"))
        (folders.dataset / "labelsTr" / f"{name}.nii").write_bytes(header + label_map.tobytes(order="F"))
    write_text(
        folders.dataset / "dataset.json",
        '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "large": 1, "small": 2}, "file_ending": ".nii"}\n',
    )


def pool_intensities(folders: Folders) -> None:
    """Pools the foreground intensities of as many cases of the usual size, as planning does with what workers send."""
    cases = len(list((folders.dataset / "labelsTr").iterdir()))
    generator = np.random.default_rng(0)
    values = np.sort(generator.normal(0, 300, SUMMARY_VALUES).astype(np.float32))
    counts = np.full(SUMMARY_VALUES, 50, np.int32)
    with open_summary_store() as store:
        kept = [
            store.keep([IntensitySummary(values=values + shift, counts=counts, mean=0, variance=1, min=0, max=1)])
            for shift in generator.random(cases).astype(np.float32)
        ]
        merge_channels(kept, ["MR"])


def check(folders: Folders) -> None:
    """Checks the dataset."""
    report = check_dataset(folders.dataset, CheckRequest(split=SplitRequest(), workers=WORKERS), progress=PROGRESS)
    assert not report.problems, report.problems[:3]


def plan(folders: Folders) -> None:
    """Measures and plans the dataset, with a batch of 2: it would grow with the number of small cases."""
    _plan(folders, overwrite=True)
    shorten(folders.run.root, iterations=1)
    content = json.loads(folders.run.plan.read_text())
    for configuration in content["configurations"].values():
        configuration["training"]["batch_size"] = 2
    folders.run.plan.write_text(json.dumps(content))


def plan_again(folders: Folders) -> None:
    """Continues a run that is planned and preprocessed: there is nothing to do."""
    _plan(folders, preprocess=True)


def _plan(folders: Folders, *, overwrite: bool = False, preprocess: bool = False) -> None:
    request = PlanRequest(
        planner="default",
        machine=Machine(accelerator_memory_gb=None),
        configurations=(CONFIGURATION,),
        preprocess=preprocess,
        workers=WORKERS,
        overwrite=overwrite,
    )
    rule = build_plan_rule(PLANNERS["default"])
    plan_dataset(folders.dataset, folders.run.root, rule, request=request, report=lambda _: None, progress=PROGRESS)


def divide(folders: Folders) -> None:
    """Divides the cases at random and by pairs, and looks for pairs of the same image in different folds."""
    dataset = read_dataset(folders.dataset)
    splits = divide_into_folds(dataset, SplitRequest()).splits
    divide_into_folds(dataset, SplitRequest(group_by=r"(\d{4})\d$"))
    names = [case.name for case in dataset.cases]
    describe_duplicates(zip(names[::2], names[1::2], strict=False), splits)


def preprocess(folders: Folders) -> None:
    """Preprocesses all cases."""
    preprocess_run(folders.run.root, configurations=(CONFIGURATION,), workers=WORKERS, progress=PROGRESS)


def train(folders: Folders) -> None:
    """Trains one iteration on all cases."""
    from autoseg.workflows.train.request import TrainingRequest
    from autoseg.workflows.train.training import train_run

    request = TrainingRequest(configuration=CONFIGURATION, folds=("all",), device="cpu", workers=0, restart=True)
    for _ in train_run(folders.run.root, request, progress=PROGRESS):
        pass


def sample(folders: Folders) -> None:
    """Finds size and classes of the cases of a fold and draws one batch for every ten of them, in this process."""
    from autoseg.training.data.batches import build_batch_source
    from autoseg.training.data.held_cases import measure_size
    from autoseg.training.data.randomness import BatchKey

    run = folders.run
    chosen = read_document(run.plan, Plan).configurations[CONFIGURATION]
    balanced = chosen.training.model_copy(update={"foreground_choice": "class_balanced", "batch_size": 2})
    fold = select_fold(read_document(run.splits, Splits), "0")
    measure_size(fold.training, partial(open_case, run.preprocessed(CONFIGURATION)))
    source = build_batch_source(
        chosen.model_copy(update={"training": balanced}),
        read_document(run.plan, Plan).channels,
        data_folder=run.preprocessed(CONFIGURATION),
        fold=fold,
        seed=0,
    )
    for iteration in range(-(-len(fold.training) // CASES_PER_BATCH)):
        source.make_batch(BatchKey(stream="training", epoch=0, iteration=iteration))


def choose_validated_cases(folders: Folders) -> None:
    """Fits the validation of a fold into half of its time, as a budget does."""
    from autoseg.workflows.evaluate.validation_cost import ValidationCost, fit_validation

    run = folders.run
    cases = select_fold(read_document(run.splits, Splits), "0").validation
    cost = ValidationCost(
        shapes_voxels=dict.fromkeys(cases, (EXTENT_VOXELS,) * 3),
        configuration=read_document(run.plan, Plan).configurations[CONFIGURATION],
        mirrored_views=8,
        window_seconds=1.0,
        finishing_seconds_per_voxel=0.0,
        evaluation_seconds_per_voxel=0.0,
    )
    fit_validation(cost, cases, limit_seconds=0.5 * len(cases))


def evaluate(folders: Folders) -> None:
    """Evaluates one prediction of every case: references, of which every other one lacks a slice."""
    run, labels = folders.run, read_document(folders.run.plan, Plan).labels
    for index, fold in enumerate(read_document(run.splits, Splits).folds):
        folder = run.fold(CONFIGURATION, str(index))
        shutil.rmtree(folder.root, ignore_errors=True)
        shutil.copytree(run.fold(CONFIGURATION, "all").root, folder.root)
        folder.validation.mkdir(exist_ok=True)
        for number, case in enumerate(fold.validation):
            content = bytearray(find_reference(run, case).read_bytes())
            if number % 2:
                content[-7 * EXTENT_VOXELS**2 * 2 : -6 * EXTENT_VOXELS**2 * 2] = bytes(EXTENT_VOXELS**2 * 2)
            (folder.validation / f"{case}.nii").write_bytes(content)
        jobs = [
            EvaluationJob(
                case=case,
                prediction=folder.validation / f"{case}.nii",
                reference=find_reference(run, case),
                labels=labels,
            )
            for case in fold.validation
        ]
        evaluate_jobs(jobs, folder=folder.validation, progress=PROGRESS)


def score(folders: Folders) -> None:
    """Scores the cross-validation, with intervals by bootstrap."""
    assert collect_crossvalidation(folders.run.root) is not None


def look(folders: Folders) -> None:
    """Reads the status of all folds ten times, as `autoseg status --watch` does."""
    for _ in range(10):
        statuses = read_run_status(folders.run.root)
    assert sum(status.state == "finished" for status in statuses) >= len(read_splits(folders))


def read_splits(folders: Folders) -> tuple[object, ...]:
    """Returns the folds of the run."""
    return read_document(folders.run.splits, Splits).folds


def select(folders: Folders) -> None:
    """Compares candidates and learns postprocessing."""
    from autoseg.workflows.select.request import SelectionRequest
    from autoseg.workflows.select.selection import select_models

    select_models(folders.run.root, SelectionRequest(ensembles=False, device="cpu"), progress=PROGRESS)


def report(folders: Folders) -> None:
    """Writes the report."""
    from autoseg.workflows.report.reporting import write_report

    (folders.run.root / "report.html").unlink(missing_ok=True)
    write_report(folders.run.root, progress=PROGRESS)


def predict(folders: Folders) -> None:
    """Predicts all images with one network, without mirroring."""
    import torch

    from autoseg.inference.options import PredictionOptions
    from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

    torch.set_num_threads(1)
    shutil.rmtree(folders.predictions, ignore_errors=True)
    request = PredictionRequest(
        configuration=CONFIGURATION, folds=("0",), options=PredictionOptions(mirroring=False), device="cpu"
    )
    predict_images(
        folders.run.root, folders.dataset / "imagesTr", folders.predictions, request=request, progress=PROGRESS
    )


STAGES: Final[Mapping[str, Callable[[Folders], None]]] = {
    "check": check,
    "intensities": pool_intensities,
    "plan": plan,
    "folds": divide,
    "preprocess": preprocess,
    "plan again": plan_again,
    "train": train,
    "sample": sample,
    "fit validation": choose_validated_cases,
    "evaluate": evaluate,
    "cross-validation": score,
    "status, 10 times": look,
    "select": select,
    "report": report,
    "predict": predict,
}
SIMULATED: Final = (
    *("intensities", "folds", "plan again", "train", "sample", "fit validation", "cross-validation"),
    *("status, 10 times", "report"),
)
"""Stages that a simulated run shows; the others work on the files of every case, one after the other."""
