import math

import pytest
import torch

from autoseg.training.data.randomness import Phase
from autoseg.training.optimization.schedule import Schedule, build_schedule, compute_learning_rate, find_phase

THREE_A_EPOCH = {"iterations_per_epoch": 3, "validation_iterations_per_epoch": 1}


@pytest.fixture
def plan(plan_configuration):
    return lambda **changes: plan_configuration(**changes).training


def list_rates(plan, schedule, epochs):
    return [
        compute_learning_rate(plan, schedule, epoch=epoch, iteration=iteration)
        for epoch in epochs
        for iteration in range(schedule.iterations_per_epoch)
    ]


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.01), (500, 0.01 * 0.5**0.9), (750, 0.01 * 0.25**0.9), (999, 0.01 * 0.001**0.9)]
)
def test_the_polynomial_rate_falls_to_almost_nothing_and_is_constant_within_an_epoch(plan, epoch, rate):
    schedule = build_schedule(plan(), epochs=1000)
    found = [compute_learning_rate(plan(), schedule, epoch=epoch, iteration=iteration) for iteration in (0, 1, 2)]
    assert found == pytest.approx([rate] * 3, rel=1e-12)


def test_the_cosine_falls_in_every_iteration(plan):
    cosine = plan(schedule={"name": "cosine"})
    rates = list_rates(cosine, build_schedule(cosine, epochs=4), range(4))
    assert rates == [pytest.approx(0.005 * (1 + math.cos(math.pi * step / 12))) for step in range(12)]


def test_a_constant_rate_stays(plan):
    constant = plan(schedule={"name": "constant"})
    assert set(list_rates(constant, build_schedule(constant, epochs=4), range(4))) == {0.01}


def test_the_rate_rises_over_the_warm_up(plan):
    warm = plan(schedule={"name": "constant"}, warmup_iterations=4)
    rates = list_rates(warm, build_schedule(warm, epochs=4), range(2))
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01, 0.01])


def test_without_an_end_the_rate_stays_and_then_falls_from_there(plan):
    for rule in ({"name": "polynomial", "exponent": 0.9}, {"name": "cosine"}):
        falling = plan(schedule=rule)
        open_ended = build_schedule(falling, epochs=None)
        assert set(list_rates(falling, open_ended, range(50))) == {0.01}
        ended = open_ended.end_at(60, from_epoch=50)
        rates = list_rates(falling, ended, range(50, 60))
        assert rates[0] == pytest.approx(0.01)
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.002


def test_another_end_goes_on_from_the_same_rate_and_still_reaches_nothing(plan):
    cosine = plan(schedule={"name": "cosine"})
    before = build_schedule(cosine, epochs=100)
    after = before.end_at(60, from_epoch=40)
    at_change = [compute_learning_rate(cosine, schedule, epoch=40, iteration=0) for schedule in (before, after)]
    assert at_change[0] == pytest.approx(at_change[1])
    assert compute_learning_rate(cosine, after, epoch=59, iteration=2) < 1e-5
    assert after.compute_progress(60) == pytest.approx(1)


def test_a_warm_up_is_not_begun_again_by_another_end(plan):
    warm = plan(schedule={"name": "constant"}, warmup_iterations=9)
    before = build_schedule(warm, epochs=100)
    after = before.end_at(60, from_epoch=1)
    assert list_rates(warm, after, range(1, 3)) == list_rates(warm, before, range(1, 3))


def test_an_extension_rises_to_half_the_rate_and_falls_again(plan):
    polynomial = plan()
    extended = build_schedule(polynomial, epochs=10).extend(5, from_epoch=10)
    rates = list_rates(polynomial, extended, range(10, 15))
    assert rates[:3] == pytest.approx([0.00125, 0.0025, 0.00375])
    assert rates[3] == max(rates) == pytest.approx(0.005 * 0.8**0.9)
    assert rates[-1] == pytest.approx(0.005 * 0.2**0.9)


ON_PLATEAU = {"name": "on_plateau", "factor": 0.5, "patience_epochs": 2, "smallest_improvement": 0.01}


