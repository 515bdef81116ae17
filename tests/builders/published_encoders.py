"""The encoders of torchvision at any width: the same names of tensors, and the features of every resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PublishedVgg(nn.Module):
    """VGG without normalization."""

    def __init__(self, features: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wide, count in zip(features, blocks, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU()]
                channels = wide
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(channels, 10))

    def forward(self, image: Tensor) -> list[Tensor]:
        found = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(image)
            image = layer(image)
        return found


class PublishedBlock(nn.Module):
    """A residual block of two or three convolutions."""

    def __init__(self, channels: int, wide: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        inner = wide // 4 if bottleneck else wide
        widths = (channels, inner, inner, wide) if bottleneck else (channels, inner, wide)
        kernels, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        self.count = len(kernels)
        for index, (kernel, step) in enumerate(zip(kernels, strides, strict=True)):
            convolution = nn.Conv2d(widths[index], widths[index + 1], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{index + 1}", convolution)
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(widths[index + 1]))
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != wide:
            self.downsample = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, image: Tensor) -> Tensor:
        found = image
        for index in range(1, self.count + 1):
            found = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(found))
            found = found.relu() if index < self.count else found
        shortcut: Tensor = image if self.downsample is None else self.downsample(image)
        return (found + shortcut).relu()


class PublishedResNet(nn.Module):
    """ResNet; `features` and `blocks` are those of the four stages of blocks."""

    def __init__(self, stem: int, features: Sequence[int], blocks: Sequence[int], *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        channels = stem
        for stage, (wide, count) in enumerate(zip(features, blocks, strict=True), 1):
            stride = 1 if stage == 1 else 2
            first = PublishedBlock(channels, wide, stride=stride, bottleneck=bottleneck)
            others = (PublishedBlock(wide, wide, stride=1, bottleneck=bottleneck) for _ in range(count - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
            channels = wide
        self.fc = nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> list[Tensor]:
        found = [image, self.bn1(self.conv1(image)).relu()]
        features = nn.functional.max_pool2d(found[-1], 3, 2, 1)
        for stage in range(1, 5):
            features = self.get_submodule(f"layer{stage}")(features)
            found.append(features)
        return found


class PublishedDenseNet(nn.Module):
    """DenseNet; `blocks` has the layers of the four dense blocks."""

    def __init__(self, growth: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Module()
        channels = 2 * growth
        self.features.conv0 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(channels)
        self.blocks = tuple(blocks)
        for block, count in enumerate(blocks, 1):
            dense = nn.Module()
            for layer in range(1, count + 1):
                one = nn.Module()
                one.norm1, one.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
                one.norm2 = nn.BatchNorm2d(4 * growth)
                one.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
                dense.add_module(f"denselayer{layer}", one)
                channels += growth
            self.features.add_module(f"denseblock{block}", dense)
            if block < len(blocks):
                transition = nn.Module()
                transition.norm = nn.BatchNorm2d(channels)
                transition.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
                self.features.add_module(f"transition{block}", transition)
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> list[Tensor]:
        parts = self.features
        found = [image, parts.norm0(parts.conv0(image)).relu()]
        features = nn.functional.max_pool2d(found[-1], 3, 2, 1)
        for block in range(1, len(self.blocks) + 1):
            for one in parts.get_submodule(f"denseblock{block}").children():
                inner = one.conv1(one.norm1(features).relu())
                features = torch.cat((features, one.conv2(one.norm2(inner).relu())), dim=1)
            found.append(features)
            if block < len(self.blocks):
                transition = parts.get_submodule(f"transition{block}")
                features = nn.functional.avg_pool2d(transition.conv(transition.norm(features).relu()), 2)
        found[-1] = parts.norm5(features).relu()
        return found


def randomize(network: nn.Module) -> nn.Module:
    """Draws weights and running statistics, so that every tensor matters; returns the network for evaluation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
                if tensor.ndim > 1:
                    tensor.sub_(0.35)
                if name.endswith("running_var"):
                    tensor.add_(0.5)
    return network.eval()
