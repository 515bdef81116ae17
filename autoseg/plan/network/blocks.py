"""Blocks of which the stages of a U-shaped network consist.

One more block is one more subclass of `BlockPlan` and one more row of `BLOCK_PLANS` (its modules: a file and a row in
`autoseg.networks.parts.blocks`).
"""

from typing import Final, Literal

from autoseg.document import Part


class BlockPlan(Part):
    """The blocks of a stage, and the parameters of their kind.

    Attributes:
        name: Tells the kinds apart.
    """

    name: str


class PlainBlockPlan(BlockPlan):
    """A convolution with normalization and activation.

    Attributes:
        first_width: "half": the first convolution of an encoder stage has half of its features, so that they double
            before the resolution is halved (3D U-Net, Cicek et al. 2016, arXiv:1606.06650).
    """

    name: Literal["plain"] = "plain"
    first_width: Literal["full", "half"] = "full"


class ResidualBlockPlan(BlockPlan):
    """Two convolutions and a shortcut (He et al. 2016, arXiv:1512.03385)."""

    name: Literal["residual"] = "residual"


BLOCK_PLANS: Final[dict[str, type[BlockPlan]]] = {"plain": PlainBlockPlan, "residual": ResidualBlockPlan}
