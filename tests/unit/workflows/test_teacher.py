"""Which model teaches a fold."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.fingerprints import build_case, build_fingerprint
from builders.folds import SPLITS, finish_fold
from builders.plans import build_channels
from builders.remote_files import Node, open_faulty_place

from autoseg.dataset.folds import Fold, Splits, select_fold
from autoseg.document import read_document, write_document
from autoseg.errors import TrainingError
from autoseg.networks.weights import hash_weights
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.training.checkpoint import CheckpointDescription
from autoseg.training.loop_state import TrainingIdentity
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions
from autoseg.workflows.train.fold_options import build_training_options
from autoseg.workflows.train.initial_weights import find_teacher
from autoseg.workflows.train.job import FoldJob, record_training
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import list_arguments


@pytest.fixture
def source(run: RunFolder, tmp_path: Path) -> RunFolder:
    """A run of the same dataset and folds of which fold 0 is trained."""
    source = RunFolder(tmp_path / "source")
    shutil.copytree(run.root, source.root)
    finish_fold(source, "2d", "0")
    return source


@pytest.fixture
def job(run: RunFolder) -> FoldJob:
    return FoldJob(
        run=run,
        plan=read_document(run.plan, Plan),
        configuration="2d",
        fold="0",
        cases=select_fold(read_document(run.splits, Splits), "0"),
        device=torch.device("cpu"),
    )


def test_a_run_teaches_by_its_model_of_the_same_configuration_and_fold(source: RunFolder, job: FoldJob) -> None:
    teacher = find_teacher(source.root, job)
    assert teacher.checkpoint == source.fold("2d", "0").final_checkpoint
    assert teacher.digest == hash_weights(teacher.checkpoint)
    assert teacher.plan == job.configuration_plan.network
    with pytest.raises(TrainingError, match=r"expected a run in which 2d, fold 1 is trained.*fold_1.*is missing"):
        find_teacher(source.root, replace(job, fold="1"))
    source.splits.unlink()
    with pytest.raises(TrainingError, match=r"splits\.json is missing"):
        find_teacher(source.root, job)


def test_a_teacher_that_knows_held_out_cases_or_is_the_student_is_refused(source: RunFolder, job: FoldJob) -> None:
    other = replace(job, cases=SPLITS.folds[1])
    with pytest.raises(TrainingError, match=r"--teacher: .* was trained on c, d, which 2d, fold 0 holds out"):
        find_teacher(source.root, other)
    finish_fold(job.run, "2d", "0")
    with pytest.raises(TrainingError, match=r"is the model of 2d, fold 0 itself, which the training replaces; plan"):
        find_teacher(job.run.root, job)


def test_a_teacher_that_knows_the_images_of_held_out_cases_by_other_names_is_refused(
    source: RunFolder, job: FoldJob
) -> None:
    folder = source.fold("2d", "0")
    write_document(folder.plan, job.plan.model_copy(update={"dataset_name": "Dataset002_More"}))
    for run, names in ((source, "abcd"), (job.run, "wxyz")):
        cases = [build_case((1.0, 1.0, 1.0), (4, 4, 4), name=name, image_digest=str(i)) for i, name in enumerate(names)]
        write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (4, 4, 4), cases=tuple(cases)))
    find_teacher(source.root, replace(job, cases=Fold(training=("y", "z"), validation=("w", "x"))))
    with pytest.raises(TrainingError, match=r"--teacher: .* was trained on y, which 2d, fold 0 holds out"):
        find_teacher(source.root, replace(job, cases=Fold(training=("w", "z"), validation=("x", "y"))))


def test_a_teacher_that_sees_other_images_or_answers_in_another_way_is_refused(source: RunFolder, job: FoldJob) -> None:
    changed = job.plan.model_copy(update={"channels": build_channels("zscore", name="CT")})
    write_document(source.fold("2d", "0").plan, changed)
    with pytest.raises(TrainingError, match="so it sees other images"):
        find_teacher(source.root, job)
    write_document(source.fold("2d", "0").plan, job.plan)
    configuration = job.configuration_plan
    network = configuration.network.model_copy(update={"output_channels": 4})
    configurations = {**job.plan.configurations, "2d": configuration.model_copy(update={"network": network})}
    job = replace(job, plan=job.plan.model_copy(update={"configurations": configurations}))
    with pytest.raises(TrainingError, match=r"2d, fold 0 cannot learn from .*answers that are not comparable"):
        find_teacher(source.root, job)


def describe_checkpoint(teacher_digest: str | None) -> CheckpointDescription:
    return CheckpointDescription(
        autoseg_version="1",
        identity=TrainingIdentity(plan_digest="", fold_digest="", seed=0, teacher_digest=teacher_digest),
        schedule=Schedule(iterations_per_epoch=2, validation_iterations_per_epoch=1, end_epoch=1),
        history=(),
        scaler=None,
        average_updates=None,
    )


def begin(job: FoldJob, run: Path) -> FoldJob:
    """Records a training that begins with a teacher."""
    taught = replace(job, teacher=find_teacher(run, job))
    options = continue_training(taught, None)
    assert options.teacher == taught.teacher
    job.folder.root.mkdir(parents=True)
    record_training(taught, options)
    return taught


def continue_training(job: FoldJob, checkpoint: CheckpointDescription | None) -> TrainingOptions:
    request = TrainingRequest(workers=0)
    return build_training_options(job, request, "float32", checkpoint=checkpoint, progress=SilentProgress())


def test_a_training_that_is_continued_keeps_its_teacher(source: RunFolder, job: FoldJob) -> None:
    taught = begin(job, source.root)
    assert taught.teacher is not None
    checkpoint, begun = describe_checkpoint(None), describe_checkpoint(taught.teacher.digest)

    def continue_with(description):
        return continue_training(job, description)

    assert continue_with(begun).teacher == taught.teacher
    assert continue_with(begun).teacher_digest == taught.teacher.digest
    assert continue_with(checkpoint).teacher is None
    source.fold("2d", "0").final_checkpoint.write_text("trained anew")
    write_document(source.fold("2d", "0").plan, job.plan.model_copy(update={"channels": build_channels("zscore")}))
    anew = continue_with(begun)
    assert (anew.teacher, anew.teacher_digest) == (None, taught.teacher.digest)
    source.fold("2d", "0").final_checkpoint.unlink()
    moved = continue_with(begun)
    assert (moved.teacher, moved.teacher_digest) == (None, taught.teacher.digest)


def test_a_teacher_at_a_url_is_found_again_on_any_computer(
    source: RunFolder, job: FoldJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_faulty_place(monkeypatch) as place:
        for path in (path for path in source.root.rglob("*") if path.is_file()):
            place().pipe_file(f"/bucket/run/{path.relative_to(source.root).as_posix()}", path.read_bytes())
        here, there = (Node(tmp_path / name, "faulty://bucket/run", monkeypatch) for name in ("here", "there"))
        here.begin()
        taught = begin(job, here.root)
        assert taught.teacher is not None
        begun = describe_checkpoint(taught.teacher.digest)
        root = there.root
        found = continue_training(job, begun).teacher
        assert found is not None
        assert found.checkpoint == RunFolder(root).fold("2d", "0").final_checkpoint
        assert (found.digest, found.plan) == (taught.teacher.digest, taught.teacher.plan)
        place.faults.extend(["forbidden"] * 9)
        assert continue_training(job, begun).teacher is None
        place.faults.clear()


def test_the_folds_of_a_queue_have_it_too() -> None:
    arguments = list_arguments(TrainingRequest(teacher=Path("other.autoseg")))
    assert arguments[arguments.index("--teacher") + 1] == "other.autoseg"
