"""Ridge regression of a score between 0 and 1 on features and their products, with intervals by cross-conformal
prediction.

Scores are regressed as logits, so that estimates and intervals stay between 0 and 1 and are wide where scores are low.
Residuals are those of cases whose block was left out of the fit; their conformal quantiles, one at either end, make the
interval (Vovk 2015, cross-conformal predictors; Barber et al. 2021, arXiv:1905.02928, CV+ with a common centre).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import Field

from autoseg.document import Part

FEWEST_CASES: Final = 20
"""With 19 cases or fewer, the extreme residuals do not bound an interval of 90 %."""
COVERAGE: Final = 0.9
MOST_CASES: Final = 500
"""Cases that are fitted; of more, as many at equal distances. A fit takes a time that grows with their cube."""
PENALTIES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
HUBER_DEVIATIONS: Final = 1.345  # the usual constant: 95 % efficient for normal residuals
MOST_VALUES: Final = 2**22
"""Values of terms that are held at once, 32 MB; thirty channels make 45,000 terms of each case."""
REWEIGHTINGS: Final = 5
FROM_MAD: Final = 1.4826  # the standard deviation of a normal distribution whose median absolute deviation is 1
SMALLEST_SCORE: Final = 0.005
"""Scores are clipped to this distance from 0 and 1; an interval that reaches it holds 0 or 1."""
SMALLEST: Final = 1e-6
LARGEST_LOGIT: Final = 30.0

Fraction = Annotated[float, Field(ge=0, le=1)]
Score = float | None


class Estimate(Part):
    """An estimate with its interval of 90 %."""

    value: float
    low: float
    high: float


class FitQuality(Part):
    """Cross-fitted quality of estimates: each case is judged by a fit to the cases of other blocks.

    Attributes:
        coverage: Share of the cases whose score lies in the interval.
        mean_error: Mean absolute difference of estimate and score.
        rank_correlation: Spearman's; 0 where all scores are equal.
    """

    cases: int
    coverage: Fraction
    mean_error: float
    rank_correlation: float


class Regression(Part):
    """A fitted regression.

    Attributes:
        centres: Subtracted from the features.
        scales: Divide the centred features.
        weights: Weights of the standardized features.
        product_weights: Weights of their products, squares included: of the first with itself and all others, of the
            second with itself and those after it, and so on; empty, without products, in those of earlier versions.
        intercept: Logit of the score at the centres.
        low: Residual (in logits) at the lower end of the interval.
        high: Residual at the upper end.
    """

    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    product_weights: tuple[float, ...] = ()
    intercept: float
    low: float
    high: float

    def estimate(self, features: Sequence[float]) -> Estimate:
        """Estimates the score of a case; features beyond those of the fit do not count."""
        known = np.array(features[: len(self.weights)], np.float64)[None]
        logit = float(_predict(self, known)[0])
        low, high = _to_score(logit + self.low), _to_score(logit + self.high)
        return Estimate(
            value=_to_score(logit),
            low=0.0 if low <= SMALLEST_SCORE else low,
            high=1.0 if high >= 1 - SMALLEST_SCORE else high,
        )


class CalibratedScore(Part):
    """The regression of one score of one class, and how well it does on cases that it was not fitted to."""

    regression: Regression
    quality: FitQuality


LARGEST: Final = 4.0
"""Standard deviations beyond which a feature counts no further, nor the product of two of them: nothing is known of
what lies there."""


def fit_regression(
    features: Float64[np.ndarray, "case feature"],
    scores: Float64[np.ndarray, " case"],
    blocks: Int64[np.ndarray, " case"],
) -> Regression:
    """Fits all cases; the interval comes from fits that leave out a block each.

    Args:
        features: Finite features, at least `FEWEST_CASES` rows.
        scores: Scores from 0 to 1.
        blocks: Number of the block of each case, at least two different ones.
    """
    assert len(scores) >= FEWEST_CASES, "too few cases"
    logits = _to_logits(scores)
    residuals = logits - _predict_left_out(features, logits, blocks)
    low, high = find_conformal_quantiles(residuals)
    return _fit(features, logits).model_copy(update={"low": low, "high": high})


def fit_score(
    regressors: Sequence[list[float] | None], scores: Sequence[Score], blocks: Int64[np.ndarray, " case"]
) -> CalibratedScore | None:
    """Fits and judges the regression of a score; None with too few cases that have features and a score.

    Args:
        regressors: Features of each case; None where there are none.
        scores: Scores from 0 to 1; None where they are not defined.
        blocks: Number of the block of each case.
    """
    rows = [
        (features, score, block)
        for features, score, block in zip(regressors, scores, blocks, strict=True)
        if features is not None and score is not None
    ]
    if len(rows) < FEWEST_CASES or len({block for _, _, block in rows}) < 2:
        return None
    features, known = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.float64)
    own = np.array([row[2] for row in rows], np.int64)
    return CalibratedScore(regression=fit_regression(features, known, own), quality=judge_fit(features, known, own))


def judge_fit(
    features: Float64[np.ndarray, "case feature"],
    scores: Float64[np.ndarray, " case"],
    blocks: Int64[np.ndarray, " case"],
) -> FitQuality:
    """Judges each block by a regression and an interval that are fitted to the other ones."""
    estimates = cross_estimate(features, scores, blocks)
    values = np.array([estimate.value for estimate in estimates])
    is_inside = [estimate.low <= score <= estimate.high for estimate, score in zip(estimates, scores, strict=True)]
    return FitQuality(
        cases=len(scores),
        coverage=float(np.mean(is_inside)),
        mean_error=float(np.abs(values - scores).mean()),
        rank_correlation=compute_rank_correlation(values, scores),
    )


def cross_estimate(
    features: Float64[np.ndarray, "case feature"],
    scores: Float64[np.ndarray, " case"],
    blocks: Int64[np.ndarray, " case"],
) -> list[Estimate]:
    """Estimates the score of every case by a fit without its block; with few cases, intervals are those of all."""
    found: dict[int, Estimate] = {}
    for block in np.unique(blocks):
        others, own = blocks != block, np.flatnonzero(blocks == block)
        if others.sum() < FEWEST_CASES or len(np.unique(blocks[others])) < 2:
            fitted = fit_regression(features, scores, blocks)
            centre = _fit(features[others], _to_logits(scores[others]))
            fitted = centre.model_copy(update={"low": fitted.low, "high": fitted.high})
        else:
            fitted = fit_regression(features[others], scores[others], blocks[others])
        found |= {int(index): fitted.estimate(features[index].tolist()) for index in own}
    return [found[index] for index in range(len(scores))]


def find_conformal_quantiles(residuals: Float64[np.ndarray, " case"]) -> tuple[float, float]:
    """Finds the residuals between which that of a new case lies with a probability of at least 90 %.

    Either end leaves out at most 5 %: of n residuals in ascending order those of the ranks floor(0.05 (n + 1)) and
    ceil(0.95 (n + 1)); the smallest and the largest where there are fewer than 19.
    """
    ordered, count = np.sort(residuals), len(residuals)
    share = (1 - COVERAGE) / 2
    first = max(1, math.floor(share * (count + 1) + SMALLEST))
    last = min(count, math.ceil((1 - share) * (count + 1) - SMALLEST))
    return float(ordered[first - 1]), float(ordered[last - 1])


def compute_rank_correlation(first: Float64[np.ndarray, " case"], second: Float64[np.ndarray, " case"]) -> float:
    """Computes Spearman's rank correlation; 0 where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    from scipy import stats  # imported here because it takes 0.6 s and 40 MB, which no prediction needs

    return float(stats.spearmanr(first, second).statistic)


