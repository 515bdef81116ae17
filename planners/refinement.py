"""A configuration with which a user corrects predictions by clicks, added to a plan.

It gets the masks of a configuration that is already planned, and where the user clicked. All else is as there.
"""

from typing import Final

from autoseg.errors import PlanError
from autoseg.plan.augmentation import SimulatedClicksPlan
from autoseg.plan.decisions import Decision
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.preprocessing import are_pictures
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from autoseg.plan.stages import ClicksOfPreviousStage
from planners.reasons import format_amount, record

ENDING: Final = "_refine"
REACH_FRACTION: Final = 0.375  # of the shortest side of a patch (guess)
MOST_REACH_VOXELS: Final = 16  # of the finest axis: the time of a click grows with the third power of its reach
EDGE_FRACTION: Final = 0.125
"""With 0.5, noise of MR images (0.4 standard deviations per mm) left a click a tenth of the voxels in its reach."""
PICTURE_DEVIATION: Final = 0.25  # standard deviation of intensities from 0 to 1, about that of a uniform distribution
LOST_COMPONENTS: Final = REFERENCE_MASK_TRANSFORMS[1]
"""Objects that are missed as a whole are rare among errors. Masks do not grow or shrink at random, as in a cascade:
clicks are to lie on errors that the previous stage makes."""
SIMULATED_CLICKS: Final = SimulatedClicksPlan(none_probability=0.2, most_clicks=5, centre_probability=0.5)  # guess


def add_refinement(plan: Plan, previous: str) -> Plan:
    """Adds the configuration that corrects another one; a plan that has it stays as it is.

    Raises:
        PlanError: There is no such configuration, its slices lie across several axes, it sees one class at a time, or
            the plan tells objects apart.
    """
    base = plan.get_configuration(previous)
    if plan.instances is not None:
        msg = (
            "clicks correct label maps of classes, but the plan tells objects apart by their cores and borders "
            "(--task instances); leave out --refine, or plan a run of its own without --task instances"
        )
        raise PlanError(msg)
    if base.sees_other_planes:
        msg = (
            f"clicks are seen in slices across one axis, but those of {previous} lie across {len(base.plane_axes)}; "
            f"leave out --refine, or name another configuration with it"
        )
        raise PlanError(msg)
    if base.is_class_by_class:
        msg = (
            f"clicks correct a network that tells all classes apart, and {previous} sees one class at a time; leave "
            f"out --refine, or name {base.previous_configuration} with it"
        )
        raise PlanError(msg)
    name = f"{previous}{ENDING}"
    if name in plan.configurations:
        return plan
    reach = choose_reach(base)
    clicks = ClicksOfPreviousStage(
        configuration=previous,
        reach_mm=reach.value,
        edge_mm=choose_edge(reach.value, plan),
        first_weights="previous_stage",
    )
    extra = clicks.count_channels(plan.labels)
    slices = "" if base.slice_count == 1 else f", each of {base.slice_count} slices"
    channels = Decision(
        (len(plan.channels) + extra) * base.slice_count,
        f"{format_amount(len(plan.channels), 'image channel')}, one mask per foreground label predicted by {previous}, "
        f"and one channel of clicks per label, background included{slices}",
    )
    transforms = tuple(
        transform
        for transform in base.training.transforms
        if transform.allows_previous_stage and not transform.needs_previous_stage
    )
    added = base.model_copy(
        update={
            "previous_stage": clicks,
            "network": base.network.with_input_channels(channels.value),
            "training": base.training.model_copy(
                update={"transforms": (*transforms, LOST_COMPONENTS, SIMULATED_CLICKS)}
            ),
        }
    )
    exists = Decision(name, f"asked for, to correct label maps by clicks; all but its input is as in {previous}")
    simulated = Decision(
        SIMULATED_CLICKS,
        f"placed on errors of {previous} in cases that it was not trained on; a fifth of the patches have none, so "
        f"that it predicts without clicks, too",
    )
    weights = Decision(
        clicks.first_weights,
        f"those of {previous}, which already draws the objects; its clicks are all that is new",
    )
    reasons = (
        *plan.reasons,
        record(name, exists, "planned"),
        record(f"{name}: input channels", channels, str(channels.value)),
        record(f"{name}: reach of clicks", reach, f"{reach.value:g} {plan.distance_unit}"),
        record(f"{name}: first weights", weights, f"those of {previous}"),
        record(f"{name}: simulated clicks", simulated, f"up to {SIMULATED_CLICKS.most_clicks}"),
    )
    return Plan.model_validate(
        plan.model_copy(update={"configurations": plan.configurations | {name: added}, "reasons": reasons}).model_dump()
    )


def choose_reach(base: ConfigurationPlan) -> Decision[float]:
    """Chooses the distance at which a click is no longer seen."""
    sides = [extent * step for extent, step in zip(base.patch_voxels, base.spacing_mm, strict=True)]
    wanted, limit = REACH_FRACTION * min(sides), MOST_REACH_VOXELS * min(base.spacing_mm)
    because = (
        f"three eighths of the shortest side of a patch, at most {MOST_REACH_VOXELS} voxels, measured along paths on "
        f"which a step of one standard deviation of the intensities counts as an eighth of it"
    )
    return Decision(float(f"{min(wanted, limit):.3g}"), because)


def choose_edge(reach_mm: float, plan: Plan) -> float:
    """Chooses the length that an intensity step of one unit adds; a unit is a standard deviation, but for pictures."""
    unit = PICTURE_DEVIATION if are_pictures(plan.channels) else 1.0
    return float(f"{EDGE_FRACTION * reach_mm / unit:.3g}")
