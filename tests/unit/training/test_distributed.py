import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders.labels import build_labels

from autoseg.errors import DeviceError, TrainingError
from autoseg.plan import CrossEntropyTerm, DiceTerm
from autoseg.plan.objectives import AdversarialObjective
from autoseg.preprocessing.cache import open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import SINGLE_PROCESS, ProcessGroup, join_process_group, read_process_group
from autoseg.training.checkpoint import read_checkpoint
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.events import IterationDone
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.trainer import train

ADVERSARIAL = AdversarialObjective(adversarial_weight=1.0, discriminator_features=(4,), discriminator_strides=((2, 2),))
PARTLY = {"ignore", "adversarial"}
RANK_SCRIPT = Path(__file__).with_name("rank.py")


def find_free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(folder, count):
    process_group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port()), "WORLD_SIZE": str(count)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK_SCRIPT), str(folder)],
            env={**os.environ, **process_group, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=280)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * count, errors
    return [json.loads((folder / f"told_{rank}.json").read_text()) for rank in range(count)]


def see_all_planes(plan):
    """The plan with a network for the slices across each axis."""
    changes = {"plane_axes": (0, 1, 2), "spacing_mm": (1.0,) * 3, "median_shape_voxels": (24.0,) * 3}
    return plan.model_copy(update=changes | {"network": plan.network.with_planes(3)})


@pytest.fixture
def variants(plan_configuration, labels):
    """Name to (plan, labels): every way in which the loss sums over a batch; the last batch is not divided evenly."""
    ignoring = build_labels({"lesion": (1,)}, ignore_value=2)
    regions = build_labels({"lesion": (1,)}, region_write_values=(1,))
    one_output = {"output_channels": 1}

    def make(**changes):
        short = {"iterations_per_epoch": 2, "validation_iterations_per_epoch": 1, "epochs": 1, "batch_size": 4}
        return plan_configuration(**short | changes)

    return {
        "batch_dice": (make(epochs=2, gradient_norm_limit=1.0), labels),
        "sample_dice": (make(losses=(DiceTerm(weight=1.0, batch_dice=False), CrossEntropyTerm(weight=1.0))), labels),
        "uneven": (make(batch_size=3, weight_average_decay=0.9), labels),
        "ignore": (make(), ignoring),
        "regions": (make(network=one_output), regions),
        "adversarial": (make(objective=ADVERSARIAL, epochs=2), ignoring),
        "planes": (see_all_planes(make(epochs=2)), labels),
    }


@pytest.fixture
def partly_annotated(data_folder, tmp_path):
    """The cases, with the ignore label over a third of each."""
    for name in ("case_0", "case_1", "case_2", "case_3"):
        case = open_case(data_folder, name)
        label_map = case.label_map[:].copy()
        label_map[:, :, :8] = 2
        annotated = np.argwhere(label_map != 2).astype(np.int32)
        locations = ClassLocations(coordinates=annotated, class_ranges=((0, 0),), annotated_range=(0, len(annotated)))
        kept = PreprocessedCase(image=case.image[:], label_map=label_map, geometry=case.geometry)
        write_case(tmp_path / "ignored", name, kept, locations=locations, patch_voxels=(1, 16, 16))
    return tmp_path / "ignored"


def train_alone(folder, plan, labels, channels, *, data_folder, fold):
    options = TrainingOptions(device=torch.device("cpu"), seed=0, workers=0, length=Length())
    data = TrainingData(labels=labels, channels=channels, folder=data_folder, fold=fold)
    events = train(plan, data, output=folder, options=options)
    return [event.loss for event in events if isinstance(event, IterationDone)]


@pytest.fixture(scope="module")
def outcome():
    """What the processes did, and where."""
    return {}


@pytest.fixture
def together(outcome, variants, channels, fold, *, data_folder, partly_annotated, tmp_path):
    """All trainings in two processes, which load their libraries once for all tests; two are asked to end."""
    if not outcome:
        plan, labels = variants["batch_dice"]
        longer = plan.model_copy(update={"training": plan.training.model_copy(update={"iterations_per_epoch": 4})})
        long = {"iterations_per_epoch": 8, "validation_iterations_per_epoch": 3}
        longest = plan.model_copy(update={"training": plan.training.model_copy(update=long)})
        trainings = variants | dict.fromkeys(("asked 0", "asked 1"), (longer, labels))
        trainings |= dict.fromkeys(("at once", "late", "late, asked", "late, lost"), (longest, labels))
        content = {
            "trainings": {
                name: (plan.model_dump(mode="json"), labels.model_dump(mode="json"))
                for name, (plan, labels) in trainings.items()
            },
            "channels": [channel.model_dump(mode="json") for channel in channels],
            "data": {name: str(partly_annotated if name in PARTLY else data_folder) for name in trainings},
            "fold": fold.model_dump(mode="json"),
            "asked": {"asked 0": [0, 1], "asked 1": [1, 1], "late, asked": [1, 1]},
            "blocks": dict.fromkeys(("late", "late, asked", "late, lost"), 2),
            "lost": {"late, lost": 4},
        }
        (tmp_path / "trainings.json").write_text(json.dumps(content))
        outcome |= {"folder": tmp_path, "told": run_ranks(tmp_path, 2), "data": content["data"]}
    return SimpleNamespace(**outcome)


