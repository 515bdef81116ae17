import math
import random
from dataclasses import replace

import pytest

from autoseg.training.budget.pace import (
    FEWEST_ITERATIONS_PER_EPOCH,
    FEWEST_VALIDATION_ITERATIONS,
    SHORTEST_EPOCH_SECONDS,
    Budget,
    StepTimes,
    adapt_to_pace,
    count_planned_epochs,
    estimate_epoch_seconds,
    estimate_pace,
    reschedule_remaining,
    schedule_within_budget,
)
from autoseg.training.optimization.schedule import Schedule

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
    schedule = schedule_within_budget(plan(), TIMES, float(seconds))
    taken = schedule.end_epoch * estimate_epoch_seconds(schedule, TIMES)
    assert 0.9 * seconds <= taken <= seconds


def test_a_short_budget_gets_about_a_hundred_short_epochs(plan):
    schedule = schedule_within_budget(plan(), TIMES, 3600.0)
    assert (schedule.iterations_per_epoch, schedule.validation_iterations_per_epoch) == (32, 6)
    assert 95 <= schedule.end_epoch <= 105


def test_a_long_budget_trains_what_is_planned_and_no_more(plan):
    schedule = schedule_within_budget(plan(), TIMES, 10_000_000.0)
    assert (schedule.end_epoch, schedule.iterations_per_epoch) == (1000, 250)


def test_the_rise_takes_at_most_a_tenth_of_the_training(plan):
    assert schedule_within_budget(plan(warmup_iterations=500), TIMES, 1200.0).warmup_iterations < 110
    assert schedule_within_budget(plan(warmup_iterations=500), TIMES, 1_000_000.0).warmup_iterations == 500


def adapt(*, pace, remaining, done=40, last=1000):
    return adapt_to_pace(
        SCHEDULE, next_epoch=done, last_epoch=last, epoch_seconds=pace, remaining_seconds=float(remaining)
    )


def test_a_machine_that_keeps_the_pace_keeps_its_schedule():
    assert adapt(pace=10.0, remaining=600) == SCHEDULE
    assert adapt(pace=10.9, remaining=600) == SCHEDULE
    assert adapt(pace=9.2, remaining=600) == SCHEDULE


@pytest.mark.parametrize(("pace", "end"), [(11.1, 94), (8.9, 107)])
def test_a_forecast_that_is_off_by_more_than_a_tenth_is_laid_out_anew(pace, end):
    assert adapt(pace=pace, remaining=600).end_epoch == end


@pytest.mark.parametrize("before", range(12))
def test_a_single_slow_epoch_tells_no_pace_and_five_in_a_row_do(before):
    slow, usual = 30.0, 10.0
    for after in range(3):
        assert estimate_pace([usual] * before + [slow] + [usual] * after, expected_seconds=usual) == usual
    assert estimate_pace([usual] * before + [slow] * 5, expected_seconds=usual) == slow


def test_a_schedule_that_was_just_laid_out_is_left_alone_unless_it_would_not_end_in_time():
    fresh = SCHEDULE.end_at(100, from_epoch=38)

    def adapt_fresh(pace, remaining):
        return adapt_to_pace(fresh, next_epoch=40, last_epoch=1000, epoch_seconds=pace, remaining_seconds=remaining)

    assert adapt_fresh(20.0, 600.0) == fresh
    assert adapt_fresh(5.0, 600.0) == fresh
    assert adapt_fresh(20.0, 95.0).end_epoch == 44
    assert adapt_fresh(20.0, -1.0).end_epoch == 40


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

    def __init__(self, plan, budget_seconds, pace, *, times=TIMES):
        self.now, self.done, self.epoch_seconds, self.layouts = 0.0, 0, [], 0
        self.budget = Budget(
            seconds=budget_seconds, reserved_seconds=budget_seconds / 30, start=0.0, clock=lambda: self.now
        )
        self.now = 25.0  # measuring takes time, too
        self.schedule = schedule_within_budget(plan, times, self.budget.remaining_seconds)
        self.expected_seconds = estimate_epoch_seconds(self.schedule, times)
        self.last_epoch = count_planned_epochs(plan, self.schedule)
        self.pace = pace

    def run(self):
        while self.done < self.schedule.end_epoch:
            seconds = self.expected_seconds * self.pace(self.now)
            self.now += seconds
            self.done += 1
            self.epoch_seconds.append(seconds)
            before = self.schedule
            self.schedule = adapt_to_pace(
                self.schedule,
                next_epoch=self.done,
                last_epoch=self.last_epoch,
                epoch_seconds=estimate_pace(self.epoch_seconds, expected_seconds=self.expected_seconds),
                remaining_seconds=self.budget.remaining_seconds,
            )
            self.layouts += self.schedule != before
        return self.now + self.budget.reserved_seconds


