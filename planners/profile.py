"""The values in which one planner differs from another; everything else is common to all of them."""

from dataclasses import dataclass
from typing import Protocol

from autoseg.plan.decisions import Reason
from autoseg.plan.network import NetworkPlan
from planners.heads import Head
from planners.rules.memory import CountObjective, MemoryCalibration, PatchMustFit
from planners.rules.topology import UNET_TOPOLOGY, Topology, TopologyRule


class ChooseNetwork(Protocol):
    """Chooses the network of a preset, of any family, for a topology."""

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int
    ) -> tuple[NetworkPlan, tuple[Reason, ...]]:
        """Returns the network, and a reason for each of its decisions, whose subject is that decision."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The values in which a planner differs from others.

    Attributes:
        choose_network: The network for a topology.
        topology: Rule for dividing the patch; networks that do not divide it as the U-Nets do need a rule of their own.
        memory_gb: Accelerator memory to plan for where none is stated.
        calibration: Memory that networks may keep; `planners.rules.memory.PLAIN_CALIBRATION` for every family that
            was not calibrated itself.
        patch_must_fit: The batch with which a patch has to fit into the memory: the smallest allowed one, so that
            the patch grows at the expense of the batch, or the reference batch.
        without_slices: Why there is no 2D network; None: there is one.
        head: Replaces the last stages of the network; None: it stays as it is.
        dataset_fraction_limit: A batch sees at most this share of all voxels of the dataset.
        count_objective: Counts the memory of the objective beside that of the network; None: next to none.
    """

    choose_network: ChooseNetwork
    memory_gb: float
    calibration: MemoryCalibration
    patch_must_fit: PatchMustFit
    dataset_fraction_limit: float
    topology: TopologyRule = UNET_TOPOLOGY
    without_slices: str | None = None
    head: Head | None = None
    count_objective: CountObjective | None = None
