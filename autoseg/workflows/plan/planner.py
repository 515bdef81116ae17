"""The planners that a workflow may be given."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from autoseg.fingerprint import Fingerprint, Machine
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.network_cost import MeasureCost
from autoseg.plan.document import Plan

PlanRule = Callable[[Fingerprint, Machine], Plan]
CheckLabels = Callable[[LabelScheme, InstanceTargets | None, str], None]
"""Raises a PlanError where no plan exists for the labels of a dataset, its targets and its name."""


@runtime_checkable
class PlannerLike(Protocol):
    """Protocol of planners such as `planners.PLANNERS["default"]`."""

    @property
    def name(self) -> str:
        """Name that plans record."""
        ...

    @property
    def measures_throughput(self) -> bool:
        """Whether it needs the measured throughput of the device that will train."""
        ...

    def plan(self, fingerprint: Fingerprint, machine: Machine, *, measure_cost: MeasureCost | None = None) -> Plan:
        """Decides everything about a dataset."""
        ...


@runtime_checkable
class LabelChecker(Protocol):
    """Protocol of planners that know from labels alone what is impossible, as all of `planners.PLANNERS` do."""

    def check_labels(self, labels: LabelScheme, targets: InstanceTargets | None, dataset_name: str) -> None:
        """Raises a PlanError where no plan exists for the labels of a dataset, its targets and its name."""
        ...


def find_label_check(planner: PlannerLike) -> CheckLabels | None:
    """Finds the check of a planner that needs no images; None where it has none."""
    return planner.check_labels if isinstance(planner, LabelChecker) else None