def _predict_left_out(
    features: Float64[np.ndarray, "case feature"],
    logits: Float64[np.ndarray, " case"],
    blocks: Int64[np.ndarray, " case"],
) -> Float64[np.ndarray, " case"]:
    found = np.empty(len(logits))
    for block in np.unique(blocks):
        others = blocks != block
        fitted = _fit(features[others], logits[others])
        found[~others] = _predict(fitted, features[~others])
    return found


def _fit(features: Float64[np.ndarray, "case feature"], logits: Float64[np.ndarray, " case"]) -> Regression:
    """Fits by Huber's loss, with the penalty whose leave-one-out errors are the smallest on average.

    The penalty of a product is that of a feature times their number, so that all products count about half as much as
    all features.
    """
    chosen = np.linspace(0, len(logits) - 1, min(len(logits), MOST_CASES)).round().astype(int)
    features, logits = features[chosen], logits[chosen]
    centres, scales = features.mean(0), np.maximum(features.std(0), SMALLEST)
    standardized = _standardize(features, centres, scales)
    count = features.shape[1]
    likeness = np.zeros((len(logits), len(logits)))
    for terms, _ in _list_terms(standardized):
        likeness += terms @ terms.T
    penalty = _choose_penalty(likeness, logits)
    case_weights = np.ones(len(logits))
    for _ in range(REWEIGHTINGS):
        intercept, strengths = _solve(likeness, logits, case_weights, penalty)
        residuals = penalty * strengths / case_weights
        deviation = max(FROM_MAD * float(np.median(np.abs(residuals))), SMALLEST)
        case_weights = np.minimum(1.0, HUBER_DEVIATIONS * deviation / np.maximum(np.abs(residuals), SMALLEST))
    parts = [(terms.T @ strengths, means) for terms, means in _list_terms(standardized)]
    weights, means = map(np.concatenate, zip(*parts, strict=True))
    return Regression(
        centres=tuple(centres.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(weights[:count].tolist()),
        product_weights=tuple((weights[count:] / math.sqrt(count)).tolist()),
        intercept=float(intercept - weights @ means),
        low=0.0,
        high=0.0,
    )


def _choose_penalty(likeness: Float64[np.ndarray, "case case"], logits: Float64[np.ndarray, " case"]) -> float:
    """Chooses the penalty with the smallest mean absolute leave-one-out error, by one eigendecomposition."""
    found, vectors = np.linalg.eigh(likeness)
    values = np.maximum(found, 0.0)
    centred = logits - logits.mean()
    projected = vectors.T @ centred
    errors = []
    for penalty in PENALTIES:
        shrunk = values / (values + penalty)
        leverages = 1 / len(logits) + (vectors**2) @ shrunk
        left_out = (centred - vectors @ (shrunk * projected)) / np.maximum(1 - leverages, SMALLEST)
        errors.append(float(np.abs(left_out).mean()))
    return PENALTIES[int(np.argmin(errors))]


def _solve(
    likeness: Float64[np.ndarray, "case case"],
    logits: Float64[np.ndarray, " case"],
    case_weights: Float64[np.ndarray, " case"],
    penalty: float,
) -> tuple[float, Float64[np.ndarray, " case"]]:
    """Solves weighted ridge regression in its dual form; returns the intercept and the strength of each case.

    The weights of the terms are the sum of the terms of all cases times their strengths (Saunders et al. 1998, with an
    intercept, which is not penalized).
    """
    count = len(logits)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = likeness + np.diag(penalty / case_weights)
    system[count, count] = 0.0
    solution = np.linalg.solve(system, np.append(logits, 0.0))
    return float(solution[count]), solution[:count]


def _predict(fitted: Regression, features: Float64[np.ndarray, "case feature"]) -> Float64[np.ndarray, " case"]:
    standardized = _standardize(features, np.array(fitted.centres), np.array(fitted.scales))
    found: Float64[np.ndarray, " case"] = fitted.intercept + standardized @ np.array(fitted.weights)
    weights = np.array(fitted.product_weights)
    pairs, step = np.triu_indices(standardized.shape[1]), max(1, MOST_VALUES // max(1, len(weights)))
    for start in range(0, len(found) if len(weights) else 0, step):
        found[start : start + step] += _multiply(standardized[start : start + step], *pairs) @ weights
    return found


def _standardize(
    features: Float64[np.ndarray, "case feature"],
    centres: Float64[np.ndarray, " feature"],
    scales: Float64[np.ndarray, " feature"],
) -> Float64[np.ndarray, "case feature"]:
    found: Float64[np.ndarray, "case feature"] = np.clip((features - centres) / scales, -LARGEST, LARGEST)
    return found


def _list_terms(
    standardized: Float64[np.ndarray, "case feature"],
) -> Iterator[tuple[Float64[np.ndarray, "case term"], Float64[np.ndarray, " term"]]]:
    """Yields the features and their products, centred, with the means of both; blocks of them where they are many."""
    count = standardized.shape[1]
    factors = np.column_stack((standardized, np.ones(len(standardized))))
    first, second = np.triu_indices(count)
    first, second = np.append(np.arange(count), first), np.append(np.full(count, count), second)  # a feature times 1
    step = max(1, MOST_VALUES // len(standardized))
    for start in range(0, len(first), step):
        terms = _multiply(factors, first[start : start + step], second[start : start + step])
        terms[:, max(0, count - start) :] /= math.sqrt(count)
        means = terms.mean(0)
        terms -= means
        yield terms, means


def _multiply(
    factors: Float64[np.ndarray, "case factor"], first: Int64[np.ndarray, " term"], second: Int64[np.ndarray, " term"]
) -> Float64[np.ndarray, "case term"]:
    """Multiplies pairs of factors, within limits."""
    products: Float64[np.ndarray, "case term"] = factors.take(first, axis=1)
    products *= factors.take(second, axis=1)
    return np.clip(products, -LARGEST, LARGEST, out=products)


def _to_logits(scores: Float64[np.ndarray, " case"]) -> Float64[np.ndarray, " case"]:
    clipped = np.clip(scores, SMALLEST_SCORE, 1 - SMALLEST_SCORE)
    logits: Float64[np.ndarray, " case"] = np.log(clipped / (1 - clipped))
    return logits


def _to_score(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-LARGEST_LOGIT, min(LARGEST_LOGIT, logit))))
