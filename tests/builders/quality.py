"""Features of cases as the estimates of quality see them, made up."""

import numpy as np

from autoseg.quality.features import (
    CaseFeatures,
    ChannelFeatures,
    ClassProbabilities,
    ClassShape,
    ImageFeatures,
    NetworkFeatures,
)

THUMBNAIL = tuple(np.linspace(-1, 1, 512).tolist())


def build_channel(shift=0.0, **changes):
    values = {
        "percentiles": (-2 + shift, -0.6 + shift, shift, 0.6 + shift, 2 + shift),
        "contrast": 0.5,
        "roughness": 1.2,
        "floor_fraction": 0.0,
        "thumbnail": THUMBNAIL,
    }
    return ChannelFeatures(**values | changes)


def build_image(channel=None, **changes):
    values = {"spacing_mm": (1.0, 1.0, 1.0), "extent_mm": (36.0, 50.0, 35.0), "tilt_degrees": 0.0}
    return ImageFeatures(**values | changes, channels=(channel or build_channel(),))


def build_shape(volume_ml=2.0, **changes):
    values = {
        "components": 1,
        "largest_fraction": 1.0,
        "compactness": 2.0,
        "border_fraction": 0.0,
        "centre": (0.5, 0.5, 0.5),
    }
    return ClassShape(volume_ml=volume_ml, **values | changes)


def build_probabilities(soft_dice=0.9, **changes):
    values = {
        "border_uncertainty": 0.1,
        "class_uncertainty": 0.01,
        "expected_fraction": 1.0,
        "intensities": (0.5,),
    }
    return ClassProbabilities(soft_dice=soft_dice, **values | changes)


def build_features(shape=None, probabilities=None, image=None, plausibility=None):
    """One channel and one class; every part is as usual unless it is given, and the class is missing for `False`."""
    shapes = (None,) if shape is False else (shape or build_shape(),)
    network = NetworkFeatures(
        image=image or build_image(),
        probabilities=(probabilities or build_probabilities(),),
        plausibility=plausibility,
    )
    return CaseFeatures(network=network, shapes=shapes)


def draw_features(count, seed=0):
    """Usual cases that differ as those of a dataset do."""
    random = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        a, b, c, d, e = random.normal(size=5)
        image = build_image(
            build_channel(0.1 * a, contrast=0.5 * np.exp(0.1 * b), roughness=1.2 * np.exp(0.05 * c)),
            extent_mm=(36.0 + round(float(d)), 50.0 + round(2 * float(e)), 35.0),
        )
        x, y, z, u, v = random.normal(size=5)
        shape = build_shape(2 * np.exp(0.15 * x), compactness=2 * np.exp(0.1 * y), centre=(0.5, 0.5 + 0.02 * z, 0.5))
        probabilities = build_probabilities(1 / (1 + np.exp(-(2.2 + 0.3 * u))), intensities=(0.5 + 0.1 * v,))
        cases.append(build_features(shape, probabilities, image))
    return cases
