"""Networks of two branches, one for slices and one for volumes: H-DenseUNet."""

from dataclasses import dataclass, replace
from typing import Final

from autoseg.plan.decisions import Reason
from autoseg.plan.network.base import PretrainedPlan
from autoseg.plan.network.encoder_u import DenseNetEncoderPlan, EncoderUPlan
from autoseg.plan.network.hybrid import HybridPlan
from planners.architectures.architecture import Architecture
from planners.architectures.encoder_u import DENSENET_161, EncoderUProfile, compute_dense_features
from planners.rules.topology import Topology

VOLUME_BLOCKS: Final = (0, 0, 3, 4, 12, 8)
VOLUME_GROWTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridProfile:
    """Chooses the branches for a topology of three axes.

    Attributes:
        slices: The 2D branch, whose encoder may begin with the weights of others.
        volumes: The 3D branch.
    """

    slices: EncoderUProfile
    volumes: EncoderUProfile

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[HybridPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each parameter of its branches."""
        assert len(topology.patch_voxels) == 3, "planners leave out slices"
        slices, slice_reasons = self.slices(
            flatten_topology(topology), input_channels=input_channels, output_channels=output_channels, width=width
        )
        volumes, volume_reasons = self.volumes(
            topology, input_channels=input_channels + output_channels, output_channels=output_channels, width=width
        )
        decoded = (*volumes.decoder_features_per_stage[:-1], slices.decoder_features_per_stage[-1])
        network = HybridPlan(
            dimensions=3,
            input_channels=input_channels,
            output_channels=output_channels,
            slices=slices,
            volumes=volumes.model_copy(update={"decoder_features_per_stage": decoded}),
        )
        return network, (*_prefix("slices", slice_reasons), *_prefix("volumes", volume_reasons))

    def with_pretrained(self, pretrained: PretrainedPlan) -> "HybridProfile":
        """Returns the profile whose 2D branches begin with the weights of a file."""
        return replace(self, slices=self.slices.with_pretrained(pretrained))

    def build_published(self) -> EncoderUPlan:
        """Builds the 2D branch of the paper, for colour images and one output."""
        return self.slices.build_published()


def flatten_topology(topology: Topology) -> Topology:
    """Returns the topology of the slices along the first axis."""
    return Topology(
        patch_voxels=topology.patch_voxels[1:],
        strides=tuple(stride[1:] for stride in topology.strides),
        kernel_sizes=tuple(kernel[1:] for kernel in topology.kernel_sizes),
        divisors=topology.divisors[1:],
    )


def _prefix(branch: str, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    return tuple(reason.model_copy(update={"subject": f"{branch}: {reason.subject}"}) for reason in reasons)


H_DENSE_UNET: Final = Architecture(
    name="h_dense_unet",
    sentence="A 2D DenseNet for slices and a 3D one that also sees its result, whose features are added; 3D only.",
    source="Li et al. 2018, TMI, arXiv:1709.07330",
    year=2017,
    choose_network=HybridProfile(
        slices=DENSENET_161,
        volumes=replace(
            DENSENET_161,
            name="DenseNet-65",
            encoder=DenseNetEncoderPlan(growth=VOLUME_GROWTH),
            features=compute_dense_features(VOLUME_GROWTH, VOLUME_BLOCKS),
            blocks=VOLUME_BLOCKS,
        ),
    ),
    without_slices="h_dense_unet joins a branch for slices and one for volumes, so there is none for slices alone",
)
