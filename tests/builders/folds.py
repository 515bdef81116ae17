"""Folds of four cases, and what their trainings leave: epochs, checkpoints, finished folds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold, Splits
from autoseg.document import read_document, write_document
from autoseg.networks import NETWORK_PREFIX, SegmentationNetwork, build_network
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder, write_text
from autoseg.training.checkpoint import CheckpointDescription, TrainingIdentity
from autoseg.training.monitoring.history import EpochRecord, PartialEpoch
from autoseg.training.optimization.schedule import Schedule
from autoseg.validation_conditions import ValidationConditions
from builders.evaluations import build_summary, build_values

SPLITS = Splits(
    folds=(
        Fold(training=("c", "d"), validation=("a", "b")),
        Fold(training=("a", "b"), validation=("c", "d")),
    )
)


def build_epoch_record(epoch: int = 0, **changes: Any) -> EpochRecord:
    """An epoch of a training with two classes, one of which did not occur; keyword arguments replace fields."""
    fields = {
        "epoch": epoch,
        "learning_rate": 0.01,
        "train_loss": 0.5,
        "validation_loss": 0.6,
        "pseudo_dice": (0.7, None),
        "mean_pseudo_dice": 0.7,
        "moving_average": 0.6,
        "seconds": 2.0,
        "seconds_per_iteration": 0.1,
        "data_wait_seconds": 0.2,
    }
    return EpochRecord.model_validate(fields | changes)


def build_checkpoint_description(*, epochs: int = 0, iterations: int = 0, **changes: Any) -> CheckpointDescription:
    """What a checkpoint says after whole epochs and some iterations of the next; other keywords replace fields."""
    partial = PartialEpoch(train_losses=(0.5,) * iterations, seconds=1.0, data_wait_seconds=0.0)
    fields = {
        "autoseg_version": "0",
        "identity": TrainingIdentity(plan_digest="", fold_digest="", seed=0),
        "schedule": Schedule(iterations_per_epoch=250, validation_iterations_per_epoch=50, end_epoch=100),
        "history": tuple(map(build_epoch_record, range(epochs))),
        "partial_epoch": partial if iterations else None,
        "scaler": None,
        "average_updates": None,
    }
    return CheckpointDescription.model_validate(fields | changes)


def finish_fold(
    run: RunFolder,
    configuration: str,
    fold: str,
    *,
    dice: float = 0.8,
    cases: tuple[str, ...] | None = None,
    validation: ValidationConditions | None = None,
) -> None:
    """Writes what a finished training leaves, in as far as others look for it; every case has the same Dice."""
    folder = run.fold(configuration, fold)
    write_text(folder.final_checkpoint, "weights")
    write_text(folder.plan, run.plan.read_text())
    held_out = cases or read_document(run.splits, Splits).folds[int(fold)].validation
    summary = build_summary({case: {"2": dice} for case in held_out}, class_names={"2": "big"})
    values = build_values(dice)
    told = {"foreground_mean": values, "mean": {"2": values}, "validation": validation}
    write_document(folder.summary, summary.model_copy(update=told))


def write_trained_fold(root: Path, plan: Plan, configuration: str, *, fold: str, seed: int = 0) -> SegmentationNetwork:
    """Writes a run with one trained fold, whose network is returned."""
    run = RunFolder(root)
    write_document(run.plan, plan)
    training = run.fold(configuration, fold)
    write_document(training.plan, plan)
    network = build_network(plan.configurations[configuration].network, torch.Generator().manual_seed(seed))
    weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(weights, training.final_checkpoint)
    return network


def read_arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, without its checksums, of which one covers the times of the epochs."""
    arrays: dict[str, np.ndarray] = load_file(checkpoint)
    arrays.pop("checksums", None)
    return arrays
