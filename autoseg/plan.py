"""Schema of what was decided. A plan is complete: nothing is left to be chosen later, every choice has its reason.

Axes: a 3D configuration lists three values in **plan axes**, a 2D configuration the last two of them. Plan axis i is
axis `axis_permutation[i]` of the array (z, y, x) in the training orientation.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from autoseg.document import Document, Part
from autoseg.errors import PlanError
from autoseg.geometry import DistanceUnit
from autoseg.labels import LabelScheme

Value = TypeVar("Value")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
AxisCounts = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        msg = f"must be a lower and an upper limit in this order (got {limits[0]}, {limits[1]})"
        raise ValueError(msg)
    return limits


NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_check_order)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_check_order)]
FractionRange = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_check_order)
]

NormalizationScheme = Literal["ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1"]
Architecture = Literal["plain_unet", "residual_encoder_unet"]
ForegroundPlacement = Literal["centred", "uniform"]
ForegroundChoice = Literal["class", "class_balanced", "component"]
ConfigurationName = Annotated[str, Field(pattern=r"^[^./\\:][^/\\:]*$")]  # names a folder
PREFERRED_CONFIGURATIONS: Final = ("3d_fullres", "3d_cascade_fullres", "3d_lowres", "2d")
"""Where the user names none, the first of these that there is."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[Value]):
    """What a rule decided, and one sentence with the numbers that led to it."""

    value: Value
    because: str


class Reason(Part):
    """A decision as it is stored and printed.

    Attributes:
        subject: What was decided, for example "3d_fullres: patch size".
        value: The decision in words or numbers.
        because: One sentence with the numbers in it.
    """

    subject: str
    value: str
    because: str


class IntensityWindow(Part):
    """Intensities of the dataset's foreground that a normalization needs."""

    lower: float
    upper: float
    mean: float
    std: Annotated[float, Field(ge=0)]


class ChannelPlan(Part):
    """How one image channel is normalized.

    Attributes:
        inside_nonzero_only: Statistics are taken, and voxels changed, inside the nonzero region only.
        window: Present exactly for the scheme "ct": clip to [lower, upper], subtract mean, divide by std.
    """

    name: str
    normalization: NormalizationScheme
    inside_nonzero_only: bool
    window: IntensityWindow | None

    @model_validator(mode="after")
    def _check(self) -> "ChannelPlan":
        if (self.normalization == "ct") != (self.window is not None):
            msg = f"channel {self.name!r}: 'window' belongs to the normalization 'ct' and to no other"
            raise ValueError(msg)
        return self


class ResamplingPlan(Part):
    """How arrays change their grid.

    Attributes:
        image_order: Spline order in plane (3: cubic) for images.
        label_order: Spline order for the one-hot labels.
        logits_order: Spline order for the network's output on the way back.
        anisotropy_threshold: Where the coarsest spacing is more than this many times the finest, the coarsest axis is
            resampled separately, by nearest neighbour.
    """

    image_order: Literal[0, 1, 3]
    label_order: Literal[0, 1]
    logits_order: Literal[0, 1]
    anisotropy_threshold: Positive


