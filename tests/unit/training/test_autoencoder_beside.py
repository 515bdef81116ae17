"""A label autoencoder beside a network, whose training knows nothing of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.networks import build_small_network_plan
from builders.progress import skip_drawing

from autoseg.inference.label_autoencoders import load_label_autoencoders
from autoseg.networks import build_network, read_weights, write_weights
from autoseg.networks.weights import hash_weights, read_label_autoencoder
from autoseg.plan.label_prior import (
    find_label_autoencoder,
    list_changed_fields,
    plan_autoencoder_training,
    refine_latents,
)
from autoseg.plan.objectives import PlausibilityPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import digest_plan, read_checkpoint
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.step import build_learner
from autoseg.training.teacher import Teacher
from autoseg.training.trainer import train
from autoseg.workflows.train import label_prior
from autoseg.workflows.train.label_prior import describe_reconstruction, train_label_autoencoder

CPU = torch.device("cpu")

_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


@pytest.fixture
def plain(plan_configuration):
    """A plain network, trained in two epochs of two iterations."""
    return plan_configuration(epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1)


@pytest.fixture
def with_autoencoder(plain):
    autoencoder = build_small_network_plan("label_autoencoder", 2, input_channels=2, output_channels=2)
    beside = PlausibilityPlan(autoencoder=autoencoder, autoencoder_iterations=3)
    return plain.model_copy(update={"training": plain.training.model_copy(update={"plausibility": beside})})


@pytest.fixture
def start(training_data, tmp_path: Path):
    """Trains a fold as `autoseg train` does: the label autoencoder first."""

    def run(plan, folder: str, *, notes=None, **changes) -> FoldFolder:
        output = FoldFolder(tmp_path / folder)
        options = TrainingOptions(device=CPU, seed=0, workers=0, announce=([] if notes is None else notes).append)
        options = replace(options, **changes)
        prior = train_label_autoencoder(plan, training_data, folder=output.root, options=options)
        for _ in train(plan, training_data, output=output, options=replace(options, label_autoencoder=prior)):
            pass
        return output

    return run


def test_the_network_is_trained_bit_for_bit_as_without_and_the_checkpoint_keeps_both(
    plain, with_autoencoder, start
) -> None:
    alone, beside = (start(plan, name) for plan, name in ((plain, "alone"), (with_autoencoder, "beside")))
    first, second = (read_checkpoint(fold.final_checkpoint) for fold in (alone, beside))
    added = set(second.tensors) - set(first.tensors)
    assert set(first.tensors) <= set(second.tensors)
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())
    assert all(name.startswith("label_autoencoder.") for name in added)
    losses = [
        [(entry.train_loss, entry.validation_loss) for entry in each.description.history] for each in (first, second)
    ]
    assert losses[0] == losses[1]
    trained = read_weights(FoldFolder(beside.root / label_prior.FOLDER_NAME).final_checkpoint)
    kept = read_label_autoencoder(beside.final_checkpoint)
    assert trained.keys() == kept.keys()
    assert all(torch.equal(kept[name], value) for name, value in trained.items())
    assert not (alone.root / label_prior.FOLDER_NAME).exists()
    (loaded,) = load_label_autoencoders([beside], with_autoencoder)
    assert not loaded.training
    assert list(load_label_autoencoders([alone], plain)) == []


def test_steps_have_the_objective_and_the_digest_of_those_without(plain, with_autoencoder, training_data) -> None:
    learners = [build_learner(plan, training_data.labels, device=CPU, seed=0) for plan in (plain, with_autoencoder)]
    assert type(learners[0].objective) is type(learners[1].objective)
    assert learners[1].objective.find_capture_problem() is None
    assert not list(learners[1].objective.children())
    assert [len(learner.parameters) for learner in learners] == [len(learners[0].parameters)] * 2
    digests = [digest_plan(plan, training_data.labels, training_data.channels) for plan in (plain, with_autoencoder)]
    assert digests[0] == digests[1]


def test_the_autoencoder_is_kept_beside_a_network_that_learns_from_a_teacher(
    plain, with_autoencoder, start, tmp_path
) -> None:
    path = tmp_path / "teacher.safetensors"
    write_weights(path, build_network(plain.network, torch.Generator().manual_seed(7)).state_dict())
    teacher = Teacher(checkpoint=path, digest=hash_weights(path), plan=plain.network)
    fold = start(with_autoencoder, "taught", teacher=teacher, teacher_digest=teacher.digest)
    assert read_label_autoencoder(fold.final_checkpoint)


def test_a_finished_fold_needs_no_folder_of_the_autoencoder_and_one_that_is_extended_keeps_it(
    with_autoencoder, start, tmp_path
) -> None:
    fold = start(with_autoencoder, "fold")
    kept = read_label_autoencoder(fold.final_checkpoint)
    folder = (fold.root / label_prior.FOLDER_NAME).rename(tmp_path / "elsewhere")
    notes: list[str] = []
    start(with_autoencoder, "fold", notes=notes)
    assert notes == []
    assert not (fold.root / label_prior.FOLDER_NAME).exists()
    folder.rename(fold.root / label_prior.FOLDER_NAME)
    start(with_autoencoder, "fold", length=Length(more_epochs=1))
    after = read_label_autoencoder(fold.final_checkpoint)
    assert all(torch.equal(after[name], value) for name, value in kept.items())
    assert len(read_checkpoint(fold.final_checkpoint).description.history) == 3


def test_its_own_training_has_none_and_is_described_by_its_own_fields(with_autoencoder, start) -> None:
    own = plan_autoencoder_training(with_autoencoder)
    assert own is not None
    assert own.training.plausibility is None
    assert own.training.objective.name == "reconstruction"
    assert type(own).model_validate(own.model_dump()) == own
    assert find_label_autoencoder(own) is None
    history = read_checkpoint(start(with_autoencoder, "fold").final_checkpoint).description.history
    poor = [history[-1].model_copy(update={"mean_pseudo_dice": 0.5})]
    told = describe_reconstruction(poor, with_autoencoder, configuration="2d")
    assert "which limits what the plausibility tells" in told
    assert "raise training.plausibility.autoencoder_iterations, now 3" in told
    finer = refine_latents(with_autoencoder)
    assert finer is not None
    assert type(finer).model_validate(finer.model_dump()) == finer
    changes = list_changed_fields(with_autoencoder, finer)
    assert {key.rpartition(".")[0] for key in changes} == {"training.plausibility.autoencoder"}
    assert all(f"{key} from" in told for key in changes)
