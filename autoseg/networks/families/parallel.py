"""Networks of parallel branches, one per resolution (HRNet, Wang et al. 2020, arXiv:1908.07919)."""

from functools import reduce
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import build_head, enlarge_to
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.layers import Layer, build_activation, get_ones
from autoseg.networks.parts.residual_units import EXPANSION, build_units
from autoseg.plan.network import ParallelPlan


class ParallelNetwork(SegmentationNetwork):
    """Branches of all resolutions that exchange their features.

    `starts` has the step to each branch from the lowest one before it, `stages` the exchanges that follow it: index 0
    is that of the branches 0 and 1.
    """

    plan: ParallelPlan

    def __init__(self, plan: ParallelPlan) -> None:
        super().__init__(plan)
        features, wide = plan.features_per_stage, EXPANSION * plan.stem_features
        self.stem = build_strided_stem(plan)
        self.first_blocks = build_units(
            "bottleneck",
            (plan.stem_features, wide),
            plan.kernel_sizes[0],
            count=plan.stem_blocks,
            layers=plan.layers,
        )
        self.first_branch = Layer(wide, features[0], plan.kernel_sizes[0], layers=plan.layers)
        self.starts = nn.ModuleList(
            Layer(above, below, plan.kernel_sizes[index], layers=plan.layers, stride=plan.strides[index])
            for index, (above, below) in enumerate(pairwise((wide, *features[1:])), start=1)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(Exchange(plan, branches, outputs) for outputs in count_outputs(plan, branches))
            for branches in range(2, plan.stage_count + 1)
        )
        joined = features[0] if plan.head == "v1" else sum(features)
        self.join = Layer(joined, joined, (1,) * plan.dimensions, layers=plan.layers)
        self.head = build_head(joined, plan.output_channels, plan.dimensions)

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, interpolated to the full resolution."""
        lowest = self.first_blocks(self.stem(image))
        branches = [self.first_branch(lowest)]
        for start, exchanges in zip(self.starts, self.stages, strict=True):
            branches.append(start(lowest))
            for exchange in exchanges.children():
                branches = exchange(branches)
            lowest = branches[-1]
        shown = branches[:1] if self.plan.head == "v1" else branches
        extents = branches[0].shape[2:]
        joined = self.join(torch.cat([enlarge_to(branch, extents) for branch in shown], dim=1))
        return (enlarge_to(self.head(joined), image.shape[2:]),)

    @property
    def output_weights(self) -> tuple[float, ...]:
        """There is one output."""
        return (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """The head."""
        return ("head",)


class Exchange(nn.Module):
    """Residual blocks in every branch, then the sum over all branches at the resolution of each.

    `paths` has one module for every pair: `paths[to][origin]`.
    """

    def __init__(self, plan: ParallelPlan, branches: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            build_units(
                "basic",
                (plan.features_per_stage[index],) * 2,
                plan.kernel_sizes[index],
                count=plan.blocks_per_branch,
                layers=plan.layers,
            )
            for index in range(branches)
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(build_path(plan, origin, to) for origin in range(branches)) for to in range(outputs)
        )
        self.activation = build_activation(plan.layers)

    def forward(self, branches: list[Float[Tensor, "batch _channels ..."]]) -> list[Tensor]:
        """Computes the branches of the highest resolutions, as many as there are outputs."""
        branches = [blocks(branch) for blocks, branch in zip(self.branches, branches, strict=True)]
        sums = []
        for to, paths in enumerate(self.paths):
            extents = branches[to].shape[2:]
            arrived = [
                enlarge_to(path(branch), extents) for path, branch in zip(paths.children(), branches, strict=True)
            ]
            # Sums are new tensors: the activation works in place, and a branch is read by all others.
            sums.append(self.activation(reduce(torch.add, arrived)))
        return sums


def build_strided_stem(plan: ParallelPlan) -> nn.Sequential:
    """Builds the strided convolutions of the stem."""
    channels = pairwise((plan.input_channels, *(plan.stem_features,) * len(plan.stem_strides)))
    return nn.Sequential(
        *(
            Layer(below, above, kernel, layers=plan.layers, stride=stride)
            for (below, above), kernel, stride in zip(channels, plan.stem_kernel_sizes, plan.stem_strides, strict=True)
        )
    )


def count_outputs(plan: ParallelPlan, branches: int) -> tuple[int, ...]:
    """Counts the outputs of each exchange of a stage: all branches but in the last one of "v1", which shows one."""
    counts = (branches,) * plan.modules_per_stage[branches - 2]
    if plan.head == "v1" and branches == plan.stage_count:
        return (*counts[:-1], 1)
    return counts


def build_path(plan: ParallelPlan, origin: int, to: int) -> nn.Module:
    """Builds the way of features from one branch to another: strided convolutions down, one of a voxel up."""
    features = plan.features_per_stage
    if origin == to:
        return nn.Identity()
    if origin > to:
        one = get_ones(plan.kernel_sizes[to])
        return Layer(features[origin], features[to], one, layers=plan.layers, is_activated=False)
    return nn.Sequential(
        *(
            Layer(
                features[origin],
                features[to] if level == to else features[origin],
                plan.kernel_sizes[level],
                layers=plan.layers,
                stride=plan.strides[level],
                is_activated=level < to,
            )
            for level in range(origin + 1, to + 1)
        )
    )
