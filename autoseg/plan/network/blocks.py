"""Blocks of which the stages of a U-shaped network consist.

One more block is one more subclass of `BlockPlan` and one more row of `BLOCK_PLANS` (its modules: a file and a row in
`autoseg.networks.parts.blocks`).
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import ChannelCount, Positive

MOST_RECURRENCES: Final = 64


class BlockPlan(Part):
    """The blocks of a stage, and the parameters of their kind.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str

    def count_channels(self, features: int) -> int:
        """Counts the channels after a stage for which the plan has a number of features: as many, for most blocks."""
        return features

    def count_convolutions(self, blocks: int) -> int | None:
        """Counts the convolutions of a stage, one after the other, that take voxels from the borders where nothing is
        padded; None: these blocks are always padded."""
        del blocks
        return None


class PlainBlockPlan(BlockPlan):
    """A convolution with normalization and activation.

    Attributes:
        first_width: "half": the first convolution of an encoder stage has half of its features, so that they double
            before the resolution is halved (3D U-Net, Cicek et al. 2016, arXiv:1606.06650).
    """

    name: Literal["plain"] = "plain"
    first_width: Literal["full", "half"] = "full"

    def count_convolutions(self, blocks: int) -> int:
        """Counts one per block."""
        return blocks


class ResidualBlockPlan(BlockPlan):
    """Two convolutions and a shortcut (He et al. 2016, arXiv:1512.03385)."""

    name: Literal["residual"] = "residual"


class ResidualStagePlan(BlockPlan):
    """Convolutions, and one shortcut around all of the stage (V-Net, Milletari et al. 2016, arXiv:1606.04797)."""

    name: Literal["residual_stage"] = "residual_stage"


class RecurrentResidualPlan(BlockPlan):
    """Two recurrent convolutions and a shortcut (R2U-Net, Alom et al. 2018, arXiv:1802.06955).

    Attributes:
        recurrences: Applications of a convolution to the sum of its input and its last result, after the first.
    """

    name: Literal["recurrent_residual"] = "recurrent_residual"
    recurrences: Annotated[int, Field(ge=0, le=MOST_RECURRENCES)]


class MultiResPlan(BlockPlan):
    """Three chained convolutions whose results are joined (MultiResUNet, Ibtehaz and Rahman 2020, arXiv:1902.04049).

    Attributes:
        width: Channels of the three together, for every feature of the stage.
    """

    name: Literal["multires"] = "multires"
    width: Positive

    def split(self, features: int) -> tuple[int, int, int]:
        """Returns the channels of the convolutions: a sixth, a third and half of all, rounded down."""
        channels = self.width * features
        first, second, third = (max(1, int(channels * share)) for share in (0.167, 0.333, 0.5))
        return first, second, third

    def count_channels(self, features: int) -> int:
        """Counts those of the three convolutions."""
        return sum(self.split(features))


class DensePlan(BlockPlan):
    """Convolutions that each see the input and all results before (Huang et al. 2017, arXiv:1608.06993).

    Attributes:
        growth: Channels of a convolution, as a share of the features of the stage.
    """

    name: Literal["dense"] = "dense"
    growth: Annotated[float, Field(gt=0, le=1)]


class InceptionPlan(BlockPlan):
    """Parallel convolutions of three extents and a pooling (Szegedy et al. 2015, arXiv:1409.4842)."""

    name: Literal["inception"] = "inception"


class SeparablePlan(BlockPlan):
    """Convolutions of each channel, then of one voxel over all channels (Howard et al. 2017, arXiv:1704.04861)."""

    name: Literal["separable"] = "separable"


class RepPlan(BlockPlan):
    """Sums of a convolution, one of a single voxel and the identity (RepVGG, Ding et al. 2021, arXiv:2101.03697).

    The sum is normalized and not its parts, so that it is a single convolution in prediction with every normalization.
    """

    name: Literal["rep"] = "rep"


class CspRepPlan(BlockPlan):
    """Pairs of "rep" convolutions on half of the channels (CSPStackRep, Li et al. 2022, arXiv:2209.02976)."""

    name: Literal["csp_rep"] = "csp_rep"


class ResidualUPlan(BlockPlan):
    """A small U-Net and a shortcut around it (U2-Net, Qin et al. 2020, arXiv:2005.09007).

    It halves the resolution as often as the network does below the stage; where that is less than twice, its
    convolutions are dilated instead.

    Attributes:
        reduction: Features of the stage for every feature within the small U-Net.
        dilated_reduction: The same where convolutions are dilated.
    """

    name: Literal["rsu"] = "rsu"
    reduction: ChannelCount
    dilated_reduction: ChannelCount


BLOCK_PLANS: Final[dict[str, type[BlockPlan]]] = {
    "plain": PlainBlockPlan,
    "residual": ResidualBlockPlan,
    "residual_stage": ResidualStagePlan,
    "recurrent_residual": RecurrentResidualPlan,
    "multires": MultiResPlan,
    "dense": DensePlan,
    "inception": InceptionPlan,
    "separable": SeparablePlan,
    "rep": RepPlan,
    "csp_rep": CspRepPlan,
    "rsu": ResidualUPlan,
}
