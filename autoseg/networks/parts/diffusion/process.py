"""Gaussian diffusion: noise that is added in steps, and the way back (Ho et al. 2020, arXiv:2006.11239).

Steps are numbered from 1; after step 0 there is no noise. Closed forms are computed in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autoseg.plan.network.latent_diffusion import DiffusionPlan
from autoseg.runtime.streams import copy_to_device

COSINE_OFFSET: Final = 0.008  # keeps the first steps from being too small (Nichol and Dhariwal 2021)
LARGEST_VARIANCE: Final = 0.999
NOISE_NAME: Final = "noise"  # of the buffer of a network, in its state, with which prediction begins

EstimateStart = Callable[[Tensor, int], Tensor]
"""Estimates, from noisy data and the number of its step, the data without noise."""


def compute_variances(plan: DiffusionPlan) -> Float64[Tensor, " step"]:
    """Computes the variance of the noise that every step adds (beta)."""
    count, first, last = plan.steps, plan.first_variance, plan.last_variance
    if plan.schedule == "linear":
        return torch.linspace(first, last, count, dtype=torch.float64, device="cpu")
    if plan.schedule == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64, device="cpu") ** 2
    times = torch.arange(count + 1, dtype=torch.float64, device="cpu") / count
    cumulative = torch.cos((times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * torch.pi / 2) ** 2
    return (1 - cumulative[1:] / cumulative[:-1]).clamp(max=LARGEST_VARIANCE)


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """A forward process, its posterior, and samplers that go back.

    Attributes:
        variances: Variance of the noise of every step.
    """

    variances: Float64[Tensor, " step"]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.variances)

    @property
    def kept(self) -> Float64[Tensor, " step_and_start"]:
        """Share of the variance of the data that is left after every step (alpha bar), from step 0 on."""
        return torch.cat((self.variances.new_ones(1), (1 - self.variances).cumprod(0)))

    def add_noise(
        self,
        start: Float[Tensor, "batch channel *space"],
        steps: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Adds the noise of all steps up to the given ones at once."""
        return self._take(self.kept.sqrt(), steps, start) * start + self._take(self._lost, steps, start) * noise

    def predict_start(
        self,
        noisy: Float[Tensor, "batch channel *space"],
        steps: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Computes the data from noisy data and its noise."""
        return (noisy - self._take(self._lost, steps, noisy) * noise) / self._take(self.kept.sqrt(), steps, noisy)

    def predict_noise(
        self,
        noisy: Float[Tensor, "batch channel *space"],
        steps: Int[Tensor, " batch"],
        start: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Computes the noise from noisy data and the data."""
        return (noisy - self._take(self.kept.sqrt(), steps, noisy) * start) / self._take(self._lost, steps, noisy)

    def compute_posterior(self, start: Tensor, noisy: Tensor, step: int) -> tuple[Tensor, float]:
        """Computes mean and variance of the data after the step before, given those after this step and without noise.

        Equations 6 and 7 of Ho et al. 2020.
        """
        kept, before, variance = (float(part) for part in (self.kept[step], self.kept[step - 1], self._get(step)))
        of_start = before**0.5 * variance / (1 - kept)
        of_noisy = (1 - variance) ** 0.5 * (1 - before) / (1 - kept)
        return of_start * start + of_noisy * noisy, (1 - before) / (1 - kept) * variance

    def sample(
        self, estimate_start: EstimateStart, noise: Tensor, generator: torch.Generator, *, bound: float | None = None
    ) -> Tensor:
        """Takes all steps back, each by a draw from the posterior (DDPM); the last one adds no noise.

        Args:
            estimate_start: The network.
            noise: Data after the last step.
            generator: Source of the noise that is added.
            bound: Limit to which the absolute values of the estimates are clipped; None: they are not.
        """
        noisy = noise
        for step in range(self.steps, 0, -1):
            mean, variance = self.compute_posterior(_clip(estimate_start(noisy, step), bound), noisy, step)
            noisy = mean if step == 1 else mean + variance**0.5 * _draw_like(noise, generator)
        return noisy

    def compute_implicit_deviation(self, step: int, following: int, eta: float) -> float:
        """Computes the standard deviation of a step of `sample_implicitly`; equation 16 of Song et al. 2021."""
        kept, after = float(self.kept[step]), float(self.kept[following])
        return float(eta * ((1 - after) / (1 - kept) * (1 - kept / after)) ** 0.5)

    def list_implicit_steps(self, steps: Sequence[int], eta: float = 0.0) -> "tuple[ImplicitStep, ...]":
        """Lists the steps back from each of some steps to the next one, and from the last one to the data.

        Args:
            steps: Numbers of the steps at which the network is called, falling.
            eta: Share of the noise of DDPM that every step adds; 0: none.
        """
        kept = self.kept.tolist()
        return tuple(
            ImplicitStep(
                number=step,
                kept=kept[step],
                kept_after=kept[following],
                deviation=self.compute_implicit_deviation(step, following, eta),
            )
            for step, following in zip(steps, (*steps[1:], 0), strict=True)
        )

    def sample_implicitly(
        self,
        estimate_start: EstimateStart,
        noise: Tensor,
        *,
        steps: Sequence[int],
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        bound: float | None = None,
    ) -> Tensor:
        """Takes some of the steps back (DDIM, Song et al. 2021, arXiv:2010.02502).

        Args:
            estimate_start: The network.
            noise: Data after the last step.
            steps: Numbers of the steps at which the network is called, falling.
            eta: Share of the noise of DDPM that every step adds; 0: none, the result depends on `noise` alone.
            generator: Source of the noise; needed for an `eta` above 0.
            bound: Limit to which the absolute values of the estimates are clipped; None: they are not.
        """
        noisy = noise
        for step in self.list_implicit_steps(steps, eta):
            noisy = step.take(noisy, _clip(estimate_start(noisy, step.number), bound))
            if step.deviation > 0:
                noisy = noisy + step.deviation * _draw_like(noise, generator)
        return noisy

    @property
    def _lost(self) -> Tensor:
        """Standard deviation of the noise after every step."""
        return (1 - self.kept).sqrt()

    def _get(self, step: int) -> Tensor:
        return self.variances[step - 1]

    @staticmethod
    def _take(table: Tensor, steps: Tensor, like: Tensor) -> Tensor:
        """Takes one value a sample, in the shape in which it multiplies the samples."""
        taken = copy_to_device(table.to(like.dtype), like.device)[copy_to_device(steps, like.device)]
        return taken.reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitStep:
    """A step back of DDIM; equation 12 of Song et al. 2021.

    Attributes:
        number: Number of the step after which the data are as noisy as they are before this one.
        kept: Share of the variance of the data that is left then.
        kept_after: The share that is left after the step back.
        deviation: Standard deviation of the noise that is added after it.
    """

    number: int
    kept: float
    kept_after: float
    deviation: float

    def take(self, noisy: Tensor, start: Tensor) -> Tensor:
        """Takes the step, but for the noise that is added, to the estimated data without noise."""
        direction = (noisy - self.kept**0.5 * start) / (1 - self.kept) ** 0.5
        of_direction = max(0.0, 1 - self.kept_after - self.deviation**2) ** 0.5
        taken: Tensor = self.kept_after**0.5 * start + of_direction * direction
        return taken


def space_steps(steps: int, count: int) -> tuple[int, ...]:
    """Returns numbers of steps at equal distances, from the last one down."""
    return tuple(round(steps * left / count) for left in range(count, 0, -1))


def tile(noise: Float[Tensor, "1 channel *grid"], extents: Sequence[int]) -> Float[Tensor, "1 channel *space"]:
    """Repeats noise along every axis until it fills the extents, and crops it to them."""
    if noise.shape[2:] == torch.Size(extents):
        return noise
    counts = [ceil(wanted / found) for wanted, found in zip(extents, noise.shape[2:], strict=True)]
    cuts = tuple(slice(0, extent) for extent in extents)
    return noise.repeat(1, 1, *counts)[(slice(None), slice(None), *cuts)]


def _clip(start: Tensor, bound: float | None) -> Tensor:
    return start if bound is None else start.clamp(-bound, bound)


def _draw_like(noise: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(noise.shape, dtype=noise.dtype, generator=generator).to(noise.device)
