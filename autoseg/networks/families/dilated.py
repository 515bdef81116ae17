"""Networks with a dilated ResNet and a head that sees all of its features: DeepLabV3+, DANet."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.dilated_heads import HEADS
from autoseg.networks.parts.encoder import enlarge_to
from autoseg.networks.parts.layers import Layer
from autoseg.networks.parts.resampling import MAXIMUM_POOLINGS
from autoseg.networks.parts.residual_units import build_units
from autoseg.plan.network import DilatedPlan


class DilatedNetwork(SegmentationNetwork):
    """A ResNet of which the last stages are dilated instead of strided, and a head."""

    plan: DilatedPlan

    def __init__(self, plan: DilatedPlan) -> None:
        super().__init__(plan)
        self.stem = build_pooled_stem(plan)
        self.stages = nn.ModuleList(build_dilated_stages(plan))
        self.head = HEADS[plan.head.name](plan, plan.head)  # type: ignore[call-arg]  # every head takes its own plan

    def forward(self, image: Float[Tensor, "batch channel *space"]) -> tuple[Float[Tensor, "batch output ..."], ...]:
        """Computes logits, interpolated to the full resolution."""
        logits = self.head(self.compute_features(image), len(self.output_weights))
        return tuple(enlarge_to(output, image.shape[2:]) for output in logits)

    def compute_features(self, image: Float[Tensor, "batch channel *space"]) -> list[Tensor]:
        """Computes the features of every stage."""
        image = self.stem(image)
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return features

    @property
    def output_weights(self) -> tuple[float, ...]:
        """Those of the plan, normalized to a sum of 1."""
        weights = self.plan.output_weights if self.deep_supervision else self.plan.output_weights[:1]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        """What computes logits."""
        return tuple(f"head.classifiers.{index}" for index in range(len(self.head.classifiers)))


def build_pooled_stem(plan: DilatedPlan) -> nn.Sequential:
    """Builds a strided convolution, and a maximum pooling for every further layer of the stem."""
    first, *others = zip(plan.stem_kernel_sizes, plan.stem_strides, strict=True)
    kernel, stride = first
    convolution = Layer(plan.input_channels, plan.stem_features, kernel, layers=plan.layers, stride=stride)
    pool = MAXIMUM_POOLINGS[plan.dimensions]
    poolings = (
        pool(kernel, stride=stride, padding=tuple((extent - 1) // 2 for extent in kernel)) for kernel, stride in others
    )
    return nn.Sequential(convolution, *poolings)


def build_dilated_stages(plan: DilatedPlan) -> list[nn.Module]:
    """Builds the stages of residual blocks."""
    channels = pairwise((plan.stem_features, *plan.features_per_stage))
    before, stages = (1,) * plan.dimensions, []
    for stage, (ends, (stride, dilation)) in enumerate(zip(channels, plan.steps, strict=True)):
        stages.append(
            build_units(
                plan.block,
                ends,
                plan.kernel_sizes[stage],
                count=plan.blocks_per_stage[stage],
                layers=plan.layers,
                stride=stride,
                dilations=(before, dilation),
            )
        )
        before = dilation
    return stages
