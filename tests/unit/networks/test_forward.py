"""What the networks compute, against an independent forward pass made of torch's functions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.networks import SegmentationNetwork, build_network
from autoseg.networks.blocks import average_blocks
from autoseg.plan import UNetPlan

UNETS = ["plain_unet", "residual_encoder_unet"]
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
ENLARGE = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
POOL = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


class Yardstick:
    """Computes every decoder level's logits, highest resolution first, from a plan and named weights."""

    def __init__(self, plan: UNetPlan, weights: dict[str, Tensor]) -> None:
        self.plan, self.weights, self.used = plan, weights, set[str]()

    def take(self, name: str) -> Tensor:
        self.used.add(name)
        return self.weights[name]

    def convolve(self, x: Tensor, name: str, *, stride: tuple[int, ...] | None = None, bias: bool = True) -> Tensor:
        weight = self.take(f"{name}.convolution.weight")
        padding = tuple(extent // 2 for extent in weight.shape[2:])
        offset = self.take(f"{name}.convolution.bias") if bias else None
        x = CONVOLVE[self.plan.dimensions](x, weight, offset, stride or 1, padding)
        axes = tuple(range(2, x.ndim))
        x = (x - x.mean(axes, keepdim=True)) / torch.sqrt(x.var(axes, correction=0, keepdim=True) + 1e-5)
        shape = (1, -1, *(1,) * self.plan.dimensions)
        return x * self.take(f"{name}.norm.weight").view(shape) + self.take(f"{name}.norm.bias").view(shape)

    def unit(self, x: Tensor, name: str, *, stride: tuple[int, ...] | None = None) -> Tensor:
        return functional.leaky_relu(self.convolve(x, f"{name}.normalized", stride=stride), 0.01)

    def block(self, x: Tensor, name: str, *, stride: tuple[int, ...]) -> Tensor:
        inner = self.convolve(self.unit(x, f"{name}.first", stride=stride), f"{name}.second")
        around = POOL[self.plan.dimensions](x, stride)
        if around.shape[1] != inner.shape[1]:
            around = self.convolve(around, f"{name}.shortcut.projection", bias=False)
        return functional.leaky_relu(inner + around, 0.01)

    def encode(self, x: Tensor) -> list[Tensor]:
        is_plain = self.plan.family == "plain_unet"
        features = []
        if not is_plain:
            x = self.unit(x, "encoder.stem")
        for stage, count in enumerate(self.plan.blocks_per_stage):
            for index in range(count):
                stride = self.plan.strides[stage] if index == 0 else (1,) * self.plan.dimensions
                name = f"encoder.stages.{stage}.{index}"
                x = self.unit(x, name, stride=stride) if is_plain else self.block(x, name, stride=stride)
            features.append(x)
        return features

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        x, logits = features[-1], []
        for level in reversed(range(len(features) - 1)):
            stride = self.plan.strides[level + 1]
            parameters = [self.take(f"levels.{level}.upsampling.{part}") for part in ("weight", "bias")]
            x = torch.cat((ENLARGE[self.plan.dimensions](x, *parameters, stride), features[level]), 1)
            for index in range(self.plan.convolutions_per_decoder_stage[-1 - level]):
                x = self.unit(x, f"levels.{level}.units.{index}")
            head = [self.take(f"heads.{level}.{part}") for part in ("weight", "bias")]
            logits.insert(0, CONVOLVE[self.plan.dimensions](x, *head))
        return logits


def build_random_network(plan: UNetPlan) -> SegmentationNetwork:
    """All weights random, so that biases and normalizations matter as well."""
    network = build_network(plan)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def draw_image(plan: UNetPlan, batch: int = 2) -> Tensor:
    extents = (4, 16, 8) if plan.dimensions == 3 else (16, 24)
    return torch.randn((batch, plan.input_channels, *extents), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_logits_equal_those_of_an_independent_forward_pass(make_plan, family: str, dimensions: int) -> None:
    plan = make_plan(family, dimensions, convolutions_per_decoder_stage=(1, 2))
    network = build_random_network(plan)
    yardstick = Yardstick(plan, dict(network.state_dict()))
    expected = yardstick.decode(yardstick.encode(draw_image(plan)))

    logits = network(draw_image(plan))

    torch.testing.assert_close(logits, tuple(expected[:-1]), rtol=1e-4, atol=1e-4)
    assert yardstick.used == set(network.state_dict())


@pytest.mark.parametrize("family", UNETS)
def test_evaluation_mode_changes_nothing(make_plan, family: str) -> None:
    plan = make_plan(family)
    network, image = build_random_network(plan), draw_image(plan)
    torch.testing.assert_close(network.eval()(image), network.train()(image), rtol=0, atol=0)


def test_averages_of_blocks_are_those_of_the_pooling_and_so_are_their_gradients() -> None:
    features = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for kernel in ((2, 2, 2), (1, 2, 2)):
        expected, found = functional.avg_pool3d(features, kernel), average_blocks(features, kernel)
        torch.testing.assert_close(found, expected)
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        gradients = [torch.autograd.grad(output, features, upstream)[0] for output in (found, expected)]
        torch.testing.assert_close(*gradients)
