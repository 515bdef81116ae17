import pytest
from builders.folds import finish_fold

from autoseg.errors import OptionError
from autoseg.processes.signals import StopRequest
from autoseg.workflows.train import units as training_units
from autoseg.workflows.train.dispatch import train_folds
from autoseg.workflows.train.request import TrainingRequest


class Notes:
    """A listener that remembers lines of text."""

    def __init__(self):
        self.texts = []

    def track(self, items, *, label, total, unit):
        yield from items

    def show_part(self, label, done, total, unit="windows"):
        pass

    def note(self, text):
        self.texts.append(text)


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def trained(run, monkeypatch):
    """A run whose configuration 2d is trained and validated."""
    monkeypatch.setattr(training_units, "check_preprocessed", lambda run, plan, configuration, names: None)
    for fold, dice in (("0", 0.8), ("1", 0.9)):
        finish_fold(run, "2d", fold, dice=dice)
    return run


def dispatch(run, notes, *, devices=None, **options):
    shown = []
    outcome = train_folds(
        run.root,
        TrainingRequest(configuration="2d", device="cpu" if devices is None else "auto", **options),
        devices=devices,
        report_fold=lambda fold: pytest.fail(f"{fold} was trained in this process"),
        show_statuses=shown.extend,
        progress=notes,
        stop=StopRequest(),
    )
    return outcome, shown


def test_finished_folds_are_shown_and_not_trained_again(trained, notes):
    outcome, shown = dispatch(trained, notes)
    assert [(status.fold, status.state) for status in shown[-1]] == [("0", "finished"), ("1", "finished")]
    assert notes.texts == [f"0 of 2 folds to train; their output goes to {trained.logs}"]
    assert outcome.is_main_process
    assert outcome.failures == ()


def test_the_time_of_all_rounds_is_announced_where_each_fold_has_a_budget(trained, notes, monkeypatch):
    monkeypatch.setattr("autoseg.workflows.train.queue.TrainingQueue.run_all", lambda queue: (x for x in ()))
    dispatch(trained, notes, devices="cpu,cpu", restart=True, budget_seconds=60.0)
    assert notes.texts[0].startswith("2 of 2 folds to train")
    assert notes.texts[1] == "each of them gets 1:00, so all take up to 1:00"


def test_two_answers_to_where_to_train_are_refused_before_the_run_is_read(run, notes):
    with pytest.raises(OptionError, match="not both"):
        train_folds(
            run.root / "nowhere",
            TrainingRequest(device="cpu"),
            devices="0,1",
            report_fold=print,
            show_statuses=list,
            progress=notes,
            stop=StopRequest(),
        )
