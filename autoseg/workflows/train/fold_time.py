"""Divides the time budget of one fold between training and validation, and checks that it is enough."""

import math
import time
from dataclasses import dataclass
from typing import Final

from autoseg.errors import TrainingError, quote_path
from autoseg.processes.progress import Progress, format_duration
from autoseg.run_folder import ALL_CASES
from autoseg.training.budget.pace import Budget, Forecast, count_iterations, estimate_epoch_seconds
from autoseg.training.checkpoint import CheckpointDescription, read_description
from autoseg.training.options import Length
from autoseg.validation_conditions import LARGEST_VALIDATION_SHARE as LARGEST_SHARE
from autoseg.validation_conditions import is_hopeless
from autoseg.workflows.evaluate.validation_cost import fit_validation, measure_validation_cost
from autoseg.workflows.folds.status import ValidationChoice, has_final_model, read_validation
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest

MARGIN: Final = 1.05  # added to recommended budgets
MENTIONED_VALIDATION_FRACTION: Final = 0.1  # of a budget; a longer validation is mentioned
SECONDS_NAMED_IN_MINUTES: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldTime:
    """Division of the time of a fold.

    Attributes:
        budget: Budget of the training and what follows it; None if there is no limit or nothing is left to train.
        validation: Validation that fits into the time; None for a whole one.
    """

    budget: Budget | None = None
    validation: ValidationChoice | None = None


def find_fold_time(
    job: FoldJob, request: TrainingRequest, checkpoint: CheckpointDescription | None, progress: Progress
) -> FoldTime:
    """Divides the requested or planned time, after measuring how long validation takes on this machine.

    A requested budget starts now. The plan's budget includes the time spent in earlier calls, and does not apply where
    a number of epochs is requested, or more of them were for a training that is finished.

    Raises:
        TrainingError: Validation takes too much of the time, even when reduced as far as possible.
        RunError: A preprocessed case or reference is missing.
    """
    planned = job.configuration_plan.training.budget_seconds
    limit = request.budget_seconds
    if limit is None and request.length == Length():
        limit = None if _is_extension_begun(job, checkpoint) else planned
    elif limit is None and planned is not None and request.length.epochs is not None:
        progress.note(f"--epochs decides, so the budget of the plan ({format_duration(planned)}) does not hold")
    if limit is None:
        return FoldTime()
    if checkpoint is not None and has_final_model(job.folder) and request.length.more_epochs is None:
        return FoldTime(validation=_refit_validation(job, request, limit, progress))
    start = time.monotonic()
    progress.note("measuring how fast this machine trains and validates")
    validation = _fit_into_third(job, limit, progress)
    spent = 0.0 if checkpoint is None or request.budget_seconds is not None else checkpoint.spent_seconds
    reserved = 0.0 if validation is None else validation.seconds
    return FoldTime(budget=Budget(seconds=limit - spent, reserved_seconds=reserved, start=start), validation=validation)


def _is_extension_begun(job: FoldJob, checkpoint: CheckpointDescription | None) -> bool:
    final = job.folder.final_checkpoint
    return checkpoint is not None and final.is_file() and read_description(final).reached < checkpoint.reached


def _refit_validation(
    job: FoldJob, request: TrainingRequest, limit_seconds: float, progress: Progress
) -> ValidationChoice | None:
    """Returns the existing validation of a finished training, unless there is time for a better one."""
    found = None if job.fold == ALL_CASES else read_validation(job.folder, job.cases.validation)
    if found is None:
        return _fit_into_third(job, limit_seconds, progress)
    existing = found.choice
    if not existing.limits:
        return None
    if request.budget_seconds is not None:
        chosen = _measure_and_fit(job, limit_seconds, validation_seconds=limit_seconds)
        if chosen.seconds <= limit_seconds and chosen.is_better_than(existing):
            return chosen
    progress.note(f"the validation there is does with {'; '.join(existing.limits)}: {_advise_whole(job)}")
    return existing


