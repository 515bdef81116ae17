"""Configurations that are planned on request, each made of those that are planned anyway."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint
from autoseg.plan.augmentation import TransformPlan
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.document import ConfigurationPlan
from planners.configuration import explain_missing_pooling
from planners.profile import ChooseNetwork
from planners.rules.boundary import BOUNDARY, choose_boundary, choose_boundary_patch, offer_boundary
from planners.rules.cascade import FULL_RESOLUTION, LOW_RESOLUTION
from planners.rules.coarse_to_fine import (
    COARSE,
    ROI,
    check_is_finer,
    choose_coarse,
    choose_roi,
    crop_to_box,
    explain_box,
    explain_coarse,
    find_margin,
    offer_roi,
)
from planners.rules.context_slices import CONTEXT, SLICES, choose_context, offer_context
from planners.rules.detection import (
    DETECT,
    DETECTOR,
    DETECTOR_MARGIN_VOXELS,
    DetectorRule,
    choose_object_edge,
    measure_object,
)
from planners.rules.foreground import find_box_share, find_surface_share
from planners.rules.low_resolution import compute_coarser
from planners.rules.median_shape import ResampledDataset
from planners.rules.topology import FEWEST_STAGES, Topology, TopologyRule
from planners.rules.triplanar import TRIPLANAR, choose_triplanar, offer_triplanar

Configurations = dict[str, ConfigurationPlan]
Chosen = tuple[Configurations, tuple[Reason, ...]]


class PlanningRules(Protocol):
    """The rules of a planner that further configurations are planned by."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the dataset."""
        ...

    @property
    def topology(self) -> TopologyRule:
        """The rule for dividing a patch."""
        ...

    @property
    def choose_bare_network(self) -> ChooseNetwork:
        """The network for a topology, whatever its inputs and outputs are, without a head."""
        ...

    def with_network(self, choose_network: ChooseNetwork) -> "PlanningRules":
        """Returns the rules for another network, which has heads of its own."""
        ...

    def choose_patch(self, dataset: ResampledDataset) -> Decision[Topology]:
        """Chooses the patch for data of a spacing."""
        ...

    def choose_batch_size(self, topology: Topology, dataset: ResampledDataset) -> Decision[int]:
        """Chooses the batch size for such patches."""
        ...

    def choose_augmentation(self, patch_voxels: tuple[int, ...]) -> Decision[tuple[TransformPlan, ...]]:
        """Chooses the augmentation for a patch."""
        ...

    def choose_configuration(
        self, name: str, dataset: ResampledDataset
    ) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
        """Decides everything about a configuration that works with its own preprocessed data."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherConfiguration:
    """A configuration that is planned on request.

    Attributes:
        needs: The planned configurations of which it is made of one: of the first that is planned.
        choose: Chooses it, and others that it needs itself, with their reasons.
        offer: Offers it, with the reason, where the fingerprint speaks for it; some are never offered.
        takes_pictures: Whether it may be planned for images of one slice.
    """

    needs: tuple[str, ...]
    choose: Callable[[Configurations, ResampledDataset, PlanningRules], Chosen]
    offer: Callable[[Configurations, ResampledDataset, Fingerprint], tuple[Reason, ...]]
    takes_pictures: bool = False


def _choose_context(planned: Configurations, dataset: ResampledDataset, shared: PlanningRules) -> Chosen:
    configuration, reasons = choose_context(planned[SLICES], dataset, shared.choose_augmentation)
    return {CONTEXT: configuration}, reasons


def _choose_roi(planned: Configurations, dataset: ResampledDataset, shared: PlanningRules) -> Chosen:
    """Takes the low resolution as first stage where it is planned, else plans one for it."""
    if LOW_RESOLUTION in planned:
        first = planned[LOW_RESOLUTION]
        fine, fine_reasons = _choose_fine(planned, dataset, shared)
        roi, reasons = choose_roi(fine, first, name=LOW_RESOLUTION)
        return {ROI: roi}, (*fine_reasons, *reasons)
    coarse = _find_coarse(ROI, dataset, shared)
    first, first_reasons = shared.choose_configuration(COARSE, coarse.value)
    roi, reasons = choose_roi(planned[FULL_RESOLUTION], first, name=COARSE)
    return {COARSE: first, ROI: roi}, (explain_coarse(coarse), *first_reasons, *reasons)


def _choose_detection(planned: Configurations, dataset: ResampledDataset, shared: PlanningRules) -> Chosen:
    """Plans a detector of whole cases as first stage."""
    edge = choose_object_edge(shared.fingerprint)
    coarse = _find_coarse(DETECT, dataset, shared.with_network(DetectorRule()), object_edge_mm=edge.value)
    detecting = shared.with_network(measure_object(edge, coarse.value))
    first, first_reasons = detecting.choose_configuration(DETECTOR, coarse.value)
    roi, reasons = choose_roi(
        planned[FULL_RESOLUTION], first, name=DETECTOR, roi=DETECT, margin_voxels=DETECTOR_MARGIN_VOXELS
    )
    found = Decision(coarse.value, f"{coarse.because}; {edge.because}")
    return {DETECTOR: first, DETECT: roi}, (explain_coarse(found, DETECTOR), *first_reasons, *reasons)


def _choose_fine(
    planned: Configurations, dataset: ResampledDataset, shared: PlanningRules
) -> tuple[ConfigurationPlan, tuple[Reason, ...]]:
    """Takes what sees whole images at full resolution where it is planned, else plans a network for the box.

    Raises:
        PlanError: Not even in the box is there time for a network that is finer than the planned one.
    """
    if FULL_RESOLUTION in planned:
        return planned[FULL_RESOLUTION], ()
    box, low = find_box_share(shared.fingerprint), planned[LOW_RESOLUTION]
    seen = crop_to_box(dataset, box, margin_mm=find_margin(low))
    chosen, reasons = shared.choose_configuration(ROI, seen)
    check_is_finer(chosen, low)
    whole, _ = compute_coarser(dataset, np.array(chosen.spacing_mm), case_count=len(shared.fingerprint.cases))
    fine = chosen.model_copy(update={"median_shape_voxels": whole.median_shape_voxels})
    return fine, (explain_box(fine, seen, box), *reasons)


def _find_coarse(
    name: str, dataset: ResampledDataset, shared: PlanningRules, *, object_edge_mm: float | None = None
) -> Decision[ResampledDataset]:
    """Finds the data of a first stage of which a patch holds the median case.

    Raises:
        PlanError: There are none.
    """
    coarse = choose_coarse(
        dataset,
        case_count=len(shared.fingerprint.cases),
        choose_patch=lambda other: shared.choose_patch(other).value.patch_voxels,
        explain=lambda other: explain_missing_pooling(other, shared.topology),
        object_edge_mm=object_edge_mm,
    )
    if coarse.value is None:
        msg = (
            f"{name} needs a coarser network before it, and none exists: {coarse.because}; leave out "
            f"--configuration {name}"
        )
        raise PlanError(msg)
    return Decision(coarse.value, coarse.because)


def _choose_triplanar(planned: Configurations, dataset: ResampledDataset, shared: PlanningRules) -> Chosen:
    configuration, reasons = choose_triplanar(
        dataset,
        slices=planned[SLICES],
        volumes=planned.get(FULL_RESOLUTION),
        choose=shared.choose_configuration,
    )
    return {TRIPLANAR: configuration}, reasons


def _choose_boundary(planned: Configurations, dataset: ResampledDataset, shared: PlanningRules) -> Chosen:
    """Corrects 3d_fullres where it is planned, else 2d."""
    name = FULL_RESOLUTION if FULL_RESOLUTION in planned else SLICES
    base, seen = planned[name], dataset if name == FULL_RESOLUTION else dataset.in_plane
    topology = shared.topology.compute(base.spacing_mm, choose_boundary_patch(base))
    if topology.stage_count < FEWEST_STAGES:
        topology = shared.topology.compute(base.spacing_mm, base.patch_voxels)
    configuration, reasons = choose_boundary(
        base,
        name=name,
        topology=topology,
        choose_network=shared.choose_bare_network,
        batch_size=shared.choose_batch_size(topology, seen),
        choose_transforms=shared.choose_augmentation,
    )
    return {BOUNDARY: configuration}, reasons


def _offer_boundary(planned: Configurations, fingerprint: Fingerprint) -> tuple[Reason, ...]:
    """Offers the correction of classes; cores and borders of objects are not corrected one by one."""
    if fingerprint.targets is not None:
        return ()
    name = FULL_RESOLUTION if FULL_RESOLUTION in planned else SLICES
    return offer_boundary(planned[name], name=name, surface=find_surface_share(fingerprint))


FURTHER_CONFIGURATIONS: Final[Mapping[str, FurtherConfiguration]] = {
    CONTEXT: FurtherConfiguration(
        needs=(SLICES,), choose=_choose_context, offer=lambda planned, dataset, measured: offer_context(dataset)
    ),
    ROI: FurtherConfiguration(
        needs=(FULL_RESOLUTION, LOW_RESOLUTION),
        choose=_choose_roi,
        offer=lambda planned, dataset, measured: offer_roi(planned, find_box_share(measured)),
    ),
    TRIPLANAR: FurtherConfiguration(
        needs=(SLICES,),
        choose=_choose_triplanar,
        offer=lambda planned, dataset, measured: offer_triplanar(dataset, has_volumes=FULL_RESOLUTION in planned),
    ),
    BOUNDARY: FurtherConfiguration(
        needs=(FULL_RESOLUTION, SLICES),
        choose=_choose_boundary,
        offer=lambda planned, dataset, measured: _offer_boundary(planned, measured),
        takes_pictures=True,
    ),
    DETECT: FurtherConfiguration(
        needs=(FULL_RESOLUTION,), choose=_choose_detection, offer=lambda planned, dataset, measured: ()
    ),
}


def sort_further(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts keys of `FURTHER_CONFIGURATIONS` in the order of the table."""
    return tuple(sorted(set(names), key=list(FURTHER_CONFIGURATIONS).index))


