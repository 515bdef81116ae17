"""Residual units: what the stages of a residual U-shaped network consist of, and the steps between them.

One more kind is one more subclass of `ResidualUnitPlan` and one more row of `RESIDUAL_UNIT_PLANS` (its modules: a file
and a row in `autoseg.networks.parts.additive_u`).
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import MOST_STAGES, Count


class ResidualUnitPlan(Part):
    """Units that add their input to their output, in kind.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class MedNeXtUnitPlan(ResidualUnitPlan):
    """Depthwise convolution, expansion and compression of the channels (Roy et al. 2023, arXiv:2303.09975).

    Attributes:
        expansion_ratios: The channels between expansion and compression as a multiple of those before, per stage; a
            decoder stage has that of the encoder stage of its resolution, a step that of the stage that it leads to.
        response_normalization: Whether the expanded channels are normalized by their global response (Woo et al. 2023,
            arXiv:2301.00808), as in MedNeXt-v2 (Roy et al. 2025, arXiv:2512.17774).
    """

    name: Literal["mednext"] = "mednext"
    expansion_ratios: Annotated[tuple[Count, ...], Field(min_length=1, max_length=MOST_STAGES)]
    response_normalization: bool


class PreActivationUnitPlan(ResidualUnitPlan):
    """Normalization and activation before each of two convolutions (He et al. 2016, arXiv:1603.05027).

    Steps to lower resolutions are strided convolutions.

    Attributes:
        upsampling: Steps to higher resolutions. "linear": a convolution of one voxel and linear interpolation
            (Myronenko 2018, arXiv:1810.11654). "transposed": a transposed convolution with the kernel of the stage, as
            in MONAI's Auto3DSeg.
    """

    name: Literal["pre_activation"] = "pre_activation"
    upsampling: Literal["linear", "transposed"]


RESIDUAL_UNIT_PLANS: Final[dict[str, type[ResidualUnitPlan]]] = {
    "mednext": MedNeXtUnitPlan,
    "pre_activation": PreActivationUnitPlan,
}
