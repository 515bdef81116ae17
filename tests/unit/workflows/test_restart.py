"""A fold that is trained anew loses its earlier training when the new one begins, not before."""

import shutil
import signal

import pytest

from autoseg.errors import Stopped, TrainingError
from autoseg.processes.signals import StopSignal, find_signal
from autoseg.run_folder import FoldFolder
from autoseg.workflows.train.interruption import describe_interruptions, set_aside
from autoseg.workflows.train.request import TrainingRequest


@pytest.fixture
def folder(run):
    folder = run.fold("2d", "0")
    folder.root.mkdir(parents=True)
    folder.final_checkpoint.write_text("earlier")
    return folder


def list_names(folder):
    return sorted(path.name for path in folder.root.parent.iterdir())


def train(folder, *, begins, error=None):
    """Does what a training does that fails by an error, before or after it has begun."""
    with set_aside(folder, is_restart=True) as discard:
        assert not folder.root.exists()
        folder.root.mkdir(parents=True)
        folder.state.write_text("new")
        if begins:
            discard()
            assert list_names(folder) == [folder.root.name]
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [TrainingError("refused"), KeyboardInterrupt()])
def test_what_is_refused_or_interrupted_leaves_the_earlier_training_as_it_was(folder, error):
    with pytest.raises(type(error)):
        train(folder, begins=False, error=error)
    assert folder.final_checkpoint.read_text() == "earlier"
    assert not folder.state.exists()
    assert list_names(folder) == ["fold_0"]


def test_an_interruption_before_a_training_begins_again_advises_to_repeat_the_command(folder):
    request = TrainingRequest(restart=True)
    with pytest.raises(Stopped) as stopped, describe_interruptions(folder, request, name="2d, fold 0"):
        train(folder, begins=False, error=StopSignal(signal.SIGTERM))
    assert str(stopped.value) == (
        "2d, fold 0: the earlier state is kept, as the new one had not begun; the same command begins it"
    )
    assert find_signal(stopped.value) == signal.SIGTERM
    with pytest.raises(Stopped, match="nothing is saved"), describe_interruptions(folder, request, name="2d, fold 0"):
        train(folder, begins=True, error=KeyboardInterrupt())


@pytest.mark.parametrize("error", [TrainingError("diverged"), KeyboardInterrupt()])
def test_a_training_that_has_begun_takes_its_place(folder, error):
    with pytest.raises(type(error)):
        train(folder, begins=True, error=error)
    assert folder.state.read_text() == "new"
    assert not folder.final_checkpoint.exists()
    assert list_names(folder) == ["fold_0"]


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("is_restart", [False, True])
def test_after_a_kill_the_next_training_finds_the_earlier_one_unless_it_was_replaced(
    tmp_path, folder, begins, is_restart
):
    killed = FoldFolder(tmp_path / "killed" / "fold_0")
    with set_aside(folder, is_restart=True) as discard:
        folder.root.mkdir(parents=True)
        folder.state.write_text("new")
        if begins:
            discard()
        shutil.copytree(folder.root.parent, killed.root.parent)  # what a kill at this moment leaves
    with pytest.raises(KeyboardInterrupt), set_aside(killed, is_restart=is_restart):
        raise KeyboardInterrupt
    assert killed.final_checkpoint.exists() is not begins
    assert killed.state.exists() is begins


def test_an_earlier_training_that_cannot_be_removed_does_not_end_the_new_one(tmp_path, folder):
    elsewhere = folder.root.rename(tmp_path / "other disk")
    folder.root.symlink_to(elsewhere)
    train(folder, begins=False)
    assert folder.state.read_text() == "new"
    assert not folder.root.is_symlink()


def test_without_an_earlier_training_there_is_nothing_to_set_aside(run):
    folder = run.fold("3d_lowres", "1")
    train(folder, begins=True)
    assert folder.state.read_text() == "new"
