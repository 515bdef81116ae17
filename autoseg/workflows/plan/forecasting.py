"""A forecast of training a plan on this computer: time, memory and disk space, by configuration and fold."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from autoseg.dataset.folds import Splits
from autoseg.document import read_document
from autoseg.errors import RunError
from autoseg.fingerprint import Fingerprint
from autoseg.inference.options import DEFAULT_OPTIONS
from autoseg.inference.sliding_window.windows import count_passes
from autoseg.network_cost import MeasureCost, StepCost, count_checkpoint_bytes, count_voxel_bytes
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.label_prior import find_autoencoder_beside, plan_autoencoder_training
from autoseg.plan.training import TrainingPlan
from autoseg.preprocessing.cache import is_case_written
from autoseg.preprocessing.pipeline import compute_preprocessed_shape
from autoseg.run_folder import RunFolder
from autoseg.validation_conditions import FEWEST_SHARE, LARGEST_VALIDATION_SHARE
from autoseg.workflows.plan.machine_survey import CostEstimate, MachineSurvey, survey_cpu
from autoseg.workflows.plan.preprocessing import is_recipe_followed, select_data_configurations


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationForecast:
    """Forecast of one configuration; seconds are None where they are not known.

    Attributes:
        cost: Cost of its training steps.
        is_budgeted: Whether the plan has a budget, which then is the time of a fold, validation included.
        training_seconds: Training time of a fold.
        autoencoder_seconds: The part of it in which its label autoencoder is trained; 0 without one.
        validation_seconds: Time of a fold's validation: prediction of its held-out cases.
        preparation_seconds: Time before the first fold, for predictions of the previous stage.
        models_bytes: Checkpoints that a fold leaves.
        passing_bytes: Temporary disk space of a fold beside them while it is trained.
        prediction_bytes: Predicted label maps of a fold.
        least_budget_seconds: A shorter budget for a fold is refused, as far as that is known.
    """

    name: str
    cost: StepCost | None
    is_budgeted: bool
    training_seconds: float | None
    validation_seconds: float | None
    preparation_seconds: float
    models_bytes: int
    passing_bytes: int
    prediction_bytes: int
    least_budget_seconds: float = 0.0
    autoencoder_seconds: float = 0.0

    @property
    def fold_seconds(self) -> float | None:
        """Training and validation of one fold."""
        if self.training_seconds is None or self.validation_seconds is None:
            return None
        return self.training_seconds + self.validation_seconds

    @property
    def fold_bytes(self) -> int:
        """Disk space that a trained fold occupies."""
        return self.models_bytes + self.prediction_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """Forecast of a run.

    Attributes:
        folds: Number of folds.
        written_bytes: Preprocessed data that exists.
        missing_bytes: Upper bound of the preprocessed data that does not exist yet.
    """

    survey: MachineSurvey
    configurations: tuple[ConfigurationForecast, ...]
    folds: int
    written_bytes: int
    missing_bytes: int

    @property
    def fold_seconds(self) -> float | None:
        """One fold of every configuration."""
        return _add_up([forecast.fold_seconds for forecast in self.configurations])

    @property
    def total_seconds(self) -> float | None:
        """All folds of all configurations, one after the other."""
        return _add_up([self.compute_total(forecast) for forecast in self.configurations])

    @property
    def passing_bytes(self) -> int:
        """Temporary disk space while a fold is trained."""
        return max(forecast.passing_bytes for forecast in self.configurations)

    def compute_total(self, forecast: ConfigurationForecast) -> float | None:
        """All folds of a configuration."""
        seconds = forecast.fold_seconds
        return None if seconds is None else self.folds * seconds + forecast.preparation_seconds


def forecast_run(
    run_root: Path,
    *,
    configurations: Sequence[str],
    survey: Callable[[Plan, Sequence[str]], MachineSurvey],
    measure_cost: MeasureCost,
) -> RunForecast:
    """Forecasts the training of the named configurations, or of all, and of those that they need.

    Args:
        run_root: A planned run.
        configurations: Empty for all.
        survey: Finds out what configurations cost here.
        measure_cost: Counts what a network costs.
    """
    run = RunFolder(run_root)
    plan, splits = read_document(run.plan, Plan), read_document(run.splits, Splits)
    fingerprint = read_document(run.fingerprint, Fingerprint)
    names = list_trained(plan, configurations)
    autoencoders = list_autoencoder_trainings(plan, names)
    surveyed = plan.model_copy(update={"configurations": plan.configurations | autoencoders})
    found = survey(surveyed, (*names, *autoencoders))
    outlook = _Outlook(
        plan=surveyed, splits=splits, fingerprint=fingerprint, costs=found.costs, measure_cost=measure_cost
    )
    prediction_bytes = measure_folder(run.references) // len(splits.folds)
    written, missing = _measure_preprocessed(run, plan, fingerprint, configurations)
    return RunForecast(
        survey=found,
        configurations=tuple(outlook.forecast(name, prediction_bytes) for name in names),
        folds=len(splits.folds),
        written_bytes=written,
        missing_bytes=missing,
    )


def list_trained(plan: Plan, requested: Sequence[str]) -> tuple[str, ...]:
    """The requested configurations, or all, with the previous stages that they need, in the order of the plan."""
    chosen = set(requested or plan.configurations)
    needed = {stage for name in chosen for stage in plan.list_stages(name)}
    return tuple(name for name in plan.configurations if name in needed)


def list_autoencoder_trainings(plan: Plan, names: Sequence[str]) -> dict[str, ConfigurationPlan]:
    """Lists the trainings of the label autoencoders of configurations that train one, by names of their own."""
    found = {name_autoencoder(name): plan_autoencoder_training(plan.configurations[name]) for name in names}
    return {name: training for name, training in found.items() if training is not None}


def name_autoencoder(name: str) -> str:
    """Names the training of the label autoencoder of a configuration."""
    return f"{name}, label autoencoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outlook:
    """Inputs of the forecasts; the plan has the trainings of label autoencoders, too."""

    plan: Plan
    splits: Splits
    fingerprint: Fingerprint
    costs: Mapping[str, StepCost]
    measure_cost: MeasureCost

    def forecast(self, name: str, prediction_bytes: int) -> ConfigurationForecast:
        configuration = self.plan.configurations[name]
        budget, previous = configuration.training.budget_seconds, configuration.previous_configuration
        cost = self.costs.get(name)
        training, validation = budget, 0.0 if budget is not None else self._estimate_prediction(name)
        autoencoder = estimate_autoencoder(self.plan, name, self.costs)
        if budget is None and cost is not None:
            training = autoencoder + estimate_training_seconds(configuration.training, cost)
        models, passing = self._count_bytes(name)
        return ConfigurationForecast(
            name=name,
            cost=self._find_peak(name),
            is_budgeted=budget is not None,
            training_seconds=training,
            validation_seconds=None if validation is None else validation / len(self.splits.folds),
            preparation_seconds=0.0 if previous is None else self._estimate_prediction(previous) or 0.0,
            models_bytes=models,
            passing_bytes=passing,
            prediction_bytes=prediction_bytes,
            least_budget_seconds=0.0 if cost is None else estimate_least_budget(configuration.training, cost),
            autoencoder_seconds=autoencoder,
        )

    def _count_bytes(self, name: str) -> tuple[int, int]:
        """Counts what a fold leaves, and what it needs beside that meanwhile.

        A label autoencoder leaves its own checkpoints, and is kept in those of the network.
        """
        chosen, own = self.plan.configurations[name], name_autoencoder(name)
        network = self.measure_cost(chosen.network, chosen.patch_voxels, chosen.training.batch_size)
        models, passing = count_checkpoint_bytes(chosen, network.parameter_count)
        if own in self.plan.configurations:
            places = 1 if find_autoencoder_beside(chosen) is None else 2
            models += places * self._count_bytes(own)[0]
        return models, passing

    def _find_peak(self, name: str) -> StepCost | None:
        """Returns the cost of a configuration, with the memory of its label autoencoder where that needs more."""
        cost, own = self.costs.get(name), self.costs.get(name_autoencoder(name))
        if cost is None or own is None:
            return cost
        return cost.model_copy(update={"memory_bytes": max(cost.memory_bytes, own.memory_bytes)})

    def _estimate_prediction(self, name: str) -> float | None:
        """Estimates the prediction of the held-out cases of all folds."""
        cost = self.costs.get(name)
        if cost is None:
            return None
        return cost.window_seconds * count_windows(self.plan, name, self.fingerprint, self.splits)


def forecast_cpu_seconds(
    run: RunFolder,
    plan: Plan,
    name: str,
    epochs: int | None,
    *,
    estimate: CostEstimate,
    measure_cost: MeasureCost,
) -> float | None:
    """Forecasts training and validation of a fold on this computer's CPU, as far as its speed was measured before.

    Args:
        run: A planned run.
        plan: Its plan.
        name: Name of the configuration.
        epochs: Number of epochs; None for that of the plan.
        estimate: Estimates the costs of a configuration on the CPU.
        measure_cost: Counts what a network costs.
    """
    autoencoders = list_autoencoder_trainings(plan, (name,))
    surveyed = plan.model_copy(update={"configurations": plan.configurations | autoencoders})
    names = (name, *autoencoders)
    survey = survey_cpu(surveyed, names, estimate=estimate, measure=_refuse_to_measure, measure_cost=measure_cost)
    cost, training = survey.costs.get(name), plan.configurations[name].training
    if cost is None:
        return None
    if epochs is not None:
        training = training.model_copy(update={"epochs": epochs})
    splits = read_document(run.splits, Splits)
    windows = count_windows(plan, name, read_document(run.fingerprint, Fingerprint), splits)
    first = estimate_autoencoder(surveyed, name, survey.costs)
    return first + estimate_training_seconds(training, cost) + cost.window_seconds * windows / len(splits.folds)


def _refuse_to_measure() -> NoReturn:
    msg = "its speed was not measured yet"
    raise RunError(msg)


def estimate_training_seconds(training: TrainingPlan, cost: StepCost) -> float:
    """All epochs of a fold."""
    epoch = training.iterations_per_epoch * cost.iteration_seconds
    return training.epochs * (epoch + training.validation_iterations_per_epoch * cost.validation_seconds)


def estimate_autoencoder(plan: Plan, name: str, costs: Mapping[str, StepCost]) -> float:
    """Estimates the seconds in which the label autoencoder of a fold is trained; 0 where there is none, or its cost is
    not known."""
    own = name_autoencoder(name)
    if own not in costs:
        return 0.0
    return estimate_training_seconds(plan.configurations[own].training, costs[own])


def estimate_least_budget(training: TrainingPlan, cost: StepCost) -> float:
    """Seconds for a fold that hold as many iterations as `autoseg train --budget` demands, beside its validation."""
    iterations = FEWEST_SHARE * (training.sufficient_iterations or 0)
    return iterations * cost.iteration_seconds / (1 - LARGEST_VALIDATION_SHARE)


def count_windows(plan: Plan, name: str, fingerprint: Fingerprint, splits: Splits) -> int:
    """Windows, with their mirrored views, of the held-out cases of all folds."""
    configuration = plan.configurations[name]
    passes = {
        case.name: count_passes(
            compute_preprocessed_shape(case, plan, configuration.data_of), configuration, DEFAULT_OPTIONS
        )
        for case in fingerprint.cases
    }
    return sum(passes[case] for fold in splits.folds for case in fold.validation)


def _measure_preprocessed(
    run: RunFolder, plan: Plan, fingerprint: Fingerprint, configurations: Sequence[str]
) -> tuple[int, int]:
    """Bytes that are there, and at most those that are not: what the missing arrays take before they are compressed."""
    written = missing = 0
    for name in select_data_configurations(plan, configurations):
        folder = run.preprocessed(name)
        is_current = is_recipe_followed(run, plan, name)
        written += measure_folder(folder) if is_current else 0
        waiting = (case for case in fingerprint.cases if not (is_current and is_case_written(folder, case.name)))
        voxels = sum(math.prod(compute_preprocessed_shape(case, plan, name)) for case in waiting)
        missing += voxels * count_voxel_bytes(len(plan.channels))
    return written, missing


def measure_folder(folder: Path) -> int:
    """Bytes of its files; one that has several names counts in the share that these are of all."""
    entries = [path.stat() for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return sum(entry.st_size // max(1, entry.st_nlink) for entry in entries)


def _add_up(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None
