"""Networks alike, one for the slices across each axis of a volume, which are trained in turn.

A network for one plane alone learns it better in a third of the steps than one that sees all planes.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork, TargetKind
from autoseg.plan.network.base import NetworkPlan


class PlaneNetworks(SegmentationNetwork):
    """The networks of all planes; a call computes with one of them.

    Attributes:
        planes: The networks, in the order of `plane_axes` of the configuration.
    """

    def __init__(self, plan: NetworkPlan, networks: Sequence[SegmentationNetwork]) -> None:
        super().__init__(plan)
        self.planes = nn.ModuleList(networks)

    @property
    def networks(self) -> list[SegmentationNetwork]:
        """The networks of all planes."""
        return cast(list[SegmentationNetwork], list(self.planes))

    def forward(self, image: Tensor, *further: Tensor | bool, plane: int = 0, **named: int) -> tuple[Tensor, ...]:
        """Computes the outputs of the network of a plane.

        Args:
            image: Slices across one axis, shape (batch, channel, y, x).
            plane: Index of that axis in `plane_axes`.
        """
        outputs: tuple[Tensor, ...] = self.planes[plane](image, *further, **named)
        return outputs

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of each network."""
        return self.networks[0].output_weights

    @property
    def output_targets(self) -> tuple[TargetKind, ...]:
        """Those of each network."""
        return self.networks[0].output_targets

    @property
    def output_layers(self) -> tuple[nn.Module, ...] | None:
        """The layers of all networks."""
        layers = [network.output_layers for network in self.networks]
        return None if None in layers else tuple(layer for some in layers for layer in some or ())

    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Sets the first weights of one network after the other, all of them different."""
        for network in self.networks:
            network.initialize_weights(generator)

    def set_deep_supervision(self, *, enabled: bool) -> None:
        """Makes all networks return all outputs, or the first alone."""
        super().set_deep_supervision(enabled=enabled)
        for network in self.networks:
            network.set_deep_supervision(enabled=enabled)


class PreparedPlanes(nn.Module):
    """The same, prepared for prediction.

    Attributes:
        planes: The networks, in the order of `plane_axes` of the configuration.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.planes = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs of the first network, as those of the others take as long."""
        outputs: tuple[Tensor, ...] = self.planes[0](image)
        return outputs


def list_planes(network: nn.Module) -> list[nn.Module]:
    """Lists the networks of all planes; a network that sees all of them is the only one."""
    return list(network.planes) if isinstance(network, PlaneNetworks | PreparedPlanes) else [network]


def join_planes(networks: Sequence[nn.Module], planes: int) -> tuple[nn.Module, ...]:
    """Joins every so many networks, those of all planes; networks that see all planes stay as they are."""
    if planes == 1:
        return tuple(networks)
    return tuple(PreparedPlanes(networks[first : first + planes]) for first in range(0, len(networks), planes))


def select_plane(network: nn.Module, plane: int) -> nn.Module:
    """Returns the network of a plane; one that sees all planes itself."""
    networks = list_planes(network)
    return networks[plane] if len(networks) > 1 else network


def change_planes(network: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Returns what a change makes of a network, or of that of each plane."""
    networks = list_planes(network)
    return PreparedPlanes([change(one) for one in networks]) if len(networks) > 1 else change(network)