def name_options(names: tuple[str, ...]) -> str:
    """Names the options that ask for configurations, for the name of a planner."""
    return "".join(f" --configuration {name}" for name in names)


def choose_further(
    names: tuple[str, ...], planned: Configurations, dataset: ResampledDataset, *, shared: PlanningRules
) -> Chosen:
    """Chooses the configurations that were asked for, and offers others; pictures have none.

    Args:
        names: Keys of `FURTHER_CONFIGURATIONS`.
        planned: The configurations that are planned anyway.
        dataset: The dataset at full resolution.
        shared: The circumstances that all configurations have in common.

    Raises:
        PlanError: One is impossible for this dataset.
    """
    configurations: Configurations = {}
    reasons: list[Reason] = []
    for name, row in FURTHER_CONFIGURATIONS.items():
        is_flat = dataset.median_shape_voxels[0] <= 1
        is_possible = any(name in planned for name in row.needs) and (row.takes_pictures or not is_flat)
        if name in names and not is_possible:
            msg = (
                f"{name} is made of {' or '.join(row.needs)} for volumes, but planned are {', '.join(planned)} for a "
                f"median case of {dataset.median_shape_voxels[0]:g} slices; leave out --configuration {name}"
            )
            if FULL_RESOLUTION in row.needs and LOW_RESOLUTION in planned and not is_flat:
                msg = f"{msg}, or give a longer --budget, in which {FULL_RESOLUTION} can be trained"
            raise PlanError(msg)
        if name in names:
            chosen, own = row.choose(planned, dataset, shared)
            configurations |= chosen
            reasons.extend(own)
        elif is_possible:
            reasons.extend(row.offer(planned, dataset, shared.fingerprint))
    return configurations, tuple(reasons)
