"""Mask R-CNN with the encoder of ResNet-50 and a pyramid, for separate objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from autoseg.errors import PlanError
from autoseg.labels import InstanceTargets
from autoseg.plan.decisions import Decision, Reason
from autoseg.plan.network import EncoderUPlan, MaskRcnnPlan
from autoseg.plan.network.base import PretrainedPlan
from planners.architectures.architecture import Architecture, PublishedNetwork
from planners.architectures.encoder_u import RESNET_50, EncoderUProfile
from planners.reasons import format_amount, record
from planners.rules.topology import Topology
from planners.rules.unet import BASE_FEATURES

FIRST_LEVEL: Final = 1
"""Stage of the finest level: half of the resolution. As published a quarter, for objects of 32 pixels and more."""
PYRAMID_FEATURES: Final = 256  # as published, as are the next
HIDDEN_FEATURES: Final = 1024
BOX_BINS: Final = {2: 7, 3: 5}  # in 3D a guess: 125 bins, where 343 would take three quarters of all weights
MASK_BINS: Final = {2: 14, 3: 8}
SAMPLES_PER_BIN: Final = {2: 2, 3: 1}
MASK_LAYERS: Final = 4
OBJECT_EDGE_VOXELS: Final = 16
"""A patch has room for as many objects as it has squares or cubes with such edges (guess), at most for ..."""
MOST_OBJECTS: Final = {2: 100, 3: 32}  # ... 100 as published; in 3D a guess, since masks of volumes cost more
PROPOSALS_PER_OBJECT: Final = 2
TRAINING_REGIONS: Final = {2: 128, 3: 32}
POSITIVE_REGIONS: Final = {2: 32, 3: 8}  # a quarter, as published
PROPOSAL_OVERLAP: Final = 0.7
LARGEST_OVERLAP: Final = 0.5
LEAST_SCORE: Final = 0.5
BORDER_FRACTION: Final = 0.25
"""As of the labels of core and border, for which the rule that separates objects is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRcnnProfile:
    """Chooses Mask R-CNN for a topology.

    Attributes:
        encoder: Its encoder.
    """

    encoder: EncoderUProfile = RESNET_50

    def __call__(
        self, topology: Topology, *, input_channels: int, output_channels: int, width: int | None = None
    ) -> tuple[MaskRcnnPlan, tuple[Reason, ...]]:
        """Returns the network with a reason for each of its parameters.

        Raises:
            PlanError: The outputs are not those of cores and borders.
        """
        if output_channels < 3 or output_channels % 2 == 0:
            raise PlanError(NEEDS_INSTANCES)
        encoder, reasons = self.encoder(topology, input_channels=input_channels, output_channels=1, width=width)
        features = Decision(
            max(1, PYRAMID_FEATURES * (width or BASE_FEATURES) // BASE_FEATURES),
            "as published" if width is None else f"{width / BASE_FEATURES:.3g} times as many as published",
        )
        objects = choose_objects(topology.patch_voxels)
        network = self.build(
            encoder, output_channels, features=features.value, first_level=FIRST_LEVEL, objects=objects.value
        )
        levels = Decision(
            network.levels, "from half of the resolution on (as published a quarter): objects may be of a few voxels"
        )
        return network, (
            *reasons,
            record("pyramid", features, format_amount(features.value, "feature")),
            record("levels", levels, format_amount(network.levels, "resolution")),
            record("objects", objects, f"at most {objects.value} of a patch"),
        )

    def build(
        self, encoder: EncoderUPlan, output_channels: int, *, features: int, first_level: int, objects: int
    ) -> MaskRcnnPlan:
        """Builds the plan for an encoder."""
        dimensions = encoder.dimensions
        return MaskRcnnPlan(
            dimensions=dimensions,
            input_channels=encoder.input_channels,
            output_channels=output_channels,
            features_per_stage=encoder.features_per_stage,
            kernel_sizes=encoder.kernel_sizes,
            strides=encoder.strides,
            encoder=encoder.encoder,
            blocks_per_stage=encoder.blocks_per_stage,
            pretrained=encoder.pretrained,
            layers=encoder.layers,
            levels=encoder.stage_count - first_level,
            pyramid_features=features,
            hidden_features=max(1, HIDDEN_FEATURES * features // PYRAMID_FEATURES),
            box_bins=BOX_BINS[dimensions],
            mask_bins=MASK_BINS[dimensions],
            samples_per_bin=SAMPLES_PER_BIN[dimensions],
            mask_layers=MASK_LAYERS,
            proposals=PROPOSALS_PER_OBJECT * objects,
            objects=objects,
            training_regions=TRAINING_REGIONS[dimensions],
            positive_regions=POSITIVE_REGIONS[dimensions],
            proposal_overlap=PROPOSAL_OVERLAP,
            largest_overlap=LARGEST_OVERLAP,
            least_score=LEAST_SCORE,
            border_fraction=BORDER_FRACTION,
        )

    @property
    def name(self) -> str:
        """Name of the encoder in the literature."""
        return self.encoder.name

    def with_pretrained(self, pretrained: PretrainedPlan) -> "MaskRcnnProfile":
        """Returns the profile whose encoder begins with the weights of a file."""
        return replace(self, encoder=self.encoder.with_pretrained(pretrained))

    def build_published(self) -> EncoderUPlan:
        """Builds the encoder of the paper, for colour images."""
        return self.encoder.build_published()


def check_targets(targets: InstanceTargets | None) -> None:
    """Checks that objects are told apart by what Mask R-CNN draws.

    Raises:
        PlanError: They are not.
    """
    if targets is None:
        raise PlanError(NEEDS_INSTANCES)
    if targets.centre_steps:
        raise PlanError(FINDS_NO_DISTANCES)


def choose_objects(patch_voxels: Sequence[int]) -> Decision[int]:
    """Chooses how many objects of a patch are drawn."""
    dimensions = len(patch_voxels)
    room, most = prod(patch_voxels) // OBJECT_EDGE_VOXELS**dimensions, MOST_OBJECTS[dimensions]
    return Decision(
        max(1, min(room, most)),
        f"the patch has room for {format_amount(room, 'object')} with edges of {OBJECT_EDGE_VOXELS} voxels, and each "
        f"costs time whether it is there or not, so {most} at most",
    )


NEEDS_INSTANCES: Final = (
    "mask_rcnn finds separate objects: expected core and border of every class as labels, found classes alone; plan "
    "with --task instances, for which the dataset needs instancesTr, or choose another --architecture"
)
FINDS_NO_DISTANCES: Final = (
    "mask_rcnn draws cores and borders of the objects that it finds: expected these as labels, found centre distances, "
    "too; leave out --targets centre_distance, or choose another --architecture"
)
PUBLISHED_CLASSES: Final = 90
_PROFILE: Final = MaskRcnnProfile()


def _build_published() -> MaskRcnnPlan:
    """Builds the network for the 91 labels of COCO, background included."""
    encoder = _PROFILE.build_published()
    return _PROFILE.build(encoder, 1 + 2 * PUBLISHED_CLASSES, features=PYRAMID_FEATURES, first_level=2, objects=100)


MASK_RCNN: Final = Architecture(
    name="mask_rcnn",
    sentence="Boxes, classes and masks of separate objects, on a pyramid over ResNet-50; for --task instances.",
    source="He et al. 2017, ICCV, arXiv:1703.06870",
    year=2017,
    choose_network=_PROFILE,
    published=(PublishedNetwork(variant="ResNet-50", plan=_build_published(), parameter_count=44_401_393),),
    needs_instances=True,
)
