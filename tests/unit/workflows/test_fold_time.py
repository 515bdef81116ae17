"""Whether the time of a fold is enough, told from a forecast of a machine of known pace."""

from dataclasses import replace

import pytest
import torch
from builders.folds import build_checkpoint_description, build_epoch_record
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold
from autoseg.document import read_document
from autoseg.errors import TrainingError
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.training.budget.pace import Budget, Forecast, StepTimes
from autoseg.training.optimization.schedule import Schedule
from autoseg.workflows.folds.status import ValidationChoice
from autoseg.workflows.train.fold_time import FoldTime, check_forecast, find_fold_time, format_budget
from autoseg.workflows.train.job import FoldJob
from autoseg.workflows.train.request import TrainingRequest

TIMES = StepTimes(
    data_seconds=0.1, forward_seconds=0.3, backward_seconds=0.6, iteration_seconds=1.0, validation_seconds=0.5
)


@pytest.fixture
def make_job(run):
    """Of the configuration 2d, whose plan needs 2,000 iterations."""

    def make(**training):
        plan = read_document(run.plan, Plan)
        part = plan.configurations["2d"]
        changed = part.training.model_copy(update={"epochs": 1000, "sufficient_iterations": 2000} | training)
        configurations = {**plan.configurations, "2d": part.model_copy(update={"training": changed})}
        return FoldJob(
            run=run,
            plan=plan.model_copy(update={"configurations": configurations}),
            configuration="2d",
            fold="0",
            cases=Fold(training=("c", "d"), validation=("a", "b")),
            device=torch.device("cpu"),
        )

    return make


def forecast_epochs(epochs, *, seconds):
    """Of epochs of 25 iterations and 4 of validation, which take 27 s."""
    return Forecast(
        times=TIMES,
        schedule=Schedule(iterations_per_epoch=25, validation_iterations_per_epoch=4, end_epoch=epochs),
        budget_seconds=seconds,
        training_seconds=27.0 * epochs,
        reserved_seconds=0.0,
    )


def make_time(seconds, *, reserved=0.0, whole=0.0):
    budget = Budget(seconds=seconds, reserved_seconds=reserved, start=0.0, clock=lambda: 20.0)
    choice = ValidationChoice(cases=("a", "b"), held_out_cases=2, seconds=reserved, whole_seconds=whole)
    return FoldTime(budget=budget, validation=choice)


def refuse(job, fold_time, *, epochs=7):
    with pytest.raises(TrainingError) as refused:
        check_forecast(job, forecast_epochs(epochs, seconds=fold_time.budget.seconds), fold_time, None)
    return str(refused.value)


def save(path, **reached):
    path.parent.mkdir(parents=True, exist_ok=True)
    description = build_checkpoint_description(**reached)
    save_file({"network.x": torch.zeros(1)}, path, metadata={"autoseg": description.model_dump_json()})
    return description


def test_the_budget_of_the_plan_does_not_cut_an_extension_that_is_continued(make_job):
    job = make_job(budget_seconds=60.0)
    save(job.folder.final_checkpoint, epochs=100)
    begun = save(job.folder.latest_checkpoint, epochs=101)
    assert find_fold_time(job, TrainingRequest(), begun, SilentProgress()) == FoldTime()


def test_less_than_a_tenth_is_refused_before_training_and_the_time_that_would_do_is_named(make_job):
    told = refuse(make_job(), make_time(240.0))
    assert "2d, fold 0: in 4:00 this machine trains 175 of the 2,000 iterations that the plan needs at least" in told
    assert "nothing was trained" in told
    # 2,000 iterations in 80 epochs of 27 s, measuring 20 s, and a twentieth more: 38.15 minutes
    assert "give --budget 39m" in told
    assert "autoseg plan DATASET --run OTHER --planner timed --budget 240s" in told
    assert "hold fewer cases out" not in told


def test_the_time_that_would_do_holds_a_whole_validation_up_to_a_third(make_job):
    assert "give --budget 48m" in refuse(make_job(), make_time(240.0, whole=540.0))
    # at most half of the 2,160 s of training, which is a third of both
    assert "give --budget 58m" in refuse(make_job(), make_time(240.0, whole=5000.0))


def test_a_validation_that_takes_much_of_the_time_is_named(make_job):
    told = refuse(make_job(), make_time(240.0, reserved=60.0, whole=60.0))
    assert "hold fewer cases out (autoseg plan --splits) or none (--fold all): validation takes 1:00" in told


def test_a_plan_by_time_is_to_be_made_again_rather_than_made_smaller(make_job):
    told = refuse(make_job(budget_seconds=216.0), make_time(216.0))
    assert "plan again while nothing else uses this machine" in told
    assert "--planner test --budget 39m" in told


def test_what_is_trained_already_counts(make_job):
    begun = build_checkpoint_description(
        schedule=forecast_epochs(7, seconds=240.0).schedule,
        history=(build_epoch_record(seconds=27.0, seconds_per_iteration=1.0),) * 40,
    )
    with pytest.raises(TrainingError, match="give --budget 20m"):
        check_forecast(make_job(), forecast_epochs(7, seconds=240.0), make_time(240.0), begun)


def test_a_plan_that_has_no_more_iterations_is_not_refused_for_lack_of_time(make_job):
    job = make_job(epochs=7, iterations_per_epoch=25)
    check_forecast(job, forecast_epochs(7, seconds=3600.0), make_time(3600.0), None)


def test_a_tenth_is_enough_to_begin(make_job):
    check_forecast(make_job(), forecast_epochs(8, seconds=240.0), make_time(240.0), None)


def test_without_a_budget_or_a_known_need_nothing_is_refused(make_job):
    check_forecast(make_job(), forecast_epochs(1, seconds=None), FoldTime(), None)
    unknown = make_job(sufficient_iterations=None)
    check_forecast(unknown, forecast_epochs(1, seconds=30.0), make_time(30.0), None)
    endless = forecast_epochs(1, seconds=30.0)
    endless = replace(endless, schedule=endless.schedule.model_copy(update={"end_epoch": None}))
    check_forecast(make_job(), endless, make_time(30.0), None)


@pytest.mark.parametrize(
    ("seconds", "name"), [(31.0, "40s"), (300.0, "300s"), (301.0, "6m"), (3599.0, "1h0m"), (5400.0, "1h30m")]
)
def test_times_are_named_as_the_command_takes_them_and_rounded_up(seconds, name):
    assert format_budget(seconds) == name