def list_reductions(plan, measurements, schedule=None):
    """The factor on the learning rate in the epoch after each measurement."""
    planned = plan(schedule=ON_PLATEAU)
    schedule = schedule or build_schedule(planned, epochs=len(measurements))
    return [
        compute_learning_rate(planned, schedule, epoch=done, iteration=1, measurements=measurements[:done]) / 0.01
        for done in range(1, len(measurements) + 1)
    ]


def test_on_a_plateau_the_rate_falls_when_the_patience_is_over(plan):
    assert list_reductions(plan, [0.1, 0.2, 0.205, 0.2, 0.1, 0.2, 0.3, 0.3, 0.3]) == pytest.approx(
        [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]
    )
    assert list_reductions(plan, [0.5] * 8) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_the_rate_on_a_plateau_is_that_of_pytorch(plan):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=2, threshold=0.01, threshold_mode="abs", eps=0
    )
    measurements = (0.5 + 0.01 * torch.randn(60, generator=torch.Generator().manual_seed(0)).cumsum(0)).tolist()
    expected = []
    for measurement in measurements:
        theirs.step(measurement)
        expected.append(optimizer.param_groups[0]["lr"])
    assert list_reductions(plan, measurements) == pytest.approx(expected)
    assert expected[-1] < 0.1


def test_an_epoch_without_a_measurement_counts_neither_way(plan):
    assert list_reductions(plan, [0.5, None, 0.5, None, 0.5, 0.5])[-2:] == pytest.approx([1, 0.5])


def test_a_plateau_before_an_extension_does_not_count_in_it(plan):
    planned = plan(schedule=ON_PLATEAU)
    extended = build_schedule(planned, epochs=8).extend(9, from_epoch=8)
    assert list_reductions(plan, [0.5] * 12, extended)[8:] == pytest.approx([0.5, 0.5, 0.5, 0.25])
    ended_early = extended.end_at(14, from_epoch=10)
    assert list_reductions(plan, [0.5] * 12, ended_early)[8:] == pytest.approx([0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("fraction", "epochs", "last"), [(0.0, 10, 9), (0.3, 10, 6), (0.1, 10, 8), (0.05, 10, 9), (0.5, 3, 1), (1.0, 4, -1)]
)
def test_augmentation_ends_before_the_last_share_of_the_training(plan, fraction, epochs, last):
    ending = plan(augmentation_end_fraction=fraction)
    schedule = build_schedule(ending, epochs=epochs)
    assert [find_phase(ending, schedule, epoch).is_augmented for epoch in range(epochs)] == [
        e <= last for e in range(epochs)
    ]


@pytest.mark.parametrize(("augmentation", "synthetic"), [(0.0, 0.5), (0.5, 0.0), (0.2, 0.5)])
def test_augmentation_and_synthetic_cases_end_apart(plan, augmentation, synthetic):
    ending = plan(augmentation_end_fraction=augmentation, synthetic_end_fraction=synthetic)
    phases = [find_phase(ending, build_schedule(ending, epochs=10), epoch) for epoch in range(10)]
    assert sum(phase.is_augmented for phase in phases) == 10 * (1 - augmentation)
    assert sum(phase.takes_synthetic for phase in phases) == 10 * (1 - synthetic)
    assert phases[0] == Phase()


def test_augmentation_ends_anew_in_an_extension_and_never_without_an_end(plan):
    ending = plan(augmentation_end_fraction=0.2)
    open_ended = build_schedule(ending, epochs=None)
    assert all(find_phase(ending, open_ended, epoch).is_augmented for epoch in range(50))
    for schedule in (open_ended.end_at(60, from_epoch=50), build_schedule(ending, epochs=50).extend(10, from_epoch=50)):
        assert [find_phase(ending, schedule, epoch).is_augmented for epoch in range(50, 60)] == [True] * 8 + [False] * 2


def test_without_an_end_of_augmentation_a_longer_training_is_augmented_too(plan):
    assert find_phase(plan(), build_schedule(plan(), epochs=10), 12) == Phase()


def test_an_end_before_the_beginning_is_refused():
    with pytest.raises(ValueError, match="end_epoch must not lie before first_epoch, 5"):
        Schedule(first_epoch=5, end_epoch=4, **THREE_A_EPOCH)
