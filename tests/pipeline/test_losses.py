"""Another loss than the usual one, from the plan to a training that was interrupted."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from builders.balls import write_balls
from builders.fingerprints import build_case, build_fingerprint
from builders.labels import build_labels
from builders.plans import build_configuration, shorten

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.errors import RunError
from autoseg.plan import Plan
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.training.checkpoint import read_checkpoint
from autoseg.training.data.training_data import TrainingData
from autoseg.training.losses.targets import build_class_masks
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.monitoring.events import Event, IterationDone
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train
from planners.losses import LOSS_RULES

LOSS = "boundary+border_weighted_cross_entropy+cldice"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("data") / "Dataset001_Balls", cases=2)


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planned with three losses at once, and an epoch of two iterations."""
    run = tmp_path_factory.mktemp("runs") / "balls.autoseg"
    planner = find_planner("default", loss=LOSS)
    autoseg.plan_dataset(dataset, run, planner=planner, configurations=["2d"], workers=1)
    shorten(run, "2d", epochs=1, iterations=2)
    return run


def keep_iterations(events: Iterator[Event]) -> Iterator[IterationDone]:
    return (event for event in events if isinstance(event, IterationDone))


def start_training(run: Path, output: Path) -> Iterator[Event]:
    plan = read_document(RunFolder(run).plan, Plan)
    data = TrainingData(
        labels=plan.labels,
        channels=plan.channels,
        folder=RunFolder(run).preprocessed("2d"),
        fold=read_document(RunFolder(run).splits, Splits).folds[0],
    )
    options = TrainingOptions(
        device=torch.device("cpu"),
        seed=0,
        workers=0,
        seconds_between_partial_checkpoints=0.0,
        largest_saving_share=1.0,
    )
    return train(plan.configurations["2d"], data, output=FoldFolder(output), options=options)


@pytest.fixture(scope="module")
def whole(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A training without an interruption, and its losses."""
    output = tmp_path_factory.mktemp("whole") / "fold"
    return output, [event.loss for event in keep_iterations(start_training(run, output))]


@pytest.mark.parametrize("done", [1, 2])
def test_a_training_that_is_interrupted_ends_as_if_nothing_had_happened(
    run: Path, whole: tuple[Path, list[float]], tmp_path: Path, done: int
) -> None:
    """After one of two iterations the weights of the terms have changed by half, before the validation by all."""
    output, losses = whole
    events = start_training(run, tmp_path)
    assert [event.loss for event in islice(keep_iterations(events), done)] == losses[:done]
    events.close()  # type: ignore[attr-defined]
    assert [event.loss for event in keep_iterations(start_training(run, tmp_path))] == losses[done:]
    expected, found = (read_checkpoint(FoldFolder(folder).final_checkpoint).tensors for folder in (output, tmp_path))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("loss", "progress", "has_regions"),
    [
        (loss, progress, has_regions)
        for loss, progress in [*((loss, 0.0) for loss in LOSS_RULES), ("boundary", 1.0)]
        for has_regions in (False, True)
        if (loss, has_regions) != ("border_weighted_cross_entropy", True)  # refused
    ],
)
def test_what_every_planned_loss_makes_small_is_the_difference_from_the_reference(
    loss: str, progress: float, has_regions: bool
) -> None:
    """Logits that follow the gradient, without a network, become those of the reference."""
    values, written = ((1, 2), (1, 2)) if has_regions else ((1,), None)
    labels = build_labels({"organ": values, "core": (2,)}, region_write_values=written)
    label_map = torch.zeros((1, 14, 14), dtype=torch.int16)
    label_map[0, 2:9, 3:10], label_map[0, 4:7, 5:7] = 1, 2
    case = build_case((1.0, 1.0, 1.0), (1, 14, 14), voxel_counts=(43, 6))
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (1, 14, 14), cases=(case,), labels=labels)
    terms = LOSS_RULES[loss].choose(fingerprint, build_configuration((14, 14))).value
    logits = torch.zeros((1, labels.output_channel_count, 14, 14), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    compute_loss = WeightedLoss(terms=terms, labels=labels, spacing_mm=(1.0, 1.0))
    for _ in range(60):
        optimizer.zero_grad()
        compute_loss([logits], label_map, (1.0,), progress=progress).backward()
        optimizer.step()
    truth = build_class_masks(label_map, labels)
    found = logits > 0 if has_regions else build_class_masks(logits.argmax(1).to(torch.int16), labels)
    assert torch.equal(found, truth)


def test_the_plan_says_which_loss_was_asked_for(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    assert plan["planner"] == f"default --loss {LOSS}"
    names = [term["name"] for term in plan["configurations"]["2d"]["training"]["losses"]]
    assert names == ["generalized_dice", "boundary", "border_weighted_cross_entropy", "dice", "cldice"]


@pytest.mark.parametrize("loss", ["dice+cross_entropy", "boundary"])
def test_planning_again_with_another_loss_is_another_plan(dataset: Path, run: Path, loss: str) -> None:
    before = (run / "plan.json").read_bytes()
    with pytest.raises(
        RunError, match=rf"was planned with the planner 'default --loss {LOSS.replace('+', '.')}'.*--run"
    ):
        autoseg.plan_dataset(dataset, run, planner=find_planner("default", loss=loss), workers=1)
    assert (run / "plan.json").read_bytes() == before


def test_planning_again_with_the_same_loss_continues(dataset: Path, run: Path) -> None:
    again = autoseg.plan_dataset(
        dataset, run, planner=find_planner("default", loss=LOSS), configurations=["2d"], workers=1
    )
    assert again.configurations["2d"].training.epochs == 1
