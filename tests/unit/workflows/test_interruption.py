import pytest
import torch
from builders.folds import build_checkpoint_description, build_epoch_record
from safetensors.torch import save_file

from autoseg.document import write_document
from autoseg.errors import Stopped
from autoseg.run_folder import write_text
from autoseg.training.monitoring.history import append_to_training_log
from autoseg.training.options import Length
from autoseg.workflows.folds.state import TrainingState
from autoseg.workflows.train.interruption import (
    describe_interruptions,
    describe_kept,
    describe_queue_continuation,
    describe_start,
)
from autoseg.workflows.train.request import TrainingRequest


def save(path, **reached):
    path.parent.mkdir(parents=True, exist_ok=True)
    description = build_checkpoint_description(**reached)
    save_file({"network.x": torch.zeros(1)}, path, metadata={"autoseg": description.model_dump_json()})
    return description


@pytest.fixture
def folder(run):
    return run.fold("2d", "0")


def keep_phase(folder, phase, **values):
    write_document(folder.state, TrainingState(phase=phase, device="cpu", **values))


def interrupt(folder, request):
    with pytest.raises(Stopped) as stopped, describe_interruptions(folder, request, name="2d, fold 0"):
        raise KeyboardInterrupt
    return str(stopped.value)


def test_an_interruption_says_where_the_state_stands_and_that_the_same_command_continues(folder):
    save(folder.latest_checkpoint, epochs=2, iterations=12)
    expected = "2d, fold 0: saved in epoch 3 of 100, after iteration 12 of 250; the same command continues"
    assert interrupt(folder, TrainingRequest()) == expected
    save(folder.latest_checkpoint, epochs=2, iterations=0)
    assert "saved after epoch 2 of 100;" in interrupt(folder, TrainingRequest())


def test_an_interruption_before_the_first_iteration_says_that_nothing_is_saved(folder):
    keep_phase(folder, "preparing")
    text = interrupt(folder, TrainingRequest(restart=True))
    assert text == "2d, fold 0: nothing is saved, as no iteration was finished; the same command continues"


def test_an_interrupted_validation_says_that_the_model_is_there(folder):
    write_text(folder.final_checkpoint, "weights")
    keep_phase(folder, "validating", cases_done=3, cases=10)
    text = interrupt(folder, TrainingRequest())
    assert "the model is trained and saved, its validation was at case 3 of 10; the same command" in text
    extended = interrupt(folder, TrainingRequest(length=Length(more_epochs=5)))
    assert extended.endswith("the same command without --extend continues (with it, it trains still more epochs)")


def test_what_would_discard_the_state_is_named_where_it_was_given(folder):
    save(folder.latest_checkpoint, epochs=2, iterations=12)
    assert "without --restart continues" in interrupt(folder, TrainingRequest(restart=True))
    extended = interrupt(folder, TrainingRequest(length=Length(more_epochs=5)))
    assert extended.endswith("; the same command continues")  # the extension is under way, and is not begun twice


def test_a_queue_names_what_a_restart_has_not_reached():
    waiting = ["2d, fold 3", "2d, fold 4"]
    assert describe_queue_continuation(TrainingRequest(), waiting) == "the same command continues"
    text = describe_queue_continuation(TrainingRequest(restart=True), waiting)
    assert "without --restart continues; --restart has not reached 2d, fold 3; 2d, fold 4: name them" in text
    assert (
        describe_queue_continuation(TrainingRequest(restart=True), []) == "the same command without --restart continues"
    )


def test_a_training_says_where_it_goes_on(folder):
    begun = save(folder.latest_checkpoint, epochs=2, iterations=12)
    assert describe_start(folder, begun) == "continues, in epoch 3 of 100, after iteration 12 of 250"
    final = save(folder.final_checkpoint, epochs=100, iterations=0)
    assert describe_start(folder, final) is None  # it is finished


def test_a_training_that_begins_again_although_it_had_begun_says_so(folder):
    assert describe_start(folder, None) is None
    for epoch in range(2):
        append_to_training_log(folder.training_log, build_epoch_record(epoch))
    assert describe_start(folder, None) == (
        "begins again with epoch 1: it was ended in epoch 3, and no state had been saved"
    )


def test_a_damaged_state_does_not_hide_the_interruption(folder):
    write_text(folder.latest_checkpoint, "no checkpoint")
    assert "checkpoint_latest.safetensors is damaged" in describe_kept(folder)
