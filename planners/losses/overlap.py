"""Losses that compare volumes: Dice and its relatives."""

from typing import Final

from autoseg.fingerprint import Fingerprint
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.losses import (
    BoundaryTerm,
    CenterlineDiceTerm,
    DiceTerm,
    GeneralizedDiceTerm,
    SquaredDiceTerm,
    TverskyTerm,
)
from planners.losses.class_shares import compute_class_shares
from planners.losses.rule import Terms, has_batch_dice

FALSE_POSITIVE_WEIGHT: Final = 0.3  # Salehi et al. 2017; false negatives have the rest
FOCAL_EXPONENT: Final = 0.75  # Abraham and Khan 2019
LAST_REGION_SHARE: Final = 0.01  # Kervadec et al. 2019, at the end of the training
SKELETON_ITERATIONS: Final = 3  # the authors' implementation


def choose_dice(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the Dice loss alone."""
    del fingerprint
    term = DiceTerm(weight=1.0, batch_dice=has_batch_dice(configuration))
    return Decision((term,), "the mean Dice of all classes is the measure that is reported, so it is made large itself")


def choose_squared_dice(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the Dice loss of V-Net."""
    del fingerprint
    term = SquaredDiceTerm(weight=1.0, batch_dice=has_batch_dice(configuration))
    return Decision((term,), "squared probabilities in the denominator let uncertain voxels count less")


def choose_generalized_dice(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the generalized Dice loss, whose class weights are those of every patch or batch."""
    del fingerprint
    term = GeneralizedDiceTerm(weight=1.0, final_weight=1.0, batch_dice=has_batch_dice(configuration))
    return Decision((term,), "every class counts by the inverse of its squared volume in the patches, absent ones by 0")


def choose_tversky(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the Tversky loss."""
    return _choose_tversky(fingerprint, configuration, exponent=1.0)


def choose_focal_tversky(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the focal Tversky loss."""
    return _choose_tversky(fingerprint, configuration, exponent=FOCAL_EXPONENT)


def choose_boundary(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the generalized Dice loss and, with a growing share, the boundary loss."""
    del fingerprint
    region = GeneralizedDiceTerm(weight=1.0, final_weight=LAST_REGION_SHARE, batch_dice=has_batch_dice(configuration))
    boundary = BoundaryTerm(weight=0.0, final_weight=1 - LAST_REGION_SHARE)
    because = (
        f"the share of the generalized Dice loss falls from 1 to {LAST_REGION_SHARE:g} over the training, as in the "
        f"paper, and that of the distance from the boundary rises, which alone would leave everything background"
    )
    return Decision((region, boundary), because)


def choose_cldice(fingerprint: Fingerprint, configuration: ConfigurationPlan) -> Decision[Terms]:
    """Chooses the Dice loss and that of centre lines, one half each."""
    del fingerprint
    batch_dice = has_batch_dice(configuration)
    lines = CenterlineDiceTerm(weight=0.5, batch_dice=batch_dice, skeleton_iterations=SKELETON_ITERATIONS)
    because = (
        f"Dice and clDice count one half each, the most of clDice in the paper; {SKELETON_ITERATIONS} erosions, as in "
        f"the authors' implementation, find the centre lines of tubes with a radius of up to {SKELETON_ITERATIONS} "
        f"voxels: raise skeleton_iterations in plan.json for thicker ones"
    )
    return Decision((DiceTerm(weight=0.5, batch_dice=batch_dice), lines), because)


def _choose_tversky(fingerprint: Fingerprint, configuration: ConfigurationPlan, *, exponent: float) -> Decision[Terms]:
    missed, shares = 1 - FALSE_POSITIVE_WEIGHT, compute_class_shares(fingerprint)
    term = TverskyTerm(
        weight=1.0,
        batch_dice=has_batch_dice(configuration),
        false_positive_weight=FALSE_POSITIVE_WEIGHT,
        false_negative_weight=missed,
        exponent=exponent,
        initial_probabilities=shares.list_probabilities(),
    )
    power = (
        "" if exponent == 1 else f", and the power of {exponent:g} gives classes that are nearly right more gradient"
    )
    because = (
        f"missed voxels weigh {missed:g} and wrongly found ones {FALSE_POSITIVE_WEIGHT:g}, as in the paper{power}; "
        f"{shares.explain_start()}"
    )
    return Decision((term,), because)
