import json
import re
import sys
import time

import psutil
import pytest
from builders.folds import finish_fold

from autoseg.places import local
from autoseg.places.local import ThisComputer
from autoseg.places.place import Task
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import write_text
from autoseg.training.options import Length
from autoseg.workflows.folds.state import read_state
from autoseg.workflows.folds.status import read_run_status
from autoseg.workflows.train.queue import TrainingQueue, build_queue
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import Unit

# What a unit does in place of training, by its fold: writes down who it is, then ends in its own way.
SCRIPT = """
import json, os, subprocess, sys, time
from pathlib import Path
folder, name, end, _, device = Path(sys.argv[1]), *sys.argv[2:]
if ":" in end:  # one for each device
    end = dict(part.split(":") for part in end.split(","))[device]
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "OMP_NUM_THREADS")
told = {"name": name, "device": device, "pid": os.getpid(), **{key: os.environ.get(key) for key in names}}
def tell(word):
    path = folder / f"{time.monotonic_ns()}.json"
    path.with_suffix(".part").write_text(json.dumps(told | {"word": word}))
    path.with_suffix(".part").replace(path)
tell("begin")
if end == "well":
    time.sleep(0.1)
elif end == "badly":
    print("Traceback ...")
    sys.exit("autoseg: error: the disk is full")
elif end == "traceback":
    raise ZeroDivisionError("a defect")
elif end == "killed":
    os.kill(os.getpid(), 9)
elif end == "slowly":
    try:
        tell("asleep")
        time.sleep(100)
    except KeyboardInterrupt:
        time.sleep(1)
        tell("saved")
        sys.exit(130)
elif end == "never":
    grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
    told["grandchild"] = grandchild.pid
    tell("asleep")
    time.sleep(100)
tell("end")
"""


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(local, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(local, "SECONDS_FOR_REASONS", 0.3)
    monkeypatch.setattr(local, "SECONDS_TO_STOP", 5.0)
    monkeypatch.setattr(local, "SECONDS_TO_SAVE", 20.0)


@pytest.fixture
def notes(tmp_path):
    """Where the units write down what they do."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def read_notes(folder, word):
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [note for note in notes if note["word"] == word]


def make_units(*ends, configuration="2d", needs=None):
    """Units whose fold says how they end."""
    return [Unit(configuration=configuration, fold=end, cases=("a",), needs=needs) for end in ends]


@pytest.fixture
def make_queue(run, notes):
    def make(units, device_groups, stop=None):
        def build_task(unit):
            return Task(
                name=unit.name,
                command=(sys.executable, "-S", "-c", SCRIPT, str(notes), unit.name, unit.fold.split("-")[0]),
                log=run.training_log(unit.configuration, unit.fold),
                needs=tuple(other.name for other in units if other.configuration == unit.needs),
            )

        here = ThisComputer(device_groups=tuple(device_groups), stop=stop or StopRequest())
        return TrainingQueue(run=run, units=tuple(units), tasks={unit: build_task(unit) for unit in units}, place=here)

    return make


def find(statuses, fold):
    (status,) = (status for status in statuses if status.fold == fold)
    return status


def test_one_device_trains_one_fold_after_the_other(make_queue, notes):
    queue = make_queue(make_units("well", "well-2", "well-3"), [("cpu",)])
    for statuses in queue.run_all():
        assert sum(status.state == "preparing" for status in statuses) <= 1
    times = [json.loads(path.read_text()) for path in sorted(notes.iterdir())]
    assert [note["word"] for note in times] == ["begin", "end"] * 3
    assert [note["name"] for note in read_notes(notes, "end")] == [
        "2d, fold well",
        "2d, fold well-2",
        "2d, fold well-3",
    ]
    assert not queue.failures


def test_every_device_trains_one_fold_at_a_time(make_queue, notes):
    queue = make_queue(make_units("well", "well-2", "well-3", "well-4"), [("cuda:0",), ("cuda:1",)])
    most = max(sum(status.is_running for status in statuses) for statuses in queue.run_all())
    assert most == 2
    assert {note["device"] for note in read_notes(notes, "end")} == {"cuda:0", "cuda:1"}
    assert len(read_notes(notes, "end")) == 4


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("badly", r"^the disk is full; log: .*train_2d_fold_badly\.log$"),
        ("traceback", r"^ZeroDivisionError: a defect; log: "),
        ("killed", r"^the process was killed \(SIGKILL\), often for lack of RAM; log: "),
    ],
)
def test_a_fold_that_fails_says_why_and_stops_no_other(make_queue, run, notes, *, end, reason):
    queue = make_queue(make_units(end, "well"), [("cpu",)])
    *_, last = queue.run_all()
    status = find(last, end)
    assert status.state == "failed"
    assert re.search(reason, status.reason)
    assert [note["name"] for note in read_notes(notes, "end")] == ["2d, fold well"]
    assert list(queue.failures) == make_units(end)
    state = read_state(run.fold("2d", end))
    assert (state.phase, state.reason) == ("failed", status.reason)  # for `autoseg status`


def test_what_needs_a_failed_fold_is_not_begun(make_queue, notes):
    first = make_units("badly", "well", configuration="3d_lowres")
    second = make_units("well", configuration="3d_cascade_fullres", needs="3d_lowres")
    queue = make_queue([*second, *first], [("cpu",)])
    *_, last = queue.run_all()
    assert last[0].state == "failed"
    assert last[0].reason == "it needs 3d_lowres, fold badly, which failed"
    assert len(read_notes(notes, "begin")) == 2


def test_a_second_stage_waits_for_every_fold_of_the_first(make_queue, notes):
    first = make_units("well", "well-2", configuration="3d_lowres")
    second = make_units("well", configuration="3d_cascade_fullres", needs="3d_lowres")
    list(make_queue([*second, *first], [("cuda:0",), ("cuda:1",), ("cuda:2",)]).run_all())
    names = [(note["name"], note["word"]) for note in map(json.loads, (p.read_text() for p in sorted(notes.iterdir())))]
    assert names[-2:] == [("3d_cascade_fullres, fold well", "begin"), ("3d_cascade_fullres, fold well", "end")]
    assert len(names) == 6


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen in ten seconds")


@pytest.mark.parametrize("device_groups", [[("cuda:0",)], [("cuda:0", "cuda:1")]])
def test_an_interruption_leaves_no_process_behind(make_queue, notes, device_groups):
    queue = make_queue(make_units("never", "well"), device_groups)
    snapshots = queue.run_all()
    count = len(device_groups[0])
    while len(read_notes(notes, "asleep")) < count:
        next(snapshots)
    asleep = read_notes(notes, "asleep")
    pids = [note[key] for note in asleep for key in ("pid", "grandchild")]
    assert all(map(is_alive, pids))
    snapshots.close()
    wait_for(lambda: not any(map(is_alive, pids)))
    assert not read_notes(notes, "end")
    assert not queue.failures  # an interruption is none


def test_a_training_that_is_stopped_has_the_time_to_save_its_state(make_queue, run, notes, monkeypatch):
    monkeypatch.setattr(local, "SECONDS_TO_STOP", 0.1)  # for those that cannot save any more
    told = []
    queue = make_queue(make_units("slowly", "well"), [("cpu",)], StopRequest(tell=told.append))
    snapshots = queue.run_all()
    while not read_notes(notes, "asleep"):
        next(snapshots)
    snapshots.close()
    assert read_notes(notes, "saved")
    assert told == ["stopping as soon as this is saved: 2d, fold slowly"]
    text = queue.describe_interruption(TrainingRequest(restart=True))
    assert text.startswith("2d, fold slowly: nothing is saved, as no iteration was finished; the same command without")
    assert "--restart has not reached 2d, fold well" in text
    write_text(run.fold("2d", "slowly").final_checkpoint, "of the earlier training, which came back")
    text = queue.describe_interruption(TrainingRequest(restart=True))
    assert "--restart has not reached 2d, fold slowly; 2d, fold well: name them" in text


def test_a_fold_on_two_devices_has_two_processes_that_know_of_each_other(make_queue, run, notes):
    list(make_queue(make_units("well", "well-2"), [("cpu", "cpu")]).run_all())
    began = read_notes(notes, "begin")
    assert [note["name"] for note in began] == ["2d, fold well"] * 2 + ["2d, fold well-2"] * 2
    assert sorted(note["RANK"] for note in began[:2]) == sorted(note["LOCAL_RANK"] for note in began[:2]) == ["0", "1"]
    assert {note["WORLD_SIZE"] for note in began} == {"2"}
    assert len({note["MASTER_PORT"] for note in began[:2]}) == 1
    assert None not in {note["OMP_NUM_THREADS"] for note in began}
    assert run.training_log("2d", "well").is_file()
    assert (run.logs / "train_2d_fold_well_rank_1.log").is_file()


def test_when_one_of_two_processes_fails_the_other_is_stopped(make_queue, notes):
    unit = Unit(configuration="2d", fold="cuda.0:never,cuda.1:badly", cases=("a",))
    *_, last = make_queue([unit], [("cuda.0", "cuda.1")]).run_all()
    assert last[0].reason.startswith("the disk is full")
    assert not any(is_alive(note["pid"]) for note in read_notes(notes, "begin"))


def test_the_queue_runs_the_command_that_a_user_would_give(run):
    units = (Unit(configuration="2d", fold="1", cases=("c", "d")),)
    request = TrainingRequest(length=Length(epochs=3), workers=2)
    queue = build_queue(run.root, units, request, [("cuda:0",), ("cuda:1",)])
    assert queue.place.device_groups == (("cuda:0",), ("cuda:1",))
    assert queue.tasks[units[0]].command == (
        sys.executable, "-m", "autoseg", "train", str(run.root), "--configuration", "2d", "--fold", "1",
        "--epochs", "3", "--precision", "auto", "--workers", "2",
    )  # fmt: skip
    together = build_queue(run.root, units, request, [("cuda:0", "cuda:1")])
    assert "--parallel" in together.tasks[units[0]].command


def test_finished_folds_are_not_begun_again(run):
    finish_fold(run, "2d", "0", dice=0.9)
    units = tuple(
        Unit(configuration="2d", fold=fold, cases=cases) for fold, cases in (("0", ("a", "b")), ("1", ("c", "d")))
    )
    queue = build_queue(run.root, units, TrainingRequest(), [("cpu",)])
    assert [unit.fold for unit in queue.tasks] == ["1"]
    assert find(queue.read_statuses(), "0").dice == 0.9
    assert find(queue.read_statuses(), "1").state == "waiting"
    for request in (TrainingRequest(restart=True), TrainingRequest(length=Length(more_epochs=1))):
        assert len(build_queue(run.root, units, request, [("cpu",)]).tasks) == 2


def test_a_fold_of_an_older_plan_is_not_taken_for_finished(run):
    finish_fold(run, "2d", "0")
    plan = json.loads(run.plan.read_text())
    plan["configurations"]["2d"]["training"]["epochs"] = 11
    run.plan.write_text(json.dumps(plan))
    unit = Unit(configuration="2d", fold="0", cases=("a", "b"))
    assert build_queue(run.root, (unit,), TrainingRequest(), [("cpu",)]).tasks


def test_processes_that_compute_on_the_cpu_share_its_cores(run, monkeypatch):
    monkeypatch.setattr(local, "count_usable_cpus", lambda: 9)
    assert local.share_threads(["cpu", "cpu"]) == {"OMP_NUM_THREADS": "4"}
    assert local.share_threads(["cpu"]) == {}
    assert local.share_threads(["cuda:0", "cuda:1"]) == {}


def test_folds_on_one_gpu_share_its_memory():
    devices = ["cuda:0", "cuda:0", "cuda:1", "cpu", "cpu"]
    shared = {"AUTOSEG_PROCESSES_ON_DEVICE": "2"}
    assert [local.share_memory(device, devices) for device in devices] == [shared, shared, {}, {}, {}]


def test_the_status_of_a_run_is_what_the_queue_shows_afterwards(make_queue, run):
    *_, last = make_queue([Unit(configuration="2d", fold="0", cases=("a", "b"))], [("cpu",)]).run_all()
    (status,) = (s for s in read_run_status(run.root) if (s.configuration, s.fold) == ("2d", "0"))
    assert last == (status,)
