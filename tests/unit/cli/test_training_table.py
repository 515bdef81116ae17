import io

import pytest
from rich.console import Console as RichConsole

from autoseg.cli.terminal import training_table
from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.training_table import describe_status, format_epoch, print_trainings, show_trainings
from autoseg.workflows.folds.status import FoldStatus


def make_status(**values):
    return FoldStatus(**{"configuration": "2d", "fold": "0", "state": "waiting"} | values)


TRAINING = make_status(
    state="training",
    device="cuda:1",
    epochs_done=2,
    end_epoch=10,
    remaining_seconds=3723.0,
    train_loss=-0.5,
    validation_loss=-0.4,
    pseudo_dice=0.8123,
)
FINISHED = make_status(state="finished", device="cpu", epochs_done=10, end_epoch=10, dice=0.9)
FAILED = make_status(fold="1", state="failed", reason="the disk is full; log: x.log")


@pytest.fixture
def output():
    return io.StringIO()


@pytest.fixture
def open_fake(output):
    """A console that is a terminal, or a file."""
    return lambda *, is_terminal: Console(RichConsole(file=output, force_terminal=is_terminal, width=160))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (TRAINING, "2d, fold 0: training on cuda:1, epoch 3/10, pseudo Dice 0.812, 1:02:03 left"),
        (FINISHED, "2d, fold 0: finished, Dice 0.900"),
        (FAILED, "2d, fold 1: failed: the disk is full; log: x.log"),
        (make_status(state="interrupted", epochs_done=2, end_epoch=10), "2d, fold 0: interrupted, epoch 2/10"),
        (
            make_status(state="validating", device="cpu", cases_done=1, cases=4),
            "2d, fold 0: validating on cpu, 1/4 cases",
        ),
    ],
)
def test_a_line_says_what_matters_in_each_state(status, text):
    assert describe_status(status) == text


def test_epochs_are_shown_without_an_end_where_there_is_none():
    assert format_epoch(make_status(state="training", epochs_done=2)) == "3"
    assert format_epoch(make_status(state="training", epochs_done=10, end_epoch=10)) == "10/10"


def test_a_file_gets_a_line_when_something_changes_and_now_and_then(open_fake, output, monkeypatch):
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(training_table.time, "monotonic", lambda: float(next(now)))
    waiting = make_status()
    snapshots = [(waiting,), (TRAINING,), (TRAINING,), (TRAINING,), (TRAINING,), (FINISHED,), (FINISHED,)]
    assert show_trainings(open_fake(is_terminal=False), snapshots) == (FINISHED,)
    lines = output.getvalue().splitlines()
    assert [line.split(": ")[1].split(" ")[0].rstrip(",") for line in lines] == ["training", "training", "finished"]


def test_a_terminal_gets_one_table_with_the_reasons_below(open_fake, output):
    assert show_trainings(open_fake(is_terminal=True), [(TRAINING, FAILED)]) == (TRAINING, FAILED)
    text = output.getvalue()
    assert "cuda:1" in text
    assert "2d, fold 1: the disk is full; log: x.log" in text


def test_the_table_has_one_row_for_each_fold(open_fake, output):
    print_trainings(open_fake(is_terminal=False), (TRAINING, FINISHED, FAILED))
    rows = [line for line in output.getvalue().splitlines() if "2d" in line]
    assert len(rows) == 4
    for text in ("3/10", "-0.500 / -0.400", "0.812", "1:02:03"):
        assert text in rows[0]
    assert "0.900" in rows[1]
    assert rows[3].endswith("the disk is full; log: x.log")


def test_what_must_be_known_of_scores_stands_below_the_table(open_fake, output):
    status = make_status(state="finished", dice=0.13, warnings=("108 iterations are 7 % of the 1,500",))
    print_trainings(open_fake(is_terminal=False), (status, FAILED))
    lines = output.getvalue().splitlines()
    assert lines[-2:] == [
        "2d, fold 1: the disk is full; log: x.log",
        "warning: 2d, fold 0: 108 iterations are 7 % of the 1,500",
    ]


def test_what_must_be_known_of_several_folds_is_said_once(open_fake, output):
    short = [make_status(fold=fold, state="finished", warnings=("108 iterations are too few",)) for fold in ("0", "1")]
    print_trainings(open_fake(is_terminal=False), short)
    assert output.getvalue().splitlines()[-1] == "warning: 2d, folds 0, 1: 108 iterations are too few"
    assert output.getvalue().count("too few") == 1
