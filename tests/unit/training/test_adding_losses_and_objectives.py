"""One more loss term and one more objective: a class, a function and one row each, all of them in this file."""

from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from torch import nn

from autoseg.document import parse_part
from autoseg.errors import TrainingError
from autoseg.plan import LOSS_TERMS, OBJECTIVE_PLANS, ConfigurationPlan, LossTerm, ObjectivePlan
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import BatchPart
from autoseg.training.calibration import _time_network
from autoseg.training.checkpoint import read_checkpoint, restore_learner
from autoseg.training.data.batch import Batch
from autoseg.training.losses import LOSSES
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.monitoring.events import IterationDone
from autoseg.training.objectives import OBJECTIVES
from autoseg.training.objectives.objective import Objective
from autoseg.training.objectives.segmentation import Segmentation
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.training.trainer import train

CPU = torch.device("cpu")


class BrierTerm(LossTerm):
    name: Literal["brier"] = "brier"
    exponent: float


def compute_brier(term, logits, target, part):
    distance = (logits.softmax(1)[:, 1:] - target.masks.float()).abs() ** term.exponent
    return part.add_up(distance.mean() * part.share)


class RefinementPlan(ObjectivePlan):
    name: Literal["refinement"] = "refinement"
    noise_std: float


class Refinement(Objective):
    """Calls the network twice, on a disturbed image and on what it made of it; has a weight and a state of its own."""

    def __init__(self, plan, labels, network, *, part, seed):
        super().__init__()
        self.noise_std, self.seed = plan.training.objective.noise_std, seed
        self.loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.spacing_mm, part=part)
        self.balance = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, network, batch):
        generator = torch.Generator().manual_seed(self.seed + int(self.steps))
        self.steps += int(self.training)
        noise = self.noise_std * torch.randn(batch.image.shape, generator=generator)
        first = network(batch.image + noise)[0]
        second = network(batch.image * (1 + first[:, 1:].sigmoid()))[0]
        share = self.balance.sigmoid()
        return self.loss([share * first + (1 - share) * second], batch.label_map, [1.0]), second


@pytest.fixture
def brier(monkeypatch):
    """The rows of the loss term; how a plan asks for it."""
    monkeypatch.setitem(LOSS_TERMS, "brier", BrierTerm)
    monkeypatch.setitem(LOSSES, "brier", compute_brier)
    return {
        "losses": [
            {"name": "cross_entropy", "weight": 0.5},
            {"name": "brier", "weight": 2.0, "exponent": 2.0},
        ]
    }


@pytest.fixture
def refinement(monkeypatch):
    """The rows of the objective; how a plan asks for it."""
    monkeypatch.setitem(OBJECTIVE_PLANS, "refinement", RefinementPlan)
    monkeypatch.setitem(OBJECTIVES, "refinement", Refinement)
    return {"objective": {"name": "refinement", "noise_std": 0.1}}


@pytest.fixture(params=["brier", "refinement"])
def changes(request):
    """Either of them in a plan, with an average of the weights."""
    return request.getfixturevalue(request.param) | {"weight_average_decay": 0.5}


@pytest.fixture
def learner(plan_configuration, labels, refinement):
    return build_learner(plan_configuration(**refinement), labels, device=CPU, seed=0)


@pytest.fixture
def batch():
    image = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


def test_a_plan_keeps_them_in_its_file(plan_configuration, changes):
    plan = plan_configuration(**changes)
    text = plan.model_dump(mode="json")
    assert parse_part(text, ConfigurationPlan, where="plan.json") == plan
    key = "losses" if "losses" in changes else "objective"
    assert text["training"][key] == changes[key]


def test_a_term_counts_with_its_weight(plan_configuration, labels, batch, brier):
    cross_entropy, added = (
        run_training_step(build_learner(plan_configuration(losses=[term]), labels, device=CPU, seed=0), batch)
        for term in brier["losses"]
    )
    both = run_training_step(build_learner(plan_configuration(**brier), labels, device=CPU, seed=0), batch)
    assert added > 0
    assert both == pytest.approx(cross_entropy + added, rel=1e-5)