class NetworkPlan(Part):
    """A U-Net. Stage 0 has the full resolution, the last stage is the bottleneck.

    Attributes:
        output_channels: Logit channels.
        features_per_stage: Channels of each stage.
        kernel_sizes: Per stage, one value per axis.
        strides: Per stage, of its first convolution; the first stage has ones.
        blocks_per_stage: Convolutions (plain) or residual blocks (residual encoder) of each encoder stage.
        convolutions_per_decoder_stage: One fewer than there are stages; index 0 is the lowest resolution.
        deep_supervision: Whether training uses the outputs of all but the lowest decoder resolution.
    """

    architecture: Architecture
    dimensions: Literal[2, 3]
    input_channels: Count
    output_channels: Count
    features_per_stage: Counts
    kernel_sizes: tuple[AxisCounts, ...]
    strides: tuple[AxisCounts, ...]
    blocks_per_stage: Counts
    convolutions_per_decoder_stage: tuple[Count, ...]
    deep_supervision: bool

    @model_validator(mode="after")
    def _check(self) -> "NetworkPlan":
        stages = len(self.features_per_stage)
        lengths = {
            "kernel_sizes": len(self.kernel_sizes),
            "strides": len(self.strides),
            "blocks_per_stage": len(self.blocks_per_stage),
            "convolutions_per_decoder_stage": len(self.convolutions_per_decoder_stage) + 1,
        }
        for field, length in lengths.items():
            if length != stages:
                msg = f"{field} must describe the {stages} stages of features_per_stage"
                raise ValueError(msg)
        if any(len(entry) != self.dimensions for entry in (*self.kernel_sizes, *self.strides)):
            msg = f"kernel_sizes and strides must have {self.dimensions} values per stage"
            raise ValueError(msg)
        if any(extent % 2 == 0 for entry in self.kernel_sizes for extent in entry):
            msg = "kernel_sizes must be odd, or outputs would not lie on their inputs"
            raise ValueError(msg)
        if any(step != 1 for step in self.strides[0]):
            msg = "strides.0 must be ones: the first stage has the full resolution"
            raise ValueError(msg)
        return self


class AugmentationPlan(Part):
    """Random changes of a training patch, in this order; probabilities are per sample unless said.

    A range is a lower and an upper limit, both drawn.

    Attributes:
        rotation_limit_degrees: Each angle is uniform in [-limit, limit].
        in_plane_only: Spatial changes and low resolution leave plan axis 0 alone ("dummy 2D").
        scaling_range: One factor for all axes; above 1 objects become smaller.
        noise_std_range: Standard deviation of additive Gaussian noise.
        blur_sigma_range_voxels: Drawn per channel and axis.
        low_resolution_range: Zoom factor of the simulated low resolution.
        gamma_range: Exponents; below 1 and above 1 are equally likely (so for brightness and contrast).
        mirror_axes: Plan axes (of the patch) that are flipped with probability one half each, also in prediction.
        mask_change_probability: That masks of the previous stage of a cascade grow or shrink; this and what follows
            counts in a cascade alone, and has the reference's values by default.
        mask_change_label_probability: Of each label, if masks change.
        mask_change_radius_voxels: Drawn per label; how far a mask grows or shrinks.
        component_removal_probability: That masks of the previous stage lose a connected component each.
        component_removal_label_probability: Of each label, if masks lose components.
        component_removal_limit_fraction: Components of this share of the patch or more stay.
    """

    rotation_probability: Fraction
    rotation_limit_degrees: Annotated[float, Field(ge=0, le=180)]
    in_plane_only: bool
    scaling_probability: Fraction
    scaling_range: PositiveRange
    noise_probability: Fraction
    noise_std_range: NonNegativeRange
    blur_probability: Fraction
    blur_channel_probability: Fraction
    blur_sigma_range_voxels: NonNegativeRange
    brightness_probability: Fraction
    brightness_range: PositiveRange
    contrast_probability: Fraction
    contrast_range: PositiveRange
    low_resolution_probability: Fraction
    low_resolution_channel_probability: Fraction
    low_resolution_range: FractionRange
    inverted_gamma_probability: Fraction
    gamma_probability: Fraction
    gamma_range: PositiveRange
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...]
    mask_change_probability: Fraction = 0.4
    mask_change_label_probability: Fraction = 0.5
    mask_change_radius_voxels: NonNegativeRange = (1.0, 8.0)
    component_removal_probability: Fraction = 0.2
    component_removal_label_probability: Fraction = 0.5
    component_removal_limit_fraction: Fraction = 0.15


