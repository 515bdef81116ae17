"""Context modules of a paper, made to fit the extents of the bottleneck."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network.contexts import ContextPlan, DilatedPyramidPlan, MultiKernelPoolingPlan
from planners.reasons import format_extents, record

ASPP_EXTENT_VOXELS: Final = 33  # DeepLabV3: the features of a crop of 513 pixels at the stride 16, for rates 6, 12, 18


def fit_contexts(
    contexts: Sequence[ContextPlan], bottleneck_voxels: Sequence[int], features: int
) -> tuple[tuple[ContextPlan, ...], tuple[Reason, ...]]:
    """Fits context modules to the extents and features of the bottleneck; a reason for each that has to fit."""
    fitted: list[ContextPlan] = []
    reasons: list[Reason] = []
    for context in contexts:
        if context.name in FITS:
            decision, words = FITS[context.name](context, bottleneck_voxels, features)
            reasons.append(record("context", decision, f"{context.name}, {words}"))
            context = decision.value
        fitted.append(context)
    return tuple(fitted), tuple(reasons)


def fit_dilations(
    context: DilatedPyramidPlan, bottleneck_voxels: Sequence[int], features: int
) -> tuple[Decision[DilatedPyramidPlan], str]:
    """Scales the rates to the bottleneck; drops those that come out equal or where only the centre meets data."""
    longest = max(bottleneck_voxels)
    scale = min(1.0, longest / ASPP_EXTENT_VOXELS)
    scaled = [round(rate * scale) for rate in context.dilations]
    kept = tuple(dict.fromkeys(rate for rate in scaled if 0 < rate < longest))
    because = (
        f"{_join(context.dilations)} in {ASPP_EXTENT_VOXELS} voxels are {_join(scaled)} in a bottleneck of "
        f"{format_extents(bottleneck_voxels)} voxels"
    )
    dropped = len(scaled) - len(kept)
    if dropped:
        because += f"; {dropped} of them equal another, or have only the centre of their kernel in it"
    fitted = context.model_copy(update={"dilations": kept, "channels": min(context.channels, features)})
    return Decision(fitted, because), f"dilations {_join(kept)}"


def fit_kernels(
    context: MultiKernelPoolingPlan, bottleneck_voxels: Sequence[int], features: int
) -> tuple[Decision[MultiKernelPoolingPlan], str]:
    """Drops blocks that are larger than the bottleneck."""
    del features
    longest = max(bottleneck_voxels)
    kept = tuple(kernel for kernel in context.kernels if kernel <= longest)
    dropped = [kernel for kernel in context.kernels if kernel > longest]
    bottleneck = f"the bottleneck of {format_extents(bottleneck_voxels)} voxels"
    because = f"{bottleneck} is smaller than {_join(dropped)}" if dropped else f"all fit into {bottleneck}"
    return Decision(context.model_copy(update={"kernels": kept}), because), f"blocks of {_join(kept)}"


FITS: Final[Mapping[str, Callable[[Any, Sequence[int], int], tuple[Decision[Any], str]]]] = {
    "aspp": fit_dilations,
    "rmp": fit_kernels,
}
"""Rules of the context modules whose parameters depend on the bottleneck."""


def _join(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"
