"""Residual units of SegResNet (Myronenko 2018, arXiv:1810.11654)."""

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.blocks import LINEAR, Enlargement
from autoseg.networks.parts.additive_u.unit import UnitSite, build_step
from autoseg.networks.parts.layers import build_activation, build_kernel, build_normalization, get_ones
from autoseg.plan.network.additive_u import PreActivationUnitPlan
from autoseg.plan.network.layers import LayerPlan


def build_pre_activation_unit(plan: PreActivationUnitPlan, site: UnitSite) -> nn.Module:
    """Builds a unit; the stem and the steps are convolutions without normalization and activation."""
    if site.step == "none":
        return PreActivationUnit(site)
    if site.step == "higher" and plan.upsampling == "linear":
        reduction = build_kernel(site.channels_in, site.channels_out, get_ones(site.kernel), bias=False)
        return nn.Sequential(reduction, Enlargement(site.stride, LINEAR[site.dimensions]))
    return build_step(site, site.channels_out, site.kernel, bias=False)


class PreActivationUnit(nn.Module):
    """Two convolutions, each after normalization and activation, added to the input."""

    def __init__(self, site: UnitSite) -> None:
        super().__init__()
        self.first = PreActivatedConvolution(site.channels_in, site.kernel, site.layers)
        self.second = PreActivatedConvolution(site.channels_in, site.kernel, site.layers)

    def forward(self, features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        """Adds the result of both convolutions to their input."""
        residual: Tensor = self.second(self.first(features))
        return features + residual


class PreActivatedConvolution(nn.Sequential):
    """Normalization, activation, convolution."""

    def __init__(self, channels: int, kernel: tuple[int, ...], layers: LayerPlan) -> None:
        super().__init__()
        self.norm = build_normalization(layers, channels, len(kernel))
        activation = build_activation(layers)
        if layers.normalization == "none" and isinstance(activation, nn.ReLU | nn.LeakyReLU):
            activation.inplace = False  # others read what it would overwrite
        self.activation = activation
        self.convolution = build_kernel(channels, channels, kernel, bias=layers.normalization == "none")
