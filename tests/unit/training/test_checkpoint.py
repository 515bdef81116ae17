import json
from dataclasses import replace

import pytest
import torch
from builders.folds import build_epoch_record
from builders.plans import build_plan
from safetensors import safe_open
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold
from autoseg.document import write_document
from autoseg.errors import TrainingError
from autoseg.networks import read_weights
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import (
    ScalerState,
    identify_training,
    read_checkpoint,
    read_description,
    restore_learner,
    write_network_checkpoint,
    write_resumable_checkpoint,
)
from autoseg.training.data.batch import Batch
from autoseg.training.loop_state import LoopState
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import Length
from autoseg.training.start import check_identity, find_start
from autoseg.training.step import build_learner, run_training_step

CPU = torch.device("cpu")
SCHEDULE = Schedule(iterations_per_epoch=3, validation_iterations_per_epoch=2, end_epoch=4)
RECORD = build_epoch_record(validation_loss=None, pseudo_dice=(0.25, None))


@pytest.fixture
def identify(plan_configuration, training_data):
    def make(*, seed=0, cases=None, **changes):
        data = replace(training_data, fold=cases or training_data.fold)
        return identify_training(plan_configuration(**changes), data, seed=seed)

    return make


@pytest.fixture
def make_learner(plan_configuration, labels):
    return lambda seed=0: build_learner(plan_configuration(), labels, device=CPU, seed=seed)


def make_state(learner, identity):
    return LoopState(learner=learner, identity=identity, schedule=SCHEDULE, history=[RECORD])


def step(learner, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((2, 1, 16, 16), generator=generator)
    return run_training_step(learner, Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16)))


@pytest.fixture
def written(tmp_path, make_learner, identify):
    """A learner after one step and the file with its state."""
    learner = make_learner()
    step(learner)
    path = tmp_path / "checkpoint_latest.safetensors"
    write_resumable_checkpoint(path, make_state(learner, identify()))
    return learner, path


def get_state(learner):
    momenta = [learner.optimizer.state[parameter]["momentum_buffer"] for parameter in learner.parameters]
    return [*learner.network.state_dict().values(), *momenta]


def test_a_restored_learner_continues_bit_for_bit(written, make_learner):
    learner, path = written
    other = make_learner(seed=1)
    checkpoint = read_checkpoint(path)
    restore_learner(checkpoint, other)
    assert checkpoint.description.history == (RECORD,)
    assert all(map(torch.equal, get_state(learner), get_state(other)))
    assert step(learner, seed=1) == step(other, seed=1)
    assert all(map(torch.equal, get_state(learner), get_state(other)))


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("network.", lambda tensor: tensor.to(torch.int32), "holds torch.int32, expected torch.float32"),
        ("network.", lambda tensor: tensor.to(torch.float8_e4m3fn), "holds torch.float8_e4m3fn, expected one of"),
        ("network.", lambda tensor: tensor * torch.nan, "holds NaN or infinite values"),
        ("optimizer.0.", lambda tensor: torch.zeros(7), r"planned optimizer: optimizer\.0\..* has the shape \(7,\)"),
    ],
)
def test_tensors_that_cannot_be_the_state_are_refused(written, name, change, problem):
    learner, path = written
    checkpoint = read_checkpoint(path)
    found = next(key for key in sorted(checkpoint.tensors) if key.startswith(name))
    changed = replace(checkpoint, tensors=checkpoint.tensors | {found: change(checkpoint.tensors[found])})
    with pytest.raises(TrainingError, match=rf"checkpoint_latest\.safetensors .*{problem}.*--restart"):
        restore_learner(changed, learner)


def test_a_moving_average_that_is_missing_or_does_not_fit_is_refused(tmp_path, plan_configuration, labels, identify):
    configuration = plan_configuration()
    training = configuration.training.model_copy(update={"weight_average_decay": 0.9})
    configuration = configuration.model_copy(update={"training": training})
    learner = build_learner(configuration, labels, device=CPU, seed=0)
    step(learner)
    path = tmp_path / "checkpoint_latest.safetensors"
    write_resumable_checkpoint(path, make_state(learner, identify()))
    checkpoint = read_checkpoint(path)
    restore_learner(checkpoint, learner)
    without = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "average.0"}
    for tensors in (without, checkpoint.tensors | {"average.0": torch.zeros(7)}):
        with pytest.raises(TrainingError, match=r"average\.0 is missing or has another shape"):
            restore_learner(replace(checkpoint, tensors=tensors), learner)


def test_the_gradient_scale_goes_on_where_it_was(tmp_path, make_learner, identify):
    learner, other = (
        replace(make_learner(), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**power)) for power in (10, 16)
    )
    step(learner)
    step(learner)
    path = tmp_path / "scaled.safetensors"
    write_resumable_checkpoint(path, make_state(learner, identify()))
    assert read_description(path).scaler == ScalerState(scale=2.0**10, growth_tracker=2)
    restore_learner(read_checkpoint(path), other)
    assert other.scaler.state_dict() == learner.scaler.state_dict()


def test_without_float16_there_is_no_gradient_scale(written):
    assert read_description(written[1]).scaler is None