PACES = {
    "as measured": lambda now: 1.0,
    "slower": lambda now: 2.5,
    "faster": lambda now: 0.4,
    "slower from the middle on": lambda now: 1.0 if now < 1000 else 2.0,
    "faster from the middle on": lambda now: 1.0 if now < 1000 else 0.5,
    "restless": lambda now: 1.0 + 0.6 * math.sin(now / 50),
    "noisy": lambda now: random.Random(now).choice([0.8, 0.9, 1.0, 1.0, 1.1, 1.4]),
    "in two modes": lambda now: random.Random(now).choice([0.8, 1.5]),
    "slow once": lambda now: 4.0 if 600 < now < 620 else 1.0,
}


@pytest.mark.parametrize("name", PACES)
@pytest.mark.parametrize("budget_seconds", [1800.0, 7200.0])
def test_a_budget_is_kept_within_a_tenth_whatever_the_pace(plan, budget_seconds, name):
    machine = Machine(plan(epochs=100_000), budget_seconds, PACES[name])
    assert machine.run() == pytest.approx(budget_seconds, rel=0.1)
    assert machine.schedule.compute_progress(machine.done) == pytest.approx(
        1.0, abs=0.03
    )  # the learning rate has fallen


@pytest.mark.parametrize("budget_seconds", [240.0, 600.0, 1800.0, 7200.0])
@pytest.mark.parametrize(("name", "most"), [("as measured", 0), ("slow once", 1), ("slower", 2), ("noisy", 12)])
def test_a_training_is_laid_out_anew_a_few_times_only(plan, budget_seconds, name, most):
    machine = Machine(plan(epochs=100_000), budget_seconds, PACES[name])
    machine.run()
    assert machine.layouts <= most


@pytest.mark.parametrize("budget_seconds", [90.0, 240.0])
@pytest.mark.parametrize("name", ["as measured", "in two modes"])
def test_epochs_of_a_fast_machine_are_long_enough_for_its_pace_to_be_steady(plan, budget_seconds, name):
    times = replace(TIMES, iteration_seconds=0.02, validation_seconds=0.01)
    machine = Machine(plan(epochs=100_000), budget_seconds, PACES[name], times=times)
    assert machine.expected_seconds >= SHORTEST_EPOCH_SECONDS
    assert machine.run() == pytest.approx(budget_seconds, rel=0.1)
    assert machine.layouts <= (0 if name == "as measured" else 8)  # 11 where every epoch tells the pace


def test_short_epochs_tell_the_pace_together():
    epochs = [0.4, 0.8] * 50
    assert estimate_pace(epochs[:3], expected_seconds=0.5) == 0.5
    assert estimate_pace(epochs, expected_seconds=0.5) == pytest.approx(0.6, rel=0.05)
    assert estimate_pace([*epochs, 0.8], expected_seconds=0.5) == pytest.approx(0.6, rel=0.2)
    assert estimate_pace([*epochs, *[0.8] * 20], expected_seconds=0.5) == pytest.approx(0.8)


def test_what_is_less_than_a_hundredth_of_a_training_is_no_reason_to_lay_it_out_anew():
    fresh = SCHEDULE.end_at(100, from_epoch=80)
    ending = {"next_epoch": 96, "last_epoch": 1000, "epoch_seconds": 10.0}
    assert adapt_to_pace(fresh, **ending, remaining_seconds=31.0) == fresh
    assert adapt_to_pace(fresh, **ending, remaining_seconds=29.0).end_epoch == 98


def test_a_forecast_of_a_machine_that_warms_up_gives_no_epochs_of_a_few_iterations(plan):
    slow = replace(TIMES, iteration_seconds=3.0, validation_seconds=12.0)
    assert schedule_within_budget(plan(), slow, 65.0).iterations_per_epoch == FEWEST_ITERATIONS_PER_EPOCH


def test_epochs_of_a_short_budget_have_enough_iterations_to_tell_something(plan):
    for seconds in (30.0, 60.0, 240.0, 900.0):
        schedule = schedule_within_budget(plan(), TIMES, seconds)
        assert schedule.iterations_per_epoch >= FEWEST_ITERATIONS_PER_EPOCH
        assert schedule.validation_iterations_per_epoch >= FEWEST_VALIDATION_ITERATIONS
    assert schedule_within_budget(plan(), TIMES, 240.0).end_epoch == 8


def test_a_plan_of_short_epochs_keeps_them(plan):
    schedule = schedule_within_budget(plan(iterations_per_epoch=3, validation_iterations_per_epoch=2), TIMES, 240.0)
    assert (schedule.iterations_per_epoch, schedule.validation_iterations_per_epoch) == (3, 2)


def test_the_rest_of_a_training_fills_the_time_exactly(plan):
    rest = reschedule_remaining(plan(), SCHEDULE, TIMES, 600.0, epochs_done=40)
    assert (rest.first_epoch, rest.end_epoch, rest.first_progress) == (40, 40 + int(600 / 11), pytest.approx(0.4))
    assert reschedule_remaining(plan(), SCHEDULE, TIMES, 0.0, epochs_done=40).end_epoch == 41