def test_they_are_trained_and_resumed_within_an_epoch_bit_for_bit(plan_configuration, training_data, changes, tmp_path):
    plan = plan_configuration(**changes)

    def start(folder):
        options = TrainingOptions(
            device=CPU, seed=3, workers=0, seconds_between_partial_checkpoints=0.0, largest_saving_share=1.0
        )
        return train(plan, training_data, output=FoldFolder(tmp_path / folder), options=options)

    list(start("whole"))
    events = start("parts")
    next(event for event in events if isinstance(event, IterationDone) and (event.epoch, event.iteration) == (1, 1))
    events.close()
    list(start("parts"))
    whole, parts = (read_checkpoint(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "parts"))
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(name.startswith("network.") for name in whole.tensors)
    assert all(torch.equal(value, parts.tensors[name]) for name, value in whole.tensors.items())
    losses = [[record.train_loss for record in file.description.history] for file in (whole, parts)]
    assert losses[0] == losses[1]


def test_parameters_of_an_objective_are_trained_and_its_state_changes_in_training_alone(learner, batch):
    run_training_step(learner, batch)
    assert learner.objective.balance.item() != 0
    assert learner.objective.steps == 1
    learner.train(is_training=False)
    first, second = (run_validation_step(learner, batch).loss for _ in range(2))
    assert first == second
    assert learner.objective.steps == 1


def test_gradients_of_an_objective_are_summed_over_the_processes_of_a_process_group(learner, batch, monkeypatch):
    process_group = replace(learner, part=BatchPart(share=0.5, add_up=lambda value: 3 * value), gradient_norm_limit=1e9)
    gradients = []
    for each in (replace(learner, gradient_norm_limit=1e9), process_group):
        monkeypatch.setattr(each.optimizer, "step", lambda: None)
        each.objective.steps.zero_()
        run_training_step(each, batch)
        gradients.append((each.objective.balance.grad.clone(), each.parameters[0].grad.clone()))
    torch.testing.assert_close(gradients[1][0], 3 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


class RecordingPlan(ObjectivePlan):
    name: Literal["recording"] = "recording"


class Recording(Segmentation):
    """Records the share of the training that is done."""

    seen: ClassVar[list[tuple[bool, float]]] = []

    def forward(self, network, batch):
        self.seen.append((self.training, self.progress))
        return super().forward(network, batch)


def test_an_objective_knows_the_share_of_the_training_that_is_done(
    plan_configuration, training_data, monkeypatch, tmp_path
):
    monkeypatch.setitem(OBJECTIVE_PLANS, "recording", RecordingPlan)
    monkeypatch.setitem(OBJECTIVES, "recording", Recording)
    Recording.seen.clear()
    plan = plan_configuration(
        epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1, objective={"name": "recording"}
    )
    options = TrainingOptions(device=CPU, seed=0, workers=0)
    list(train(plan, training_data, output=FoldFolder(tmp_path / "fold"), options=options))
    epochs = [[(True, 0.0), (True, 0.25), (False, 0.5)], [(True, 0.5), (True, 0.75), (False, 1.0)]]
    assert Recording.seen == [*epochs[0], *epochs[1]]


def test_calibration_times_every_call_of_the_network(learner, batch, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("autoseg.training.calibration._read_clock", lambda device: float(next(times)))
    assert _time_network(learner, batch) == 2.0


def test_a_state_that_belongs_to_another_objective_is_refused(plan_configuration, training_data, refinement, tmp_path):
    options = TrainingOptions(device=CPU, seed=0, workers=0, seconds_between_checkpoints=0.0, largest_saving_share=1.0)
    folder = FoldFolder(tmp_path / "fold")
    events = train(plan_configuration(**refinement), training_data, output=folder, options=options)
    next(event for event in events if isinstance(event, IterationDone) and event.epoch == 1)
    events.close()
    usual = build_learner(plan_configuration(), training_data.labels, device=CPU, seed=0)
    with pytest.raises(TrainingError, match="does not fit the planned objective"):
        restore_learner(read_checkpoint(folder.latest_checkpoint), usual)
