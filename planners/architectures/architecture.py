"""A network of the literature: where it was published, and how it is planned."""

from dataclasses import dataclass
from typing import Protocol

from autoseg.plan.decisions import Reason
from autoseg.plan.network import NetworkPlan
from planners.rules.topology import UNET_TOPOLOGY, Topology, TopologyRule


class ChooseArchitecture(Protocol):
    """Chooses the network of an architecture for a topology."""

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[NetworkPlan, tuple[Reason, ...]]:
        """Returns the network, and a reason for each of its decisions, whose subject is that decision.

        Args:
            topology: Strides and kernels.
            input_channels: Image channels, and masks of a previous stage.
            output_channels: Logit channels.
            width: Features of the first stage; None: those of the paper.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNetwork:
    """The network as it was published, described by a plan.

    Attributes:
        variant: Name among those of the architecture; empty if there is one.
        plan: The plan that describes it.
        parameter_count: Trained parameters as published, or as counted on the code of the authors.
        multiply_adds: Multiply-adds of a forward pass of one image of `extents_voxels`, likewise; None: not known.
        extents_voxels: The input for which these were published.
    """

    variant: str = ""
    plan: NetworkPlan
    parameter_count: int
    multiply_adds: float | None = None
    extents_voxels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network of the literature.

    Attributes:
        name: Key of `planners.architectures.ARCHITECTURES`.
        sentence: One sentence for the command line.
        source: Authors, year, and where to find the paper.
        year: Year of its first publication.
        choose_network: The network for a topology.
        topology: Rule for dividing the patch.
        published: The networks of the paper.
        without_slices: Why there is no 2D network; None: there is one.
        needs_instances: Whether it is planned only where objects are told apart.
    """

    name: str
    sentence: str
    source: str
    year: int
    choose_network: ChooseArchitecture
    topology: TopologyRule = UNET_TOPOLOGY
    published: tuple[PublishedNetwork, ...] = ()
    without_slices: str | None = None
    needs_instances: bool = False
