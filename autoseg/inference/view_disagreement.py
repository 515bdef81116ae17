"""Disagreement of the predictions that are averaged: of folds, mirrored views, overlapping windows, and samples.

The mean of logits stands for the normalized geometric mean of the probabilities. How far the predictions lie apart
follows from two numbers per voxel: the mean of their log-sum-exp, and the log-sum-exp of the mean. The exponential of
the second minus the first is the sum over the classes of the geometric mean of their probabilities. It is Matusita's
affinity of several distributions (1967): 1 where all are equal, 0 where two exclude each other.

So one further channel of the network suffices, which is averaged over folds, views and windows as the logits are.
Neither the logits of a single fold or view nor any sum but these exists. A network that averages samples itself
averages their log-sum-exp, too.
"""

import copy
import math
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Float16, Float32
from torch import Tensor, nn
from torch.nn import functional

from autoseg.errors import PredictionError
from autoseg.inference.execution.preparation import AutocastNetwork, ReducedNetwork
from autoseg.inference.model import SegmentationModel
from autoseg.labels import LabelScheme
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.networks.parts.planes import change_planes
from autoseg.plan.document import Plan
from autoseg.plan.network import DiffusionUNetPlan
from autoseg.runtime.captured_network import CapturedNetwork


class NormalizingNetwork(nn.Module):
    """A network whose output has the log-sum-exp of the logits as a further channel; of regions, their sum of softplus.

    Attributes:
        network: The network, executed in whatever way.
    """

    def __init__(self, network: nn.Module, *, has_regions: bool) -> None:
        super().__init__()
        self.network = network
        self.has_regions = has_regions

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."]]:
        """Computes logits of the full resolution and their normalizer."""
        logits: Tensor = self.network(image)[0]
        return (torch.cat((logits, compute_normalizer(logits, has_regions=self.has_regions, axis=1)), dim=1),)


def compute_normalizer(logits: Tensor, *, has_regions: bool, axis: int) -> Tensor:
    """Computes what logits minus itself makes logarithms of probabilities; `axis` keeps one channel."""
    if has_regions:
        return functional.softplus(logits).sum(axis, keepdim=True)
    return torch.logsumexp(logits, axis, keepdim=True)


def record_normalizers(model: SegmentationModel) -> SegmentationModel:
    """Returns a model that predicts one more channel, the mean normalizer, and the same logits bit for bit.

    Raises:
        PredictionError: The network sees one class at a time, so that there are no logits of all; or its samples cannot
            be told apart, because it is compiled.
    """
    plan, part = model.plan, model.configuration_plan
    if part.is_class_by_class:
        msg = (
            f"maps of uncertainty are those of a network that tells all classes apart, and {model.configuration} sees "
            f"one at a time; predict without them, or with --configuration {part.previous_configuration}"
        )
        raise PredictionError(msg)
    has_regions = plan.labels.has_regions
    normalize = partial(_normalize, model=model, has_regions=has_regions)
    wide = part.network.model_copy(update={"output_channels": part.network.output_channels + 1})
    configurations = plan.configurations | {model.configuration: part.model_copy(update={"network": wide})}
    return replace(
        model,
        networks=tuple(change_planes(network, normalize).eval() for network in model.networks),
        plan=plan.model_copy(update={"configurations": configurations}),
    )


def count_samples(model: SegmentationModel) -> int:
    """Counts the predictions that a network averages itself, from other noise each."""
    return _count_samples(model.configuration_plan.network)


def averages_samples(plan: Plan) -> bool:
    """Returns whether a network of a plan averages several predictions itself, which eager PyTorch tells apart."""
    return any(_count_samples(part.network) > 1 for part in plan.configurations.values())


def _count_samples(planned: object) -> int:
    return planned.samples if isinstance(planned, DiffusionUNetPlan) else 1


def _normalize(network: nn.Module, *, model: SegmentationModel, has_regions: bool) -> nn.Module:
    samples = count_samples(model)
    if samples == 1:
        return NormalizingNetwork(network, has_regions=has_regions)
    summarizing = _summarize_samples(network, partial(compute_normalizer, has_regions=has_regions, axis=1))
    if summarizing is None:
        msg = (
            f"the disagreement of the {samples} samples of {model.configuration} is computed in the network, "
            f"and it is compiled here ({model.execution}); use --execution eager, or predict without maps of "
            f"uncertainty"
        )
        raise PredictionError(msg)
    return summarizing


def _summarize_samples(network: nn.Module, summarize: partial[Tensor]) -> nn.Module | None:
    """Returns a network of the same weights that also summarizes its samples; None where it was compiled.

    What is replayed as a CUDA graph runs as it is, which computes the same.
    """
    if isinstance(network, CapturedNetwork):
        return _summarize_samples(network.network, summarize)
    copied = copy.copy(network)
    copied._modules = dict(network._modules)
    if isinstance(copied, DiffusionUNet):
        copied.summarize = summarize
        return copied
    if not isinstance(copied, ReducedNetwork | AutocastNetwork):
        return None
    inner = _summarize_samples(copied.network, summarize)
    if inner is not None:
        copied.network = inner
    return None if inner is None else copied


@torch.inference_mode()
def compute_uncertainty(recorded: Float32[Tensor, "output z y x"], labels: LabelScheme) -> Float16[Tensor, "2 z y x"]:
    """Computes entropy and disagreement of every voxel, both from 0 to 1, slice by slice.

    The entropy is that of the averaged prediction, as a fraction of the largest possible one. The disagreement is 1
    minus the affinity of the predictions that were averaged; it is 0 where there was only one.

    Args:
        recorded: Logits and, as the last channel, the mean normalizer of a model of `record_normalizers`.
        labels: Label scheme.
    """
    maps = recorded.new_zeros((2, *recorded.shape[1:]), dtype=torch.float16)
    for place, values in zip(maps.unbind(1), recorded.unbind(1), strict=True):
        logits, normalizer = values[:-1], values[-1]
        own = compute_normalizer(logits, has_regions=labels.has_regions, axis=0)[0]
        place[0] = _compute_entropy(logits, has_regions=labels.has_regions)
        place[1] = -torch.expm1(own - normalizer).clamp_(-1, 0)
    return maps


def _compute_entropy(logits: Float32[Tensor, "output y x"], *, has_regions: bool) -> Float32[Tensor, "y x"]:
    """Computes the entropy as a fraction of the largest possible one; of regions, the mean of theirs."""
    if has_regions:
        inside, outside = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        entropy = -(inside.exp() * inside + outside.exp() * outside)
        return entropy.mean(0) / math.log(2)
    logarithms = torch.log_softmax(logits, 0)
    return -(logarithms.exp() * logarithms).sum(0) / math.log(len(logits))
