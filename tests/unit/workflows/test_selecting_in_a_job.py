from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.selections import build_selection

from autoseg.document import write_document
from autoseg.errors import OptionError, Stopped, WorkerError
from autoseg.places import open_place
from autoseg.places.local import ThisComputer
from autoseg.places.place import States, Task, TaskState
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.select.detached import build_task, describe_selecting, select_in_job
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection_document import Member

REQUEST = SelectionRequest(configurations=("3d_lowres",), folds=("0", "1"), ensembles=False, device="cpu")


@dataclass
class FakePlace:
    """A place whose tasks have these states, one after the other."""

    states: Sequence[TaskState]
    tasks: list[Task] = field(default_factory=list)
    is_interrupted: bool = False
    is_detached: bool = True

    def run_over_cases(self, *arguments: object, **options: object) -> NoReturn:
        raise NotImplementedError

    def describe_tasks(self, tasks: Sequence[Task]) -> str:
        raise NotImplementedError

    def describe_cases(self, *arguments: object, **options: object) -> str:
        raise NotImplementedError

    def run_tasks(self, tasks: Sequence[Task]) -> Iterator[States]:
        self.tasks += tasks
        yield from ({task.name: state for task in tasks} for state in self.states)
        if self.is_interrupted:
            raise KeyboardInterrupt


@dataclass
class NotingProgress(SilentProgress):
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def measured(run):
    cases = tuple(build_case(shape=(8, 8, 8 * factor), name=f"case{factor}") for factor in (1, 2))
    write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), cases=cases))
    return run


def test_a_job_selects_with_the_same_options_and_its_selection_is_read(measured):
    queued, running = TaskState(phase="queued", reason="job 7 waits (Priority)"), TaskState(phase="running", where="n1")
    place = FakePlace([queued, queued, running, TaskState(phase="finished", where="n1")])
    selection, progress = (
        build_selection((Member(configuration="3d_lowres", folds=("0", "1"), weights_sha256=("0" * 64,)),), ()),
        NotingProgress(),
    )
    write_document(measured.selection, selection)
    assert select_in_job(measured.root, REQUEST, place, autoseg=("autoseg",), progress=progress) == selection
    assert progress.notes == ["select, queued: job 7 waits (Priority)", "select, running: n1", "select, finished: n1"]
    (task,) = place.tasks
    assert task.command == ("autoseg", "select", str(measured.root.resolve()), *REQUEST.list_options())
    assert task.resources.gpu_bytes == 0
    assert task.is_exact


def test_all_options_of_a_request_are_passed_on():
    assert SelectionRequest().list_options() == ()
    words = ["--configuration", "3d_lowres", "--fold", "0", "--fold", "1", "--no-ensembles", "--no-variants"]
    assert replace(REQUEST, variants=False).list_options() == (*words, "--device", "cpu")


def test_a_job_asks_for_a_gpu_unless_a_device_says_otherwise(measured):
    assert build_task(measured.root, SelectionRequest(), FakePlace([]), autoseg=None).resources.gpu_bytes > 0


def test_a_device_by_its_number_here_is_refused(measured):
    with pytest.raises(OptionError, match="--device cuda:1 is of this computer"):
        build_task(measured.root, SelectionRequest(device="cuda:1"), FakePlace([]), autoseg=None)


@pytest.mark.parametrize("end", [TaskState(phase="failed", reason="too little memory"), None])
def test_a_job_that_fails_says_why_and_where_its_output_is(measured, end):
    place = FakePlace([] if end is None else [end])
    reason = r"failed: too little memory" if end else "it is not known"
    with pytest.raises(WorkerError, match=rf"did not finish \({reason}\); its output is in .*select\.log"):
        select_in_job(measured.root, REQUEST, place, autoseg=None, progress=SilentProgress())


def test_a_job_continues_without_the_command(measured):
    place = FakePlace([TaskState(phase="running")], is_interrupted=True)
    with pytest.raises(Stopped, match="the job continues: `autoseg status"):
        select_in_job(measured.root, REQUEST, place, autoseg=None, progress=SilentProgress())


def test_a_dry_run_shows_the_script_of_the_job(measured):
    with open_place("slurm", measured.root, ["partition=long"]) as place:
        text = describe_selecting(measured.root, REQUEST, place, autoseg=("autoseg",))
    assert text.startswith(f"# select: autoseg select {measured.root.resolve()} --configuration 3d_lowres")
    assert "#SBATCH --partition=long" in text
    assert not (measured.root / "jobs").exists()
    with pytest.raises(OptionError, match="a selection is a job with --on slurm alone"):
        describe_selecting(measured.root, REQUEST, ThisComputer(), autoseg=None)


def test_a_place_of_single_cases_is_refused(measured):
    with pytest.raises(OptionError, match="a selection is a job with --on slurm alone; leave out --on"):
        select_in_job(measured.root, REQUEST, ThisComputer(), autoseg=None, progress=SilentProgress())
