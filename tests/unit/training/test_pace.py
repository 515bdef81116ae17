import pytest

from autoseg.training.pace import Budget, StepTimes, adapt_to_pace, estimate_epoch_seconds, lay_out_budget
from autoseg.training.schedule import Schedule

TIMES = StepTimes(
    data_seconds=0.1, forward_seconds=0.3, backward_seconds=0.6, iteration_seconds=1.0, validation_seconds=0.5
)
SCHEDULE = Schedule(iterations_per_epoch=10, validation_iterations_per_epoch=2, end_epoch=100)


@pytest.fixture
def plan(plan_configuration):
    def make(**changes):
        values = {"epochs": 1000, "iterations_per_epoch": 250, "validation_iterations_per_epoch": 50}
        return plan_configuration(**values | changes).training

    return make


@pytest.mark.parametrize("seconds", [30, 600, 3600, 36_000, 200_000])
def test_a_budget_is_filled_but_not_exceeded(plan, seconds):
    schedule = lay_out_budget(plan(), TIMES, float(seconds))
    taken = schedule.end_epoch * estimate_epoch_seconds(schedule, TIMES)
    assert 0.9 * seconds <= taken <= seconds


def test_a_short_budget_gets_about_a_hundred_short_epochs(plan):
    schedule = lay_out_budget(plan(), TIMES, 3600.0)
    assert (schedule.iterations_per_epoch, schedule.validation_iterations_per_epoch) == (32, 6)
    assert 95 <= schedule.end_epoch <= 105


def test_a_long_budget_trains_what_is_planned_and_no_more(plan):
    schedule = lay_out_budget(plan(), TIMES, 10_000_000.0)
    assert (schedule.end_epoch, schedule.iterations_per_epoch) == (1000, 250)


def test_the_rise_takes_at_most_a_tenth_of_the_training(plan):
    assert lay_out_budget(plan(warmup_iterations=500), TIMES, 1200.0).warmup_iterations < 110
    assert lay_out_budget(plan(warmup_iterations=500), TIMES, 1_000_000.0).warmup_iterations == 500


def adapt(*, pace, remaining, done=40, last=1000):
    seconds = [99.0, *[pace] * 5]
    return adapt_to_pace(
        SCHEDULE, next_epoch=done, last_epoch=last, epoch_seconds=seconds, remaining_seconds=float(remaining)
    )


def test_a_machine_that_keeps_the_pace_keeps_its_schedule():
    assert adapt(pace=10.0, remaining=600) == SCHEDULE
    assert adapt(pace=10.1, remaining=600) == SCHEDULE


@pytest.mark.parametrize(("pace", "end"), [(20.0, 70), (5.0, 160)])
def test_a_slower_or_faster_machine_ends_in_time(pace, end):
    adapted = adapt(pace=pace, remaining=600)
    assert (adapted.first_epoch, adapted.end_epoch) == (40, end)
    assert adapted.first_progress == pytest.approx(0.4)


def test_a_faster_machine_trains_no_more_than_planned():
    assert adapt(pace=5.0, remaining=600, last=120).end_epoch == 120


def test_no_time_left_ends_the_training():
    assert adapt(pace=10.0, remaining=-5).end_epoch == 40


def test_what_is_left_of_a_budget_shrinks_with_the_clock():
    now = [100.0]
    budget = Budget(seconds=60.0, reserved_seconds=10.0, start=100.0, clock=lambda: now[0])
    assert budget.remaining_seconds == 50
    now[0] = 130.0
    assert budget.remaining_seconds == 20
