"""Plans for the tests of this folder."""

from collections.abc import Callable

import pytest

from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import (
    ChannelPlan,
    ConfigurationPlan,
    CrossEntropyTerm,
    DiceTerm,
    IntensityWindow,
    NormalizationScheme,
    PlainUNetPlan,
    Plan,
    ResamplingPlan,
    SegmentationObjective,
    TrainingPlan,
)

PlanBuilder = Callable[..., Plan]


def build_plan(
    *,
    spacings_mm: dict[str, tuple[float, ...]],
    schemes: tuple[NormalizationScheme, ...] = ("zscore",),
    inside_nonzero_only: bool = False,
    orientation: str | None = None,
    axis_permutation: tuple[int, int, int] = (0, 1, 2),
    labels: LabelScheme | None = None,
    window: IntensityWindow | None = None,
) -> Plan:
    """A complete plan in which only preprocessing matters."""
    window = window or IntensityWindow(lower=-1, upper=1, mean=0, std=1)
    labels = labels or build_labels(2)
    counts = {"input_channels": len(schemes), "output_channels": labels.output_channel_count}
    return Plan(
        autoseg_version="0",
        planner="test",
        accelerator_memory_gb=8.0,
        budget_seconds=None,
        distance_unit="mm",
        dataset_name="test",
        file_ending=".nii.gz",
        orientation=orientation,
        axis_permutation=axis_permutation,
        labels=labels,
        channels=tuple(
            ChannelPlan(
                name=f"channel{index}",
                normalization=scheme,
                inside_nonzero_only=inside_nonzero_only,
                window=window if scheme == "ct" else None,
            )
            for index, scheme in enumerate(schemes)
        ),
        configurations={name: build_configuration(name, spacing, counts) for name, spacing in spacings_mm.items()},
        reasons=(),
    )


def build_labels(count: int, *, with_ignore: bool = False) -> LabelScheme:
    return LabelScheme(
        classes=tuple(LabelClass(name=f"class{value}", values=(value,)) for value in range(1, count + 1)),
        ignore_value=count + 1 if with_ignore else None,
        region_write_values=None,
        declared_count=count + 1 + with_ignore,
    )


def build_configuration(name: str, spacing_mm: tuple[float, ...], counts: dict[str, int]) -> ConfigurationPlan:
    dimensions = 2 if len(spacing_mm) == 2 else 3
    return ConfigurationPlan(
        dimensions=dimensions,
        spacing_mm=spacing_mm,
        median_shape_voxels=(32.0,) * dimensions,
        patch_voxels=(16,) * dimensions,
        previous_stage=None,
        data_of=name,
        resampling=ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3),
        network=PlainUNetPlan(
            dimensions=dimensions,
            **counts,
            features_per_stage=(8,),
            kernel_sizes=((3,) * dimensions,),
            strides=((1,) * dimensions,),
            blocks_per_stage=(2,),
            convolutions_per_decoder_stage=(),
            deep_supervision=False,
        ),
        training=build_training(),
    )


def build_training() -> TrainingPlan:
    return TrainingPlan(
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations_per_epoch=1,
        budget_seconds=None,
        sufficient_iterations=None,
        batch_size=2,
        foreground_fraction=0.33,
        foreground_placement="centred",
        foreground_choice="class",
        losses=(DiceTerm(weight=1.0, batch_dice=False), CrossEntropyTerm(weight=1.0)),
        objective=SegmentationObjective(),
        optimizer="sgd_nesterov",
        initial_learning_rate=0.01,
        momentum=0.99,
        second_moment_decay=0.999,
        weight_decay=0,
        schedule="polynomial",
        schedule_exponent=0.9,
        warmup_iterations=0,
        weight_average_decay=0.0,
        gradient_norm_limit=12,
        transforms=(),
    )


@pytest.fixture
def plan_builder() -> PlanBuilder:
    return build_plan


@pytest.fixture
def labels_builder() -> Callable[..., LabelScheme]:
    return build_labels


@pytest.fixture
def resampling() -> ResamplingPlan:
    return ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3)
