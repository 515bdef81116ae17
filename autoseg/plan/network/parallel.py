"""Networks of parallel branches, one per resolution (HRNet)."""

from collections.abc import Mapping
from typing import Literal

from autoseg.plan.network.stemmed import StemmedPlan
from autoseg.plan.values import BlockCount, BlockCounts


class ParallelPlan(StemmedPlan):
    """Branches of all resolutions that exchange their features again and again (Wang et al. 2020, arXiv:1908.07919).

    Branch i has the features, the kernel and, towards branch i - 1, the stride of stage i. After the stem come
    bottleneck blocks of four times its features; then branches start one after the other, from the highest resolution
    down.

    Attributes:
        stem_blocks: Bottleneck blocks after the stem.
        modules_per_stage: Exchanges with two branches, with three, ...: one number fewer than there are branches.
        blocks_per_branch: Residual blocks of every branch before every exchange.
        head: "v1": logits of the highest resolution's features; "v2": of those of all, joined at it.
    """

    family: Literal["parallel"] = "parallel"
    stem_blocks: BlockCount
    modules_per_stage: BlockCounts
    blocks_per_branch: BlockCount
    head: Literal["v1", "v2"]

    def describe(self) -> Mapping[str, str]:
        """Describes the branches and what they are made of."""
        exchanges = " ".join(("exchanges", *map(str, self.modules_per_stage)))
        parts = (exchanges, self.head, self.layers.normalization, self.layers.activation)
        return {**super().describe(), "parts": ", ".join(parts)}

    def find_lengths(self) -> Mapping[str, int]:
        """As for all staged networks, and of the exchanges."""
        return {**super().find_lengths(), "modules_per_stage": len(self.modules_per_stage) + 1}
