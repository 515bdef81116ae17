"""The table of losses that a plan can be asked for: one row each. Names joined by "+" are added up."""

from typing import Final

from autoseg.plan.losses import BorderWeightedCrossEntropyTerm, CenterlineDiceTerm
from planners.losses.adversarial import choose_adversarial, choose_adversarial_terms, count_discriminator
from planners.losses.entropy import (
    choose_balanced_cross_entropy,
    choose_border_weighted_cross_entropy,
    choose_cross_entropy,
    choose_exponential_logarithmic,
    choose_focal,
    choose_weighted_cross_entropy,
)
from planners.losses.overlap import (
    choose_boundary,
    choose_cldice,
    choose_dice,
    choose_focal_tversky,
    choose_generalized_dice,
    choose_squared_dice,
    choose_tversky,
)
from planners.losses.rule import LossRule
from planners.losses.shape_prior import choose_shape_prior, choose_shape_prior_terms

LOSS_RULES: Final[dict[str, LossRule]] = {
    "dice": LossRule(
        description="Overlap of every class, as it is scored; patches without foreground teach little.",
        source="Drozdzal et al.",
        year=2016,
        choose=choose_dice,
    ),
    "cross_entropy": LossRule(
        description="Every voxel counts alike; smooth gradients, but rare classes may be missed.",
        source="Long et al.",
        year=2015,
        choose=choose_cross_entropy,
    ),
    "weighted_cross_entropy": LossRule(
        description="Rare classes weigh more, by the square root of their share of the voxels.",
        source="Ronneberger et al.",
        year=2015,
        choose=choose_weighted_cross_entropy,
    ),
    "balanced_cross_entropy": LossRule(
        description="All classes together weigh alike, however rare: few are missed, more are found wrongly.",
        source="Xie and Tu",
        year=2015,
        choose=choose_balanced_cross_entropy,
    ),
    "focal": LossRule(
        description="Cross entropy in which voxels that are already right count little.",
        source="Lin et al.",
        year=2017,
        choose=choose_focal,
    ),
    "border_weighted_cross_entropy": LossRule(
        description="Background between two objects counts more, so that touching objects come apart.",
        source="Ronneberger et al.",
        year=2015,
        choose=choose_border_weighted_cross_entropy,
        kinds=(BorderWeightedCrossEntropyTerm,),
    ),
    "squared_dice": LossRule(
        description="Dice with squared denominators, as in V-Net.",
        source="Milletari et al.",
        year=2016,
        choose=choose_squared_dice,
    ),
    "generalized_dice": LossRule(
        description="Dice over all classes at once, small ones weighing more; for very different sizes.",
        source="Sudre et al.",
        year=2017,
        choose=choose_generalized_dice,
    ),
    "tversky": LossRule(
        description="Dice in which a missed voxel counts more than one found wrongly; for small lesions.",
        source="Salehi et al.",
        year=2017,
        choose=choose_tversky,
    ),
    "focal_tversky": LossRule(
        description="Tversky loss with more gradient for classes that are nearly right.",
        source="Abraham and Khan",
        year=2019,
        choose=choose_focal_tversky,
    ),
    "exponential_logarithmic": LossRule(
        description="Powers of logarithms of Dice and cross entropy; for small objects beside large ones.",
        source="Wong et al.",
        year=2018,
        choose=choose_exponential_logarithmic,
    ),
    "boundary": LossRule(
        description="Generalized Dice and, ever more, the distance of wrong voxels from the boundary.",
        source="Kervadec et al.",
        year=2019,
        choose=choose_boundary,
    ),
    "cldice": LossRule(
        description="Dice of volumes and of centre lines; for vessels and other tubes that must not break.",
        source="Shit et al.",
        year=2021,
        choose=choose_cldice,
        kinds=(CenterlineDiceTerm,),
    ),
    "shape_prior": LossRule(
        description="Dice, cross entropy, and the shape as a label autoencoder sees it; for few cases of one anatomy.",
        source="Oktay et al.",
        year=2018,
        choose=choose_shape_prior_terms,
        choose_objective=choose_shape_prior,
    ),
    "adversarial": LossRule(
        description="Dice, cross entropy, and a discriminator that learns to tell predictions from label maps.",
        source="Luc et al.",
        year=2016,
        choose=choose_adversarial_terms,
        choose_objective=choose_adversarial,
        count_elements=count_discriminator,
    ),
}
