import pytest

from autoseg.training.budget.plateau import (
    PATIENCE,
    SMALLEST_IMPROVEMENT,
    compute_annealing_epochs,
    has_reached_plateau,
    is_measurement_due,
    smooth,
)


def test_a_rising_dice_goes_on():
    assert not has_reached_plateau([0.1 + 0.01 * step for step in range(50)])


def test_a_flat_dice_ends_after_the_patience():
    assert not has_reached_plateau([0.8] * PATIENCE)
    assert has_reached_plateau([0.8] * (PATIENCE + 1))


def test_noise_is_neither_a_rise_nor_the_end_of_one():
    noisy = [0.8 + (0.02 if step % 2 else -0.02) for step in range(2 * PATIENCE + 2)]
    assert has_reached_plateau([0.85, *noisy])
    rising = [0.5 + 0.02 * step + (0.02 if step % 2 else -0.02) for step in range(20)]
    assert not has_reached_plateau(rising)


def test_a_creeping_rise_below_the_smallest_improvement_counts_only_once_it_adds_up():
    creeping = [0.8 + 0.3 * SMALLEST_IMPROVEMENT * step for step in range(40)]
    assert not has_reached_plateau(creeping)


def test_nothing_measured_is_no_plateau():
    assert not has_reached_plateau([])


def test_the_moving_average_begins_with_the_first_value():
    assert smooth([0.4, 0.8]) == pytest.approx([0.4, 0.6])


def test_measurements_come_every_fifth_epoch():
    assert [epoch for epoch in range(15) if is_measurement_due(epoch)] == [4, 9, 14]


@pytest.mark.parametrize(("done", "epochs"), [(1, 1), (40, 10), (100, 25)])
def test_annealing_takes_a_quarter_of_what_went_before(done, epochs):
    assert compute_annealing_epochs(done) == epochs
