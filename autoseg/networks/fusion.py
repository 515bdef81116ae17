"""Modules that are trained in another form than they predict in."""

from abc import ABC, abstractmethod

from torch import nn


class FusibleModule(nn.Module, ABC):
    """A module for which a cheaper one computes the same with the weights that it has after training."""

    @abstractmethod
    def fuse(self) -> nn.Module:
        """Returns the cheaper module, which may share weights with this one; this one must not be used afterwards."""


def fuse_modules(network: nn.Module) -> None:
    """Replaces every fusible module of a trained network."""
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, FusibleModule):
                setattr(parent, name, module.fuse())
