"""Correction of what another configuration predicts, in patches around the boundaries of its classes."""

from typing import Final

from autoseg.errors import PlanError
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.network import PointRendPlan
from autoseg.plan.stages import BoundaryOfPreviousStage
from planners.profile import ChooseNetwork
from planners.reasons import format_extents, record, record_offer
from planners.rules.augmentation import ChooseAugmentation, choose_augmentation
from planners.rules.foreground import Share
from planners.rules.topology import Topology

BOUNDARY = "boundary_refinement"

LARGEST_EDGE_VOXELS: Final = {2: 64, 3: 32}
"""Longest side of a patch: 64 pixels as in the paper (Tang et al. 2021, arXiv:2104.05239); in volumes a guess."""
BASE_FRACTION: Final = 0.5
"""... but at most this fraction of the patch of the configuration that is corrected (guess): a larger one would see
hardly less than that network."""
OUTPUTS: Final = 2  # outside and inside
SMALLEST_SURFACE_FRACTION: Final = 0.3
"""Share of the foreground at its surface from which the configuration is offered: that of a ball of nine voxels'
radius (guess)."""
OVERLAP_LIMIT: Final = 0.25
"""That of the paper in training, which takes fewer patches than its 0.55 in prediction."""


def choose_boundary_patch(base: ConfigurationPlan) -> tuple[int, ...]:
    """Chooses the wanted extents of a patch: a part of those of a configuration, all shortened alike."""
    longest = max(base.patch_voxels)
    factor = min(BASE_FRACTION, LARGEST_EDGE_VOXELS[base.dimensions] / longest)
    return tuple(max(1, round(extent * factor)) for extent in base.patch_voxels)


def choose_boundary(
    base: ConfigurationPlan,
    *,
    name: str,
    topology: Topology,
    choose_network: ChooseNetwork,
    batch_size: Decision[int],
    choose_transforms: ChooseAugmentation = choose_augmentation,
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Chooses the configuration that corrects another one.

    Args:
        base: The configuration that is corrected.
        name: Its name.
        topology: Topology for the patch.
        choose_network: Chooses a network for a topology.
        batch_size: Samples per batch.
        choose_transforms: Chooses the augmentation for a patch.

    Raises:
        PlanError: The network has a margin, so that patches cannot be placed anywhere, or an objective of its own.
    """
    if base.training.objective.name != "segmentation":
        msg = (
            f"{BOUNDARY} needs a network that is trained by its logits alone, but that of {name} is trained by the "
            f"objective {base.training.objective.name!r}; leave out --configuration {BOUNDARY}, or "
            f"{'--head' if isinstance(base.network, PointRendPlan) else 'choose another --architecture'}"
        )
        raise PlanError(msg)
    channels = base.network.input_channels + 1
    network, reasons = choose_network(topology, input_channels=channels, output_channels=OUTPUTS)
    if any(network.margin_voxels):
        msg = (
            f"{BOUNDARY} needs a network whose output is as large as its input, but {network.family} loses "
            f"{format_extents(network.margin_voxels)} voxels at either end; choose another --architecture"
        )
        raise PlanError(msg)
    augmentation = choose_transforms(topology.patch_voxels)
    training = base.training.model_copy(
        update={"batch_size": batch_size.value, "foreground_fraction": 1.0, "transforms": augmentation.value}
    )
    previous = BoundaryOfPreviousStage(configuration=name, overlap_limit=OVERLAP_LIMIT)
    exists = Decision(
        BOUNDARY,
        f"asked for; it corrects {name} around the boundary of one class after the other, where select finds "
        f"that it gains",
    )
    patch = Decision(
        topology.patch_voxels,
        f"half of the patch of {name}, at most {LARGEST_EDGE_VOXELS[base.dimensions]} voxels along the longest side, "
        f"rounded up to the strides",
    )
    inputs = Decision(channels, f"those of {name} and the mask of the class; the outputs are outside and inside")
    chosen = base.model_copy(
        update={
            "patch_voxels": topology.patch_voxels,
            "previous_stage": previous,
            "network": network,
            "training": training,
        }
    )
    return chosen, (
        record(BOUNDARY, exists, "planned"),
        record(f"{BOUNDARY}: patch size", patch, f"{format_extents(topology.patch_voxels)} voxels"),
        record(f"{BOUNDARY}: input channels", inputs, str(channels)),
        record(f"{BOUNDARY}: batch size", batch_size, str(batch_size.value)),
        *(reason.model_copy(update={"subject": f"{BOUNDARY}: {reason.subject}"}) for reason in reasons),
    )


def offer_boundary(base: ConfigurationPlan, *, name: str, surface: Share | None) -> tuple[Reason, ...]:
    """Offers the configuration where much of the foreground is surface; it is planned on request alone.

    Args:
        base: The configuration that would be corrected.
        name: Its name.
        surface: Share of the foreground that touches another label; None without foreground.
    """
    is_possible = base.training.objective.name == "segmentation" and not any(base.network.margin_voxels)
    if not is_possible or surface is None or surface.value < SMALLEST_SURFACE_FRACTION:
        return ()
    because = (
        f"{surface.value * 100:.3g} % of the foreground touch another label ({surface.source}), where at least "
        f"{SMALLEST_SURFACE_FRACTION * 100:g} % make boundaries decide the scores (guess): a network that corrects "
        f"{name} there is planned with --configuration {BOUNDARY}"
    )
    return (record_offer(BOUNDARY, because),)
