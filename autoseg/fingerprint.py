"""Schemas of the measurements of a dataset (`Fingerprint`) and of the computer (`Machine`).

Together they are the only input of planners.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from autoseg.document import MOST_RESULT_BYTES, CasePart, Document, Packed, Part, PositiveTriple, ShapeTriple
from autoseg.geometry import DistanceUnit
from autoseg.labels import InstanceTargets, LabelScheme

CPU_NAME: Final = "CPU"
UNDISTURBED_SHARE: Final = 0.8  # of the cores' time; threads that wait for each other take the rest on an idle machine


class ForegroundIntensities(Part):
    """Intensities of one channel inside the foreground; every case has the same weight, however large it is.

    The percentiles are the 0.5th, 50th (median) and 99.5th.
    """

    mean: float
    median: float
    std: Annotated[float, Field(ge=0)]
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


class ChannelFingerprint(Part):
    """One image channel.

    Attributes:
        name: Name of the channel in dataset.json; decides the normalization.
        foreground: None if no case has any foreground voxel.
    """

    name: str
    foreground: ForegroundIntensities | None


class ResampledCounts(CasePart):
    """Voxels of every class at the spacing that a case is probably resampled to, before a planner decides.

    Attributes:
        spacing_mm: The median spacing of the dataset.
        scale: Number of voxels at that spacing that have the volume of one in the file.
        voxel_counts: Voxels of every class by interpolation alone, before small objects are kept.
    """

    spacing_mm: PositiveTriple
    scale: Annotated[float, Field(gt=0)]
    voxel_counts: tuple[int, ...]


class MirrorOverlap(Part):
    """Mean overlap (Dice) of a label with mirror images about the centre of the foreground, along one axis.

    Attributes:
        label: Internal label.
        axis: Array axis (z, y, x), in the training orientation.
        case_count: Number of cases that have the label.
        own: Overlap with its own mirror image.
        partner: The other label whose mirror image it overlaps most; None if it overlaps none.
        partner_overlap: Overlap with that mirror image, over the cases that have both.
    """

    label: Annotated[int, Field(ge=1)]
    axis: Annotated[int, Field(ge=0, le=2)]
    case_count: Annotated[int, Field(ge=1)]
    own: Annotated[float, Field(ge=0, le=1)]
    partner: int | None
    partner_overlap: Annotated[float, Field(ge=0, le=1)]


class CaseFingerprint(CasePart):
    """One training case, axes z, y, x in the training orientation.

    Attributes:
        spacing_mm: Voxel distances.
        shape_voxels: Shape before cropping.
        cropped_shape_voxels: Shape of the bounding box of the nonzero region.
        relative_size_after_cropping: Voxels after cropping / voxels before.
        voxel_counts: Voxels of every class of the label scheme, in the order of `LabelScheme.class_names`.
        image_digest: Digest of all intensities, which is equal for equal images, whatever their names, headers and
            stored orientations. Empty if it was not computed.
        cropped_voxel_counts: The voxels of `voxel_counts` inside the crop; None if they were not counted.
        resampled: The voxels at the median spacing of the dataset; None if they were not counted, or if that is not
            coarser.
        intensity_warnings: Oddities of the intensities, one sentence each.
        foreground_box_fraction: Share of the crop that the bounding box of the foreground, all classes together, has;
            None if there is no foreground, or if it was not measured.
        surface_fraction: Share of the voxels of the foreground that touch another label through a face; None likewise.
        ignored_fraction: Share of the crop that carries the ignore label; None if it was not counted, or if the dataset
            has no such label.
    """

    name: str
    spacing_mm: PositiveTriple
    shape_voxels: ShapeTriple
    cropped_shape_voxels: ShapeTriple
    relative_size_after_cropping: Annotated[float, Field(gt=0, le=1)]
    voxel_counts: tuple[int, ...]
    image_digest: str = ""
    cropped_voxel_counts: tuple[int, ...] | None = None
    resampled: ResampledCounts | None = None
    intensity_warnings: tuple[str, ...] = ()
    foreground_box_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    surface_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    ignored_fraction: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def known_voxel_counts(self) -> tuple[int, ...]:
        """Voxels of every class inside the crop; in the whole image, if these were not counted."""
        return self.voxel_counts if self.cropped_voxel_counts is None else self.cropped_voxel_counts


class Fingerprint(Document):
    """Measurements of a dataset.

    Attributes:
        file_ending: Ending of the dataset's files, for example ".nii.gz".
        orientation: Axis code (x, y, z) to which every image is brought; None for pictures, which have no orientation.
        distance_unit: Unit of all lengths; "pixel" where no file has a spacing, whatever the names of the fields say.
        mirror_overlaps: Overlaps of every label that occurs with mirror images, along each axis; empty if they were not
            measured.
        has_instances: Whether every case has a label map of numbered objects (`instancesTr`).
        targets: Core and border of objects, which `labels` are; None where objects are not told apart.
    """

    most_bytes: ClassVar[int] = MOST_RESULT_BYTES

    schema_version: Literal[1] = 1
    autoseg_version: str
    dataset_name: str
    file_ending: str
    labels: LabelScheme
    channels: Annotated[tuple[ChannelFingerprint, ...], Field(min_length=1)]
    cases: Annotated[Sequence[CaseFingerprint], Packed(CaseFingerprint, fewest=1)]
    orientation: str | None
    distance_unit: DistanceUnit = "mm"
    has_instances: bool = False
    targets: InstanceTargets | None = None
    median_relative_size_after_cropping: Annotated[float, Field(gt=0, le=1)]
    mirror_overlaps: tuple[MirrorOverlap, ...] = ()


class TimedSteps(Part):
    """Training steps of the network that is planned by single layers, timed as training would execute them.

    Attributes:
        configuration: Name of the configuration.
        seconds: Duration of a step with one patch, then with two where these fit into the memory.
    """

    configuration: str
    seconds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=2)]


class DeviceThroughput(Part):
    """Measured training throughput of the device that will train.

    Attributes:
        device: "CPU", or the name of a GPU.
        cores: Number of computing cores of the computer, within the limit of a container.
        memory_gb: Memory of the device; of the computer for its CPU.
        number_type: Dtype in which networks compute on the device.
        convolution_flops: Floating-point operations per second of 3 x 3 x 3 convolutions, forward and backward
            together, by their channels: 16, 32 and 64 on a CPU, also more on a GPU.
        elementwise_rate: Feature map elements per second of a normalization and an activation, forward and backward
            together.
        layer_seconds: Time of a layer, forward and backward together, however small its feature maps are: on a GPU the
            launches of its kernels.
        received_share: Fraction of the time of the cores that the measurement got: below 1 if other programs ran.
        steps: Steps by which the other values are to be corrected; None: layers run in training as they were measured.
    """

    device: str = CPU_NAME
    cores: Annotated[int, Field(ge=1)]
    memory_gb: Annotated[float, Field(gt=0)]
    number_type: str
    convolution_flops: dict[int, Annotated[float, Field(gt=0)]]
    elementwise_rate: Annotated[float, Field(gt=0)]
    layer_seconds: Annotated[float, Field(ge=0)] = 0.0
    received_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: TimedSteps | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether the device is the CPU."""
        return self.device == CPU_NAME

    @property
    def is_undisturbed(self) -> bool:
        """Whether the measurement got so much that it holds for an idle computer, too."""
        return self.received_share >= UNDISTURBED_SHARE


class Machine(Part):
    """The known properties of the computer, and the available time.

    Attributes:
        accelerator_memory_gb: Memory to plan for; None leaves the planner at its own reference.
        throughput: Present for planners that plan by time.
        budget_seconds: Time from raw images to predictions of one fold; None for the default of the planner.
    """

    accelerator_memory_gb: Annotated[float, Field(gt=0)] | None
    throughput: DeviceThroughput | None = None
    budget_seconds: Annotated[float, Field(gt=0)] | None = None