class TrainingPlan(Part):
    """How a network is trained. Fields with a default are at the reference's value by it.

    Attributes:
        epochs: Length of the schedule where no budget is given.
        budget_seconds: Time for training and validating one fold, by which epochs and iterations are laid out on the
            machine that trains; None: they are as planned.
        sufficient_iterations: Needed at least to be of use; warnings and refusals go by it. None: not known.
        foreground_fraction: Share of the patches of a batch that are chosen by a foreground voxel.
        foreground_placement: Where in its patch that voxel lies: in the centre, or anywhere with equal probability.
        foreground_choice: How that voxel is drawn. "class": of a random class of a random case. "class_balanced": the
            class first, of all that the fold has, then a case that shows it. "component": of a random connected
            component of a random class of a random case, so that small lesions count as much as large ones.
        dice_weight, cross_entropy_weight: Factors on the two parts of the loss.
        batch_dice: The Dice loss treats the batch as one large volume.
        momentum: Of stochastic gradient descent; for AdamW the decay of the mean gradient (beta 1).
        second_moment_decay: For AdamW the decay of the mean squared gradient (beta 2).
        schedule: How the learning rate falls from its initial value to zero with the share p of the training that is
            done. "polynomial": (1 - p) ** exponent, constant within an epoch. "cosine": (1 + cos(pi p)) / 2 in every
            iteration (Loshchilov and Hutter 2017, arXiv:1608.03983). "constant": not at all.
        warmup_iterations: The learning rate rises linearly from zero over the first of them.
        weight_average_decay: Of the exponential moving average of the weights that is validated and kept (Polyak and
            Juditsky 1992); 0: the weights themselves are.
    """

    epochs: Count
    iterations_per_epoch: Count
    validation_iterations_per_epoch: Count
    budget_seconds: Positive | None = None
    sufficient_iterations: Count | None = None
    batch_size: Count
    foreground_fraction: Fraction
    foreground_placement: ForegroundPlacement = "centred"
    foreground_choice: ForegroundChoice = "class"
    loss: Literal["dice_cross_entropy"]
    dice_weight: NonNegative = 1.0
    cross_entropy_weight: NonNegative = 1.0
    batch_dice: bool
    optimizer: Literal["sgd_nesterov", "adamw"]
    initial_learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    second_moment_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: NonNegative
    schedule: Literal["polynomial", "cosine", "constant"]
    schedule_exponent: Positive
    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    weight_average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_norm_limit: Positive
    augmentation: AugmentationPlan

    @model_validator(mode="after")
    def _check(self) -> "TrainingPlan":
        if self.dice_weight + self.cross_entropy_weight == 0:
            msg = "dice_weight and cross_entropy_weight must not both be 0: nothing would be learnt"
            raise ValueError(msg)
        if self.optimizer == "sgd_nesterov" and self.momentum == 0:
            msg = "momentum must be above 0 for the optimizer 'sgd_nesterov'"
            raise ValueError(msg)
        return self


class ConfigurationPlan(Part):
    """One of 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres.

    Attributes:
        spacing_mm: Target spacing. A 2D configuration never resamples plan axis 0.
        median_shape_voxels: Median shape of the resampled cases (may be fractional).
        patch_voxels: Network input.
        previous_stage: Configuration whose predictions are further input channels, one mask per foreground label;
            None if there is none. It has none itself.
        data_of: Configuration whose preprocessed arrays are used (itself, except for the cascade).
    """

    dimensions: Literal[2, 3]
    spacing_mm: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
    median_shape_voxels: Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)]
    patch_voxels: AxisCounts
    previous_stage: ConfigurationName | None
    data_of: ConfigurationName
    resampling: ResamplingPlan
    network: NetworkPlan
    training: TrainingPlan

    @model_validator(mode="after")
    def _check(self) -> "ConfigurationPlan":
        for field in ("spacing_mm", "median_shape_voxels", "patch_voxels"):
            if len(getattr(self, field)) != self.dimensions:
                msg = f"{field} must have {self.dimensions} values"
                raise ValueError(msg)
        axes = self.training.augmentation.mirror_axes
        if len(set(axes)) < len(axes) or max(axes, default=0) >= self.dimensions:
            msg = f"training.augmentation.mirror_axes must be different axes below {self.dimensions} (got {axes})"
            raise ValueError(msg)
        if self.network.dimensions != self.dimensions:
            msg = f"network.dimensions must be {self.dimensions}"
            raise ValueError(msg)
        for axis, extent in enumerate(self.patch_voxels):
            divisor = 1
            for stride in self.network.strides:
                divisor *= stride[axis]
            if extent % divisor:
                msg = f"patch_voxels.{axis} must be a multiple of {divisor}, the product of the strides (got {extent})"
                raise ValueError(msg)
        return self


