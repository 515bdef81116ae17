"""Maps of weights between 0 and 1 that a network computes for every voxel, and that can be looked at."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import enlarge_to


class AttentionMap(nn.Sigmoid):
    """The sigmoid that gives a map of one channel; without weights.

    Attributes:
        title: Name of the map in its network, for the files that it is written to.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title


def find_attention_maps(network: nn.Module) -> dict[str, AttentionMap]:
    """Finds the maps of a network by their titles; empty for most networks."""
    return {module.title: module for module in network.modules() if isinstance(module, AttentionMap)}


class RecordingNetwork(nn.Module):
    """A network whose output has its attention maps as further channels, enlarged to the extents of the logits.

    The network has to be executed as it is, not compiled.

    Attributes:
        titles: The titles of the maps, in the order of the channels.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.recorded: dict[str, Tensor] = {}
        found = find_attention_maps(network)
        self.titles = tuple(found)
        for title, module in found.items():
            module.register_forward_hook(partial(self._record, title))

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."]]:
        """Computes logits of the full resolution and the maps."""
        logits: Tensor = self.network(image)[0]
        extents = logits.shape[2:]
        maps = [enlarge_to(self.recorded.pop(title).to(logits.dtype), extents) for title in self.titles]
        return (torch.cat((logits, *maps), dim=1),)

    def _record(self, title: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module, inputs
        self.recorded[title] = output
