"""Preprocessing in one call."""

import numpy as np

from autoseg.geometry import Grid, IntTriple
from autoseg.plan import Plan, ResamplingPlan
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.pipeline import prepare_case, preprocess_prepared_case
from autoseg.preprocessing.resample import resample_image


def preprocess_image(image: np.ndarray, grid: Grid, plan: Plan, configuration: str) -> PreprocessedCase:
    """Preprocesses an image for prediction."""
    return preprocess_prepared_case(prepare_case(image, None, grid, plan), plan, configuration)


def preprocess_training_case(
    image: np.ndarray, label_map: np.ndarray, grid: Grid, plan: Plan, *, configuration: str
) -> PreprocessedCase:
    """Preprocesses an image and its internal labels for training."""
    return preprocess_prepared_case(prepare_case(image, label_map, grid, plan), plan, configuration)


def resample_logits(logits: np.ndarray, *, shape: IntTriple, plan: ResamplingPlan, **spacings_mm: tuple) -> np.ndarray:
    """Resamples logits as images are resampled, with the spline order of logits."""
    plan = plan.model_copy(update={"image_order": plan.logits_order})
    return resample_image(logits, shape=shape, plan=plan, **spacings_mm)
