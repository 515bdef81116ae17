import logging
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from builders.folds import build_epoch_record

from autoseg.errors import TrainingError
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.monitoring.trackers import TrackedRun, check_trackers, open_trackers
from autoseg.training.optimization.schedule import Schedule

SCHEDULE = Schedule(iterations_per_epoch=3, validation_iterations_per_epoch=1, end_epoch=5)


class FakeMlflow:
    """Remembers what it is told; a run has the identifier "m1"."""

    def __init__(self):
        self.calls = []

    def set_experiment(self, name):
        self.calls.append(("experiment", name))

    @contextmanager
    def start_run(self, *, run_id, run_name):
        self.calls.append(("start", run_id, run_name))
        yield SimpleNamespace(info=SimpleNamespace(run_id=run_id or "m1"))
        self.calls.append(("end",))

    def log_params(self, parameters):
        self.calls.append(("parameters", parameters))

    def log_metrics(self, values, *, step):
        self.calls.append(("metrics", step, values))


class FakeWandb:
    """Remembers what it is told; a run has the identifier "w1"."""

    def __init__(self):
        self.calls = []

    def init(self, **options):
        self.calls.append(("init", options))
        return SimpleNamespace(
            id=options["id"] or "w1",
            log=lambda values, *, step: self.calls.append(("metrics", step, values)),
            finish=lambda *, exit_code: self.calls.append(("finish", exit_code)),
        )


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def run(tmp_path):
    return TrackedRun(experiment="Balls", name="2d, fold 0", parameters={"batch_size": 2}, folder=tmp_path)


def make_done(epoch):
    return EpochDone(record=build_epoch_record(epoch, validation_loss=None), schedule=SCHEDULE)


def follow(names, tmp_path, run, *events):
    with open_trackers(names, tmp_path / "trackers.json", run) as trackers:
        return list(trackers.follow(events, ("organ (left)", "b")))


def test_every_epoch_goes_to_mlflow(mlflow, run, tmp_path):
    events = (SCHEDULE, make_done(0), make_done(1))
    assert follow(("mlflow",), tmp_path, run, *events) == list(events)
    assert mlflow.calls[:3] == [
        ("experiment", "Balls"),
        ("start", None, "2d, fold 0"),
        ("parameters", {"batch_size": 2}),
    ]
    first, second = (call for call in mlflow.calls if call[0] == "metrics")
    assert (first[1], second[1]) == (0, 1)
    assert first[2]["loss/training"] == 0.5
    assert "loss/validation" not in first[2]
    assert first[2]["pseudo_dice_of_class/organ _left_"] == 0.7  # MLflow allows no brackets
    assert mlflow.calls[-1] == ("end",)


def test_every_epoch_goes_to_wandb(wandb, run, tmp_path):
    follow(("wandb",), tmp_path, run, make_done(3))
    kind, options = wandb.calls[0]
    assert (kind, options["project"], options["name"], options["config"]) == (
        "init", "Balls", "2d, fold 0", {"batch_size": 2},
    )  # fmt: skip
    assert options["dir"] == str(tmp_path)
    assert [call[:2] for call in wandb.calls[1:]] == [("metrics", 3), ("finish", 0)]


def test_an_interrupted_training_goes_on_in_the_same_run(mlflow, wandb, run, tmp_path):
    with pytest.raises(ZeroDivisionError), open_trackers(("mlflow", "wandb"), tmp_path / "trackers.json", run):
        1 / 0  # noqa: B018 (raises)
    assert wandb.calls[-1] == ("finish", 1)
    follow(("mlflow",), tmp_path, run)
    follow(("wandb",), tmp_path, run)
    assert [call for call in mlflow.calls if call[0] == "start"][-1] == ("start", "m1", None)
    assert len([call for call in mlflow.calls if call[0] == "parameters"]) == 1
    assert [call[1]["id"] for call in wandb.calls if call[0] == "init"] == [None, "w1"]


def test_a_tracker_that_does_not_answer_does_not_end_the_training(mlflow, run, tmp_path, *, monkeypatch, caplog):
    def fail(values, *, step):
        msg = "no route"
        raise ConnectionError(msg)

    monkeypatch.setattr(mlflow, "log_metrics", fail)
    with caplog.at_level(logging.WARNING):
        assert len(follow(("mlflow",), tmp_path, run, make_done(4))) == 1
    assert "mlflow did not log the metrics of epoch 5: no route" in caplog.text


def test_without_trackers_nothing_is_written(run, tmp_path):
    assert follow((), tmp_path, run, SCHEDULE) == [SCHEDULE]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_the_remedy(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TrainingError, match=rf"--log-to {name} .*not installed.*pip install 'autoseg\[{name}\]'"):
        check_trackers((name,))
