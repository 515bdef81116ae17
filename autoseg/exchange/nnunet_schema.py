"""nnU-Net's plans.json: the part that prediction depends on, in the forms of all v2 releases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AliasChoices, ConfigDict, Field

from autoseg.document import Part, parse_part
from autoseg.errors import ExchangeError
from autoseg.plan.values import MOST_STAGES, Extents
from autoseg.untrusted.json_reading import read_json

Stages = Annotated[int, Field(ge=1, le=MOST_STAGES)]
PerStage = int | Annotated[tuple[int, ...], Field(max_length=MOST_STAGES)]
PerStageAndAxis = int | Annotated[tuple[int | tuple[int, ...], ...], Field(max_length=MOST_STAGES)]
MOST_HEIRS: Final = 50  # configurations that inherit from each other in a row


class ForeignPart(Part):
    """A part of another tool's file: keys that are not needed are ignored."""

    model_config = ConfigDict(extra="ignore")


class ArchitectureArguments(Part):
    """Arguments of the network's class. Every key counts: an unknown one might change the network."""

    model_config = ConfigDict(extra="allow")

    n_stages: Stages
    features_per_stage: PerStage
    conv_op: str
    kernel_sizes: PerStageAndAxis
    strides: PerStageAndAxis
    n_conv_per_stage: PerStage | None = None
    n_blocks_per_stage: PerStage | None = None
    n_conv_per_stage_decoder: PerStage
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None


class NnunetArchitecture(ForeignPart):
    """The network of a configuration, from release 2.4 on."""

    network_class_name: str
    arch_kwargs: ArchitectureArguments


class NnunetConfiguration(ForeignPart):
    """One configuration after inheritance.

    Attributes:
        architecture: None in plans before release 2.4, which have the fields below it instead.
    """

    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int
    patch_size: Extents
    median_image_size_in_voxels: tuple[float, ...]
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg: str
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    batch_dice: bool
    previous_stage: str | None = None
    inherits_from: str | None = None
    architecture: NnunetArchitecture | None = None
    UNet_class_name: str | None = None
    UNet_base_num_features: int | None = None
    unet_max_num_features: int | None = None
    n_conv_per_stage_encoder: Annotated[tuple[int, ...], Field(max_length=MOST_STAGES)] | None = None
    n_conv_per_stage_decoder: Annotated[tuple[int, ...], Field(max_length=MOST_STAGES)] | None = None
    pool_op_kernel_sizes: Annotated[tuple[tuple[int, ...], ...], Field(max_length=MOST_STAGES)] | None = None
    conv_kernel_sizes: Annotated[tuple[tuple[int, ...], ...], Field(max_length=MOST_STAGES)] | None = None


class IntensityProperties(ForeignPart):
    """Intensities of a channel in the foreground of the training images."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class NnunetPlans(ForeignPart):
    """The file. Configurations are kept as they stand, as they inherit from each other."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    configurations: dict[str, dict[str, Any]]
    experiment_planner_used: str = "unknown"
    label_manager: str = "LabelManager"
    foreground_intensities: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        ),
    )


def read_nnunet_plans(path: Path) -> NnunetPlans:
    """Reads plans.json of any release of nnU-Net v2.

    Raises:
        DocumentError: It is missing, no JSON, or lacks something; every such field is named.
    """
    return parse_part(read_json(path, accepts_nan=True), NnunetPlans, where=str(path))


def select_configuration(plans: NnunetPlans, name: str, *, where: str) -> NnunetConfiguration:
    """One configuration with all that it inherits.

    Raises:
        ExchangeError: It is not planned, or inherits in a circle.
        DocumentError: It lacks something.
    """
    content = _inherit(plans.configurations, name, where=where, heirs=())
    return parse_part(content, NnunetConfiguration, where=f"{where}: configurations.{name}")


def parse_intensities(plans: NnunetPlans, channel: int, *, where: str) -> IntensityProperties:
    """Foreground intensities of a channel.

    Raises:
        DocumentError: They are missing or incomplete.
    """
    content = plans.foreground_intensities.get(str(channel), {})
    place = f"{where}: foreground_intensity_properties_per_channel.{channel}"
    return parse_part(content, IntensityProperties, where=place)


def _inherit(
    configurations: Mapping[str, dict[str, Any]], name: str, *, where: str, heirs: tuple[str, ...]
) -> dict[str, Any]:
    if name not in configurations:
        msg = f"{where} has no configuration {name!r}; it has: {', '.join(configurations)}"
        raise ExchangeError(msg)
    if name in heirs or len(heirs) > MOST_HEIRS:
        msg = f"{where}: configurations inherit from each other in a circle: {' from '.join((*heirs, name))}"
        raise ExchangeError(msg)
    own = configurations[name]
    parent = own.get("inherits_from")
    if parent is None:
        return dict(own)
    return {**_inherit(configurations, parent, where=where, heirs=(*heirs, name)), **own}
