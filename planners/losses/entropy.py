"""Losses that compare voxels: cross entropy and its relatives."""

from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import (
    BorderWeightedCrossEntropyTerm,
    CrossEntropyTerm,
    ExponentialLogarithmicTerm,
    FocalTerm,
    WeightedCrossEntropyTerm,
)
from planners.losses.class_shares import ClassShares, compute_class_shares
from planners.losses.rule import Terms, has_batch_dice

FOCAL_GAMMA: Final = 2.0  # Lin et al. 2017
BORDER_WEIGHT: Final = 10.0  # Ronneberger et al. 2015
BORDER_SIGMA_VOXELS: Final = 5.0  # Ronneberger et al. 2015
EXPONENTIAL_DICE_WEIGHT: Final = 0.8  # Wong et al. 2018
EXPONENTIAL_ENTROPY_WEIGHT: Final = 0.2  # Wong et al. 2018
EXPONENT: Final = 0.3  # Wong et al. 2018
INSTANCES_REASON: Final = (
    "instancesTr numbers the objects, so background is drawn where two of them touch, as in the paper, and each is an "
    "object of its own"
)
CORES_REASON: Final = (
    "cores of objects never touch, so each is an object, and borders are what lies between two of them"
)
COMPONENTS_REASON: Final = (
    "no folder instancesTr numbers the objects of every case, so objects are connected components of a label"
)


def choose_cross_entropy(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses cross entropy alone."""
    del fingerprint, configuration
    return Decision((CrossEntropyTerm(weight=1.0),), "every voxel counts alike")


def choose_weighted_cross_entropy(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses weights that are inverse to the square root of the share of a class."""
    del configuration
    shares = compute_class_shares(fingerprint)
    background, classes = shares.weigh_by_root(is_normalized=True)
    term = WeightedCrossEntropyTerm(weight=1.0, background_weights=background, class_weights=classes)
    return Decision((term,), _explain_root(shares, background, classes))


def choose_balanced_cross_entropy(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the share of the other classes as the weight of a class, so that all classes count alike."""
    del configuration
    shares = compute_class_shares(fingerprint)
    background, classes = shares.weigh_by_rest()
    weight = round(1 / shares.compute_mean(background, classes), 4)
    because = (
        f"{shares.describe()}; a class weighs what all others fill (beta): background {_format(background)}, classes "
        f"{_format(classes)}, and the factor {weight:g} makes a voxel weigh 1 on average"
    )
    term = WeightedCrossEntropyTerm(weight=weight, background_weights=background, class_weights=classes)
    return Decision((term,), because)


def choose_focal(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the focal loss, without weights of classes."""
    del configuration
    labels, shares = fingerprint.labels, compute_class_shares(fingerprint)
    count = len(labels.class_names)
    term = FocalTerm(
        weight=1.0,
        background_weights=(1.0,) * (count if labels.has_regions else 1),
        class_weights=(1.0,) * count,
        gamma=FOCAL_GAMMA,
        initial_probabilities=shares.list_probabilities(),
    )
    because = (
        f"the power of {FOCAL_GAMMA:g} of the paper makes easy voxels count little, so classes need no weights of "
        f"their own; {shares.explain_start()}"
    )
    return Decision((term,), because)


def choose_border_weighted_cross_entropy(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the border weights of U-Net, in voxels of the finest spacing."""
    shares = compute_class_shares(fingerprint)
    background, classes = shares.weigh_by_root(is_normalized=True)
    reason = _explain_objects(fingerprint)
    sigma_mm = BORDER_SIGMA_VOXELS * min(configuration.spacing_mm)
    term = BorderWeightedCrossEntropyTerm(
        weight=1.0,
        background_weights=background,
        class_weights=classes,
        border_weight=BORDER_WEIGHT,
        border_sigma_mm=sigma_mm,
        objects="instances" if reason == INSTANCES_REASON else "components",
        object_classes=() if fingerprint.targets is None else fingerprint.targets.core_classes,
    )
    because = (
        f"background between two objects gets a weight of up to {BORDER_WEIGHT:g} that falls with a sigma of "
        f"{sigma_mm:g} {fingerprint.distance_unit} (the {BORDER_SIGMA_VOXELS:g} voxels of the paper at the finest "
        f"spacing); {reason}; "
        f"{_explain_root(shares, background, classes)}"
    )
    return Decision((term,), because)


def _explain_objects(fingerprint: Fingerprint) -> str:
    if fingerprint.targets is not None:
        return CORES_REASON
    return INSTANCES_REASON if fingerprint.has_instances else COMPONENTS_REASON


def choose_exponential_logarithmic(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the exponential logarithmic loss."""
    shares = compute_class_shares(fingerprint)
    background, classes = shares.weigh_by_root(is_normalized=False)
    term = ExponentialLogarithmicTerm(
        weight=1.0,
        background_weights=background,
        class_weights=classes,
        batch_dice=has_batch_dice(configuration),
        dice_weight=EXPONENTIAL_DICE_WEIGHT,
        cross_entropy_weight=EXPONENTIAL_ENTROPY_WEIGHT,
        dice_exponent=EXPONENT,
        cross_entropy_exponent=EXPONENT,
    )
    because = (
        f"weights {EXPONENTIAL_DICE_WEIGHT:g} and {EXPONENTIAL_ENTROPY_WEIGHT:g} and exponents {EXPONENT:g} as in the "
        f"paper; {shares.describe()}, so in the cross entropy classes weigh 1 / sqrt(share): background "
        f"{_format(background)}, classes {_format(classes)}"
    )
    return Decision((term,), because)


def _explain_root(shares: ClassShares, background: tuple[float, ...], classes: tuple[float, ...]) -> str:
    return (
        f"{shares.describe()}; weights are inverse to the square root, as patches centred on foreground show rare "
        f"classes more often, and 1 on average: background {_format(background)}, classes {_format(classes)}"
    )


def _format(weights: tuple[float, ...]) -> str:
    lowest, highest = f"{min(weights):.4g}", f"{max(weights):.4g}"
    return lowest if lowest == highest else f"{lowest} to {highest}"