IMPORTED_PLANNER: Final = "nnU-Net"
"""How the planner's name begins in a plan that was imported."""


class Plan(Document):
    """Everything that was decided for a dataset.

    Attributes:
        accelerator_memory_gb: Memory that was planned for.
        budget_seconds: Time that was planned for, from raw images to predictions; None: without a limit.
        orientation: Axis code (x, y, z) to which images are brought before anything else; None for pictures.
        axis_permutation: Plan axis i is array axis `axis_permutation[i]`.
        distance_unit: Of all lengths; "pixel" where no file tells a spacing, whatever the names of the fields say.
        file_ending: Ending of predicted label maps, as in the dataset.
    """

    schema_version: Literal[1] = 1
    autoseg_version: str
    planner: str
    accelerator_memory_gb: Positive
    budget_seconds: Positive | None = None
    dataset_name: str
    file_ending: str
    orientation: str | None
    distance_unit: DistanceUnit = "mm"
    axis_permutation: tuple[int, int, int]
    labels: LabelScheme
    channels: Annotated[tuple[ChannelPlan, ...], Field(min_length=1)]
    configurations: Annotated[dict[ConfigurationName, ConfigurationPlan], Field(min_length=1)]
    reasons: tuple[Reason, ...]

    @property
    def is_imported(self) -> bool:
        """Whether another tool made the decisions, so that the run holds its models and no training data."""
        return self.planner.startswith(IMPORTED_PLANNER)

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        if sorted(self.axis_permutation) != [0, 1, 2]:
            msg = f"axis_permutation must hold 0, 1 and 2 once each (got {self.axis_permutation})"
            raise ValueError(msg)
        for name, configuration in self.configurations.items():
            self._check_configuration(name, configuration)
        return self

    def _check_configuration(self, name: str, chosen: ConfigurationPlan) -> None:
        for field in ("data_of", "previous_stage"):
            other = getattr(chosen, field)
            if other is not None and other not in self.configurations:
                msg = f"configurations.{name}.{field} must name one of {', '.join(self.configurations)} (got {other!r})"
                raise ValueError(msg)
        if chosen.previous_stage and self.configurations[chosen.previous_stage].previous_stage:
            msg = (
                f"configurations.{name}.previous_stage must name a configuration without one "
                f"(got {chosen.previous_stage!r})"
            )
            raise ValueError(msg)
        extra = 0 if chosen.previous_stage is None else len(self.labels.foreground_labels)
        expected = {
            "input_channels": len(self.channels) + extra,
            "output_channels": self.labels.output_channel_count,
        }
        for field, count in expected.items():
            if getattr(chosen.network, field) != count:
                msg = f"configurations.{name}.network.{field} must be {count}, as channels and labels demand"
                raise ValueError(msg)
        if any(axis >= chosen.dimensions for axis in chosen.training.augmentation.mirror_axes):
            msg = f"configurations.{name}.training.augmentation.mirror_axes must be below {chosen.dimensions}"
            raise ValueError(msg)

    def get_configuration(self, name: ConfigurationName) -> ConfigurationPlan:
        """One configuration.

        Raises:
            PlanError: It is not planned.
        """
        if name not in self.configurations:
            msg = f"the plan has no configuration {name!r}; it has: {', '.join(self.configurations)}"
            raise PlanError(msg)
        return self.configurations[name]
