import math

import pytest

from autoseg.training.pace import (
    Budget,
    StepTimes,
    adapt_to_pace,
    count_planned_epochs,
    estimate_epoch_seconds,
    lay_out_budget,
)
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


class Machine:
    """Trains a schedule as a session does, on a clock of its own, with epochs that take what `pace` says."""

    def __init__(self, plan, budget_seconds, pace):
        self.now, self.done, self.epoch_seconds = 0.0, 0, []
        self.budget = Budget(seconds=budget_seconds, reserved_seconds=60.0, start=0.0, clock=lambda: self.now)
        self.now = 25.0  # measuring takes time, too
        self.schedule = lay_out_budget(plan, TIMES, self.budget.remaining_seconds)
        self.last_epoch = count_planned_epochs(plan, self.schedule)
        self.pace = pace

    def run(self):
        while self.done < self.schedule.end_epoch:
            seconds = estimate_epoch_seconds(self.schedule, TIMES) * self.pace(self.now)
            self.now += seconds
            self.done += 1
            self.epoch_seconds.append(seconds)
            self.schedule = adapt_to_pace(
                self.schedule,
                next_epoch=self.done,
                last_epoch=self.last_epoch,
                epoch_seconds=self.epoch_seconds,
                remaining_seconds=self.budget.remaining_seconds,
            )
        return self.now + self.budget.reserved_seconds


PACES = {
    "as measured": lambda now: 1.0,
    "slower": lambda now: 2.5,
    "faster": lambda now: 0.4,
    "slower from the middle on": lambda now: 1.0 if now < 1000 else 2.0,
    "faster from the middle on": lambda now: 1.0 if now < 1000 else 0.5,
    "restless": lambda now: 1.0 + 0.6 * math.sin(now / 50),
}


@pytest.mark.parametrize("name", PACES)
@pytest.mark.parametrize("budget_seconds", [1800.0, 7200.0])
def test_a_budget_is_kept_within_a_tenth_whatever_the_pace(plan, budget_seconds, name):
    machine = Machine(plan(epochs=100_000), budget_seconds, PACES[name])
    assert machine.run() == pytest.approx(budget_seconds, rel=0.1)
    assert machine.schedule.compute_progress(machine.done) == pytest.approx(
        1.0, abs=0.02
    )  # the learning rate has fallen