def _fit_into_third(job: FoldJob, limit_seconds: float, progress: Progress) -> ValidationChoice | None:
    """Fits the validation into a third of the time; warns if it is not a whole one.

    Raises:
        TrainingError: Not even one case can be predicted and evaluated in that time.
    """
    if job.fold == ALL_CASES or not job.cases.validation:
        return None
    chosen = _measure_and_fit(job, limit_seconds, validation_seconds=LARGEST_SHARE * limit_seconds)
    limit, seconds = format_duration(limit_seconds), format_duration(chosen.seconds)
    if chosen.seconds > LARGEST_SHARE * limit_seconds:
        msg = (
            f"validation takes at most a third of a budget, here of {limit}, but a single held-out case takes "
            f"{seconds} on this machine; give --budget {format_budget(chosen.seconds / LARGEST_SHARE)} or more, or "
            f"train on all cases and validate none: --fold all"
        )
        raise TrainingError(msg)
    if chosen.limits:
        progress.note(
            f"warning: a whole validation would take {format_duration(chosen.whole_seconds)}, more than a third of "
            f"{limit}; this one takes {seconds}: {'; '.join(chosen.limits)}. Compare its scores with none of a whole "
            f"one; {_advise_whole(job)}"
        )
    return chosen


def _measure_and_fit(job: FoldJob, limit_seconds: float, *, validation_seconds: float) -> ValidationChoice:
    cases = job.cases.validation
    cost = measure_validation_cost(
        job.run, job.plan, job.configuration, cases=cases, device=job.device, limit_seconds=limit_seconds
    )
    return fit_validation(cost, cases, limit_seconds=validation_seconds)


def _advise_whole(job: FoldJob) -> str:
    command = f"autoseg train {quote_path(job.run.root)} --configuration {job.configuration} --fold {job.fold}"
    return f"a whole one is made by autoseg select {quote_path(job.run.root)}, or afterwards by {command} --budget TIME"


def check_forecast(
    job: FoldJob, forecast: Forecast, fold_time: FoldTime, checkpoint: CheckpointDescription | None
) -> None:
    """Checks that a training within a budget has enough iterations.

    Raises:
        TrainingError: It has less than a tenth of the iterations that the plan needs.
    """
    budget, plan = fold_time.budget, job.configuration_plan.training
    iterations, needed = count_iterations(forecast.schedule), plan.sufficient_iterations
    if budget is None or needed is None or iterations is None or not is_hopeless(iterations, needed):
        return
    if iterations >= plan.epochs * plan.iterations_per_epoch:
        return  # the plan itself has no more iterations, so time is not the reason
    done = 0 if checkpoint is None else checkpoint.trained_iterations
    enough = format_budget(_estimate_enough_seconds(forecast, budget, fold_time.validation, iterations=needed - done))
    ways = [
        f"give --budget {enough}, which is enough for {needed:,} on this machine",
        _advise_smaller_plan(job, budget, enough),
    ]
    if budget.reserved_seconds >= MENTIONED_VALIDATION_FRACTION * budget.seconds:
        ways.append(
            f"hold fewer cases out (autoseg plan --splits) or none (--fold all): validation takes "
            f"{format_duration(budget.reserved_seconds)} of the time"
        )
    msg = (
        f"{job.configuration}, fold {job.fold}: in {format_duration(max(0.0, budget.seconds))} this machine trains "
        f"{iterations:,} of the {needed:,} iterations that the plan needs at least. Less than a tenth is too little; "
        f"nothing was trained. One of these helps:"
    )
    raise TrainingError("".join([msg, *(f"\n  - {way}" for way in ways)]))


def _estimate_enough_seconds(
    forecast: Forecast, budget: Budget, validation: ValidationChoice | None, *, iterations: int
) -> float:
    """Estimates a budget for so many iterations, of which validation takes at most a third."""
    schedule = forecast.schedule
    training_seconds = iterations * estimate_epoch_seconds(schedule, forecast.times) / schedule.iterations_per_epoch
    whole_seconds = 0.0 if validation is None else validation.whole_seconds
    validation_seconds = min(whole_seconds, training_seconds * LARGEST_SHARE / (1 - LARGEST_SHARE))
    return MARGIN * (training_seconds + validation_seconds + budget.clock() - budget.start)


def _advise_smaller_plan(job: FoldJob, budget: Budget, enough: str) -> str:
    if job.configuration_plan.training.budget_seconds is None:
        given = format_budget(budget.seconds)
        return f"plan a smaller network: autoseg plan DATASET --run OTHER --planner timed --budget {given}"
    return (
        f"plan again while nothing else uses this machine: autoseg plan DATASET --run OTHER "
        f"--planner {job.plan.planner} --budget {enough} (or less)"
    )


def format_budget(seconds: float) -> str:
    """Formats a time for --budget, rounded up: 40s, 25m or 1h30m."""
    if seconds <= SECONDS_NAMED_IN_MINUTES:
        return f"{math.ceil(seconds / 10) * 10}s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours}h{minutes}m" if hours else f"{minutes}m"
