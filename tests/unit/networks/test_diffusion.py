"""Closed forms of Gaussian diffusion, in float64."""

import pytest
import torch

from autoseg.networks.parts.diffusion.process import Diffusion, compute_variances, space_steps
from autoseg.plan.network.latent_diffusion import DiffusionPlan


def build(schedule: str = "linear", first: float = 1e-4, last: float = 0.02, steps: int = 1000) -> Diffusion:
    plan = DiffusionPlan(schedule=schedule, steps=steps, first_variance=first, last_variance=last)
    return Diffusion(compute_variances(plan))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_linear_schedule_keeps_the_published_share_of_the_data() -> None:
    kept = build().kept
    assert float(kept[0]) == 1
    assert float(kept[1000]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert float(kept[500]) == pytest.approx(0.078587, rel=1e-4)


def test_after_the_last_step_of_sdseg_an_error_of_the_noise_weighs_38_7_times() -> None:
    assert float(build("scaled_linear", 0.0015, 0.0155).kept[-1]) ** -0.5 == pytest.approx(38.7, abs=0.05)


def test_the_cosine_schedule_keeps_what_its_formula_says() -> None:
    kept = build("cosine").kept
    expected = (torch.cos(torch.tensor((0.5 + 0.008) / 1.008 * torch.pi / 2)) / 0.99992107) ** 2
    assert float(kept[500]) == pytest.approx(float(expected), rel=1e-4)
    assert float(kept[-1]) < 1e-5
    assert bool((kept.diff() < 0).all())


def test_data_comes_back_from_noisy_data_and_its_noise() -> None:
    diffusion, start, noise = build(), draw(5, 2, 3), draw(5, 2, 3, seed=1)
    steps = torch.tensor([1, 10, 500, 999, 1000])
    noisy = diffusion.add_noise(start, steps, noise)
    torch.testing.assert_close(diffusion.predict_start(noisy, steps, noise), start, rtol=0, atol=1e-10)
    torch.testing.assert_close(diffusion.predict_noise(noisy, steps, start), noise, rtol=0, atol=1e-10)


def test_the_posterior_is_that_of_samples() -> None:
    """Steps by hand: what was after step 2, among samples whose value after step 3 is about the same."""
    diffusion, start = build(first=0.1, last=0.4, steps=4), 0.7
    before = diffusion.add_noise(
        torch.full((10**6, 1), start, dtype=torch.float64), torch.full((10**6,), 2), draw(10**6, 1)
    )
    variance = float(diffusion.variances[2])
    after = (1 - variance) ** 0.5 * before + variance**0.5 * draw(10**6, 1, seed=1)
    chosen = before[(after - 0.2).abs() < 0.01]
    mean, spread = diffusion.compute_posterior(torch.tensor(start), torch.tensor(0.2), 3)
    assert float(chosen.mean()) == pytest.approx(float(mean), abs=0.02)
    assert float(chosen.var()) == pytest.approx(spread, abs=0.02)


def test_samplers_that_know_the_data_return_it() -> None:
    diffusion, start, noise = build(steps=50), draw(2, 1, 3), draw(2, 1, 3, seed=1)
    generator = torch.Generator().manual_seed(2)
    sampled = diffusion.sample(lambda noisy, step: start, noise, generator)
    torch.testing.assert_close(sampled, start, rtol=0, atol=1e-12)
    implicit = diffusion.sample_implicitly(lambda noisy, step: start, noise, steps=(50, 30, 5))
    torch.testing.assert_close(implicit, start, rtol=0, atol=1e-12)


def test_a_sampler_that_knows_the_noise_returns_the_data() -> None:
    diffusion, start, noise = build(steps=50), draw(2, 1, 3), draw(2, 1, 3, seed=1)
    steps = torch.full((2,), 50)
    noisy = diffusion.add_noise(start, steps, noise)

    def estimate(found: torch.Tensor, step: int) -> torch.Tensor:
        return diffusion.predict_start(found, torch.full((2,), step), noise)

    found = diffusion.sample_implicitly(estimate, noisy, steps=tuple(range(50, 0, -1)))
    torch.testing.assert_close(found, start, rtol=0, atol=1e-10)


def test_implicit_sampling_with_all_noise_has_the_variance_of_the_posterior() -> None:
    diffusion, anything = build(), torch.zeros(())
    for step in (2, 10, 500, 1000):
        _, variance = diffusion.compute_posterior(anything, anything, step)
        assert diffusion.compute_implicit_deviation(step, step - 1, 1.0) ** 2 == pytest.approx(variance, rel=1e-9)


def test_the_posterior_has_the_coefficients_of_its_formula() -> None:
    """Two steps with variances of 0.5 and 0.5: alpha bar is 1, 0.5, 0.25."""
    diffusion = Diffusion(torch.tensor([0.5, 0.5], dtype=torch.float64))
    of_start, variance = diffusion.compute_posterior(torch.ones(()), torch.zeros(()), 2)
    of_noisy, _ = diffusion.compute_posterior(torch.zeros(()), torch.ones(()), 2)
    assert float(of_start) == pytest.approx(0.5**0.5 * 0.5 / 0.75, rel=1e-6)
    assert float(of_noisy) == pytest.approx(0.5**0.5 * 0.5 / 0.75, rel=1e-6)
    assert variance == pytest.approx(0.5 / 0.75 * 0.5)
    last, no_variance = diffusion.compute_posterior(torch.tensor(3.0), torch.tensor(7.0), 1)
    assert (float(last), no_variance) == (3, 0)


def test_implicit_sampling_of_all_steps_with_all_noise_is_that_of_the_posterior() -> None:
    """Whatever the network; and the noise of a perfect one leads back to the data."""
    diffusion, start, noise = build(steps=30), draw(2, 1, 3).tanh(), draw(2, 1, 3, seed=1)

    def be_wrong(noisy: torch.Tensor, step: int) -> torch.Tensor:
        return (noisy * 0.7 + step / 100).tanh()

    def know_the_noise(noisy: torch.Tensor, step: int) -> torch.Tensor:
        numbers = torch.full((len(noisy),), step)
        return diffusion.predict_start(noisy, numbers, diffusion.predict_noise(noisy, numbers, start))

    for estimate in (be_wrong, know_the_noise):
        first, second = (torch.Generator().manual_seed(3) for _ in range(2))
        drawn = diffusion.sample(estimate, noise, first)
        implicit = diffusion.sample_implicitly(
            estimate, noise, steps=tuple(range(30, 0, -1)), eta=1.0, generator=second
        )
        torch.testing.assert_close(implicit, drawn, rtol=0, atol=1e-10)
    torch.testing.assert_close(drawn, start, rtol=0, atol=1e-10)


def test_estimates_are_clipped_before_a_step_is_taken() -> None:
    diffusion, noise = build(steps=20), draw(1, 1, 4)
    far = torch.tensor([[[5.0, -5.0, 0.5, -0.5]]], dtype=torch.float64)
    expected = torch.tensor([[[1.0, -1.0, 0.5, -0.5]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = diffusion.sample(lambda noisy, step: far, noise, generator, bound=1.0)
    implicit = diffusion.sample_implicitly(lambda noisy, step: far, noise, steps=(20, 10), bound=1.0)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(implicit, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("count", "expected"), [(1, (1000,)), (4, (1000, 750, 500, 250)), (3, (1000, 667, 333))])
def test_steps_are_spaced_from_the_last_one_down(count: int, expected: tuple[int, ...]) -> None:
    assert space_steps(1000, count) == expected
    assert space_steps(7, 7) == (7, 6, 5, 4, 3, 2, 1)


def test_implicit_sampling_without_noise_is_deterministic_and_needs_no_generator() -> None:
    diffusion, noise = build(steps=20), draw(1, 1, 4)
    first, second = (
        diffusion.sample_implicitly(lambda noisy, step: noisy.tanh(), noise, steps=(20, 10, 1)) for _ in range(2)
    )
    assert torch.equal(first, second)
    noisy = diffusion.sample_implicitly(
        lambda found, step: found.tanh(), noise, steps=(20, 10, 1), eta=1.0, generator=torch.Generator().manual_seed(0)
    )
    assert not torch.equal(first, noisy)