def test_two_processes_learn_what_one_learns_from_the_whole_batch(together, variants, channels, fold, *, tmp_path):
    for name, (plan, labels) in variants.items():
        alone = FoldFolder(tmp_path / "alone" / name)
        losses = train_alone(alone, plan, labels, channels, data_folder=Path(together.data[name]), fold=fold)
        assert len(losses) == 3 * plan.training.epochs
        for told in together.told:
            assert told["losses"][name] == pytest.approx(losses, abs=1e-4), name
        output = FoldFolder(together.folder / name)
        expected, found = (read_checkpoint(folder.final_checkpoint) for folder in (alone, output))
        for key, value in expected.tensors.items():
            torch.testing.assert_close(found.tensors[key], value, rtol=0, atol=1e-4)
        dice = [[record.pseudo_dice for record in file.description.history] for file in (expected, found)]
        assert dice[0] == dice[1]
        histories = [file.description.history for file in (expected, found)]
        accuracies = [[record.discriminator_accuracy for record in history] for history in histories]
        assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)
        assert (accuracies[0][0] is not None) == (name == "adversarial")
        log = output.training_log.read_text().splitlines()
        assert len(log) == plan.training.epochs  # written once, by the leader


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_of_two_processes_is_asked_to_end_both_end_in_the_same_iteration_and_the_leader_saves(together, rank):
    name = f"asked {rank}"
    # The one that got SIGTERM ends with StopSignal, as an error of the program; the other with a KeyboardInterrupt.
    ends = [told["ends"][name] for told in together.told]
    assert ends == ["StopSignal" if other == rank else "KeyboardInterrupt" for other in (0, 1)]
    assert read_checkpoint(FoldFolder(together.folder / name).latest_checkpoint).description.reached == (0, 3)


TIMES = {"seconds", "seconds_per_iteration", "data_wait_seconds"}


def read_log(output):
    records = [json.loads(line) for line in output.training_log.read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def test_two_processes_that_agree_once_a_block_of_steps_learn_the_same_to_the_bit(together):
    outputs = [FoldFolder(together.folder / name) for name in ("at once", "late")]
    expected, found = (read_checkpoint(output.final_checkpoint).tensors for output in outputs)
    assert set(expected) == set(found)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    logs = [read_log(output) for output in outputs]
    assert len(logs[0]) == 2
    assert logs[0] == logs[1]
    for told in together.told:
        assert len(told["losses"]["late"]) == 2 * (8 + 3)
        assert told["losses"]["late"] == told["losses"]["at once"]
        # an epoch: one for each of 8 steps and 3 of validation, or for 4 blocks and 2, and one at the end
        assert told["counts"]["at once"] == {"steps": 16, "agreements": 2 * (8 + 3 + 1)}
        assert told["counts"]["late"] == {"steps": 16, "agreements": 2 * (4 + 2 + 1)}


def test_when_losses_are_read_late_both_processes_end_in_the_same_iteration(together):
    # Iterations 0 and 1 are told after iteration 3; the next time that both agree is after iteration 5.
    assert [told["ends"]["late, asked"] for told in together.told] == ["KeyboardInterrupt", "StopSignal"]
    assert [told["counts"]["late, asked"]["steps"] for told in together.told] == [6, 6]
    latest = FoldFolder(together.folder / "late, asked").latest_checkpoint
    assert read_checkpoint(latest).description.reached == (0, 6)


def test_a_loss_that_is_lost_is_named_by_its_step_in_both_processes_and_never_saved(together):
    for told in together.told:
        assert "the loss is nan in epoch 0, iteration 4:" in told["ends"]["late, lost"]
        assert told["counts"]["late, lost"]["steps"] == 6
    latest = FoldFolder(together.folder / "late, lost").latest_checkpoint
    assert read_checkpoint(latest).description.reached == (0, 4)


@pytest.mark.parametrize(
    ("batch", "size", "expected"), [(4, 2, [2, 2]), (5, 2, [2, 3]), (7, 3, [2, 2, 3]), (2, 1, [2])]
)
def test_every_sample_of_a_batch_belongs_to_exactly_one_process(batch, size, expected):
    parts = [ProcessGroup(rank=rank, size=size).select_samples(batch) for rank in range(size)]
    assert [len(part) for part in parts] == expected
    assert [index for part in parts for index in part] == list(range(batch))


def test_more_processes_than_samples_are_refused():
    with pytest.raises(TrainingError, match=r"batch of 2 cannot be divided among 3.*at most 2 devices"):
        ProcessGroup(rank=0, size=3).select_samples(2)


def test_a_process_alone_needs_nobody(plan_configuration):
    plan = plan_configuration().training
    with SINGLE_PROCESS.main_process_first():
        assert SINGLE_PROCESS.share(plan) is plan
    assert SINGLE_PROCESS.is_main_process


def test_a_process_that_nobody_started_as_one_of_several_says_how(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(TrainingError, match=r"RANK.*torchrun"):
        read_process_group()


def test_devices_that_cannot_train_together_are_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match="not on mps"), join_process_group(torch.device("mps")):
        pass