def test_prediction_finds_the_weights(written):
    learner, path = written
    weights = read_weights(path)
    state = learner.network.state_dict()
    assert set(weights) == set(state)
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_without_the_optimizer_only_the_weights_are_stored(tmp_path, written, make_learner, identify):
    learner, full = written
    path = tmp_path / "checkpoint_final.safetensors"
    write_network_checkpoint(path, make_state(learner, identify()))
    assert path.stat().st_size < 0.7 * full.stat().st_size
    checkpoint = read_checkpoint(path)
    other = make_learner()
    with pytest.raises(TrainingError, match="lacks the optimizer's state"):
        restore_learner(checkpoint, other)


def test_strided_and_shared_tensors_are_stored_as_they_are(tmp_path, written, identify):
    learner, _ = written
    learner.network.to(memory_format=torch.channels_last)
    learner.network.register_buffer("shared", learner.network.heads[0].weight.detach().transpose(0, 1))
    path = tmp_path / "strided.safetensors"
    write_network_checkpoint(path, make_state(learner, identify()))
    stored = read_checkpoint(path).tensors
    for name, value in learner.network.state_dict().items():
        assert torch.equal(stored[f"network.{name}"], value)


def test_the_file_holds_tensors_and_json(written):
    _, path = written
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["autoseg"])
        names = set(file.keys())
    assert description["schema_version"] == 3
    assert description["history"][0]["pseudo_dice"] == [0.25, None]
    assert {name.split(".")[0] for name in names} == {"network", "optimizer", "checksums"}
    assert "optimizer.0.momentum_buffer" in names


@pytest.mark.parametrize("keep", [0, 5, 0.5])
def test_a_damaged_file_is_refused(written, keep):
    _, path = written
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(TrainingError, match=r"checkpoint_latest.* is damaged .*--restart"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", [b'pseudo_dice\\":[0.25', b"momentum_buffer"])
def test_a_flipped_bit_in_the_header_is_refused(written, text):
    _, path = written
    content = bytearray(path.read_bytes())
    content[content.index(text) + len(text) - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"checkpoint_latest.* is damaged .*--restart"):
        read_checkpoint(path)
    with pytest.raises(TrainingError, match=r"checkpoint_latest.* is damaged .*--restart"):
        read_description(path)


def test_a_flipped_bit_in_a_tensor_is_refused_by_its_name(written):
    _, path = written
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"the tensor \S+ has changed since it was written.*--restart"):
        read_checkpoint(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(TrainingError, match="was not written by autoseg's training"):
        read_checkpoint(path)


def test_a_file_of_another_version_is_refused(written, tmp_path):
    _, path = written
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["autoseg"])
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, metadata={"autoseg": json.dumps(description | {"schema_version": 99})})
    with pytest.raises(TrainingError, match=r"another version of autoseg \(schema_version"):
        read_checkpoint(other)


@pytest.mark.parametrize("version", [1, 2])
def test_the_digest_of_a_plan_in_an_earlier_form_is_not_compared(written, tmp_path, version):
    _, path = written
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["autoseg"])
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, metadata={"autoseg": json.dumps(description | {"schema_version": version})})
    assert read_description(other).identity.plan_digest is None
    assert read_description(path).identity.plan_digest is not None


def test_another_network_is_refused(written, plan_configuration, labels):
    _, path = written
    other = build_learner(plan_configuration(stages=2), labels, device=CPU, seed=0)
    checkpoint = read_checkpoint(path)
    with pytest.raises(TrainingError, match="does not fit the planned network"):
        restore_learner(checkpoint, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"momentum": 0.5}, "the plan changed"),
        ({"cases": Fold(training=("a",), validation=("b",))}, "the cases of the fold changed"),
    ],
)
def test_a_training_is_continued_as_it_was_begun(written, identify, changes, message):
    begun = read_description(written[1]).identity
    check_identity(written[1], begun, identify())
    different = identify(**changes)
    with pytest.raises(TrainingError, match=f"{message}.*{written[1].parent}/plan.json.*--restart"):
        check_identity(written[1], begun, different)


def test_a_plan_without_later_fields_is_continued_if_it_is_the_present_one(
    written, identify, plan_configuration, training_data
):
    (learner, path), begun = written, identify().model_copy(update={"plan_digest": "without later fields"})
    folder = FoldFolder(path.parent)
    write_resumable_checkpoint(path, make_state(learner, begun))
    with pytest.raises(TrainingError, match="the plan changed"):
        find_start(folder, identify(), Length())
    configuration = plan_configuration()
    plan = build_plan({"tiny": configuration}, labels=training_data.labels, channels=training_data.channels)
    write_document(folder.plan, plan)
    found = find_start(folder, identify(), Length())
    assert found is not None
    assert found.checkpoint == path
    with pytest.raises(TrainingError, match="the plan changed"):
        find_start(folder, identify(momentum=0.5), Length())


def test_how_many_iterations_a_plan_needs_is_no_part_of_what_a_training_is(identify):
    assert identify(sufficient_iterations=2000) == identify()
    assert identify(initial_learning_rate=0.02) != identify()


@pytest.mark.parametrize("changed", [rb"train_loss\":", b""])
def test_one_changed_bit_of_the_state_or_its_description_is_noticed(written, changed):
    path = written[1]
    content = bytearray(path.read_bytes())
    content[content.rindex(changed) + len(changed) if changed else -5] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"has changed since it was written: .*begin again with --restart"):
        read_checkpoint(path)
