"""A training begins with the probabilities that the plan of the loss names, unless it begins with trained weights."""

from pathlib import Path

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan

from autoseg.plan.losses import TverskyTerm, list_loss_problems
from autoseg.run_folder import FoldFolder
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner
from autoseg.training.trainer import train

CPU = torch.device("cpu")
LESION = build_labels({"lesion": (1,)})


def build_tversky(*probabilities: float) -> TverskyTerm:
    return TverskyTerm(
        weight=1.0,
        batch_dice=True,
        false_positive_weight=0.3,
        false_negative_weight=0.7,
        exponent=1.0,
        initial_probabilities=probabilities,
    )


def test_biases_of_the_outputs_are_those_of_the_plan_and_nothing_else_changes(plan_configuration) -> None:
    usual, planned = (
        build_learner(plan_configuration(losses=(term,)), LESION, device=CPU, seed=0).network
        for term in (build_tversky(), build_tversky(0.98, 0.02))
    )
    changed = {name for name, value in planned.state_dict().items() if not torch.equal(value, usual.state_dict()[name])}
    assert changed == {"heads.0.bias", "heads.1.bias"}
    torch.testing.assert_close(planned.get_parameter("heads.0.bias").softmax(0).detach(), torch.tensor([0.98, 0.02]))
    again = build_learner(
        plan_configuration(losses=(build_tversky(0.98, 0.02),)),
        LESION,
        device=CPU,
        seed=0,
        initial=usual.state_dict(),
    ).network
    assert all(torch.equal(value, usual.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_network_that_fuses_its_outputs_says_that_it_begins_as_usual(
    plan_configuration, training_data, tmp_path: Path
) -> None:
    plan = plan_configuration(losses=(build_tversky(0.98, 0.02),), epochs=1, iterations_per_epoch=1)
    network = build_small_network_plan("fcn", 2, input_channels=1, output_channels=2)
    announced: list[str] = []
    options = TrainingOptions(device=CPU, seed=0, workers=0, announce=announced.append)
    events = train(
        plan.model_copy(update={"network": network}), training_data, output=FoldFolder(tmp_path), options=options
    )
    next(events), next(events)
    events.close()
    assert any("the output layers of fcn begin with random weights" in line for line in announced)


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        (build_labels({"a": (1,), "b": (2,)}), 3),
        (build_labels({"a": (1, 2), "b": (2,)}, region_write_values=(1, 2)), 2),
    ],
)
def test_there_is_one_probability_for_every_output(labels, count: int) -> None:
    assert list_loss_problems((build_tversky(*[0.3] * count),), labels) == ()
    (problem,) = list_loss_problems((build_tversky(*[0.1] * 4),), labels)
    assert problem.startswith(f"initial_probabilities must have {count} values for ")
