"""Trains the label autoencoder of a fold before its network, where the plan has one."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.label_prior import (
    find_label_autoencoder,
    list_changed_fields,
    name_autoencoder_field,
    plan_autoencoder_training,
    refine_latents,
)
from autoseg.processes.progress import format_duration
from autoseg.run_folder import FoldFolder
from autoseg.training.budget.pace import Budget
from autoseg.training.checkpoint import read_description
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.trainer import train

LARGEST_BUDGET_SHARE: Final = 0.2  # of a budget; the network gets what is left
FOLDER_NAME: Final = "label_autoencoder"  # in the folder of the fold
SUFFICIENT_DICE: Final = 0.98  # of held-out patches; no network can be better than what the latents can describe


def train_label_autoencoder(
    plan: ConfigurationPlan, data: TrainingData, *, folder: Path, options: TrainingOptions
) -> Path | None:
    """Trains the label autoencoder of a fold, or finds it trained; None if the configuration has none, or the fold is
    finished.

    It is trained on the label maps of the fold's training cases alone, and interrupted and resumed as any training.

    Args:
        plan: The configuration.
        data: Data of the fold.
        folder: Folder of the fold, in which the autoencoder gets one of its own.
        options: Options of the training of the network, whose budget it shares.

    Returns:
        The checkpoint.

    Raises:
        TrainingError: The training cannot be continued, or failed.
    """
    own_plan = plan_autoencoder_training(plan)
    if own_plan is None or _is_finished(FoldFolder(folder), options.length):
        return None
    output = FoldFolder(folder / FOLDER_NAME)
    own = replace(
        options,
        initial_weights=None,
        initial_digest=None,
        teacher=None,
        teacher_digest=None,
        length=Length(),
        budget=_share_budget(options.budget),
        measure_dice=None,
        title=f"{options.title}, label autoencoder",
    )
    if not output.final_checkpoint.is_file():
        _announce(options, "trains the label autoencoder first, from the label maps of the training cases")
    begin = time.monotonic()
    previous = None if own_plan.previous_stage is None else data.previous
    events = list(train(own_plan, replace(data, previous=previous, synthetic=None), output=output, options=own))
    if events:
        spent = format_duration(time.monotonic() - begin)
        history = read_description(output.final_checkpoint).history
        told = describe_reconstruction(history, plan, configuration=folder.parent.name)
        _announce(options, f"label autoencoder trained in {spent}: {told}")
    return output.final_checkpoint


def describe_reconstruction(history: Sequence[EpochRecord], plan: ConfigurationPlan, *, configuration: str) -> str:
    """Describes how well held-out label maps are reconstructed; where that limits the network, also what to change."""
    mean = history[-1].mean_pseudo_dice
    if mean is None:
        return "no held-out patch shows a class, so its reconstruction is not measured"
    text = f"it reconstructs held-out patches with a mean Dice of {mean:.3f}"
    if mean >= SUFFICIENT_DICE:
        return text
    iterations = find_label_autoencoder(plan)
    assert iterations is not None, "one was trained"
    limited = "the network" if plan.training.plausibility is None else "what the plausibility tells"
    more = (
        f"raise training.{name_autoencoder_field(plan)}.autoencoder_iterations, now {iterations[1]}, in plan.json "
        f"under configurations.{configuration}, or give more time"
    )
    return f"{text}; warning: below {SUFFICIENT_DICE}, which limits {limited}: {more}{_advise_finer(plan)}"


def _advise_finer(plan: ConfigurationPlan) -> str:
    """Says what to change in plan.json for finer latents; empty where they cannot be finer."""
    finer = refine_latents(plan)
    if finer is None:
        return ""
    changes = (f"{key} from {old} to {new}" for key, (old, new) in list_changed_fields(plan, finer).items())
    return (
        f"; if that does not suffice, make its latents finer, which takes more memory: change there "
        f"{', '.join(changes)}; then begin anew with --restart"
    )


def _is_finished(fold: FoldFolder, length: Length) -> bool:
    """Whether nothing is left to train, so that the folder of the autoencoder may have been removed."""
    return length == Length() and fold.final_checkpoint.is_file() and not fold.latest_checkpoint.is_file()


def _share_budget(budget: Budget | None) -> Budget | None:
    if budget is None:
        return None
    seconds = LARGEST_BUDGET_SHARE * budget.remaining_seconds
    return Budget(seconds=max(1.0, seconds), reserved_seconds=0.0, start=budget.clock(), clock=budget.clock)


def _announce(options: TrainingOptions, text: str) -> None:
    if options.process_group.is_main_process:
        options.announce(text)
