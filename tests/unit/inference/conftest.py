"""Small plans and trained runs for the tests of prediction."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders.threads import use_one_thread
from safetensors.torch import save_file
from torch import nn

from autoseg.document import write_document
from autoseg.labels import LabelClass, LabelScheme
from autoseg.networks import NETWORK_PREFIX, build_network
from autoseg.plan import (
    ChannelPlan,
    ConfigurationPlan,
    CrossEntropyTerm,
    DiceTerm,
    PlainUNetPlan,
    Plan,
    ResamplingPlan,
    SegmentationObjective,
    TrainingPlan,
)
from autoseg.plan.augmentation import MirrorPlan
from autoseg.run_folder import RunFolder

PLAIN_LABELS = LabelScheme(
    classes=(LabelClass(name="liver", values=(5,)), LabelClass(name="tumour", values=(9,))),
    ignore_value=None,
    region_write_values=None,
    declared_count=3,
)


def make_configuration(
    patch_voxels: tuple[int, ...],
    *,
    spacing_mm: tuple[float, ...] | None = None,
    channels: int = 1,
    outputs: int = 3,
    batch_size: int = 2,
    mirror_axes: tuple[int, ...] = (),
) -> ConfigurationPlan:
    dimensions = 3 if len(patch_voxels) == 3 else 2
    return ConfigurationPlan(
        dimensions=dimensions,
        spacing_mm=spacing_mm or (1.0,) * dimensions,
        median_shape_voxels=patch_voxels,
        patch_voxels=patch_voxels,
        previous_stage=None,
        data_of="3d_fullres",
        resampling=ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3),
        network=PlainUNetPlan(
            dimensions=dimensions,
            input_channels=channels,
            output_channels=outputs,
            features_per_stage=(4, 4),
            kernel_sizes=((3,) * dimensions,) * 2,
            strides=((1,) * dimensions, (2,) * dimensions),
            blocks_per_stage=(1, 1),
            convolutions_per_decoder_stage=(1,),
            deep_supervision=True,
        ),
        training=TrainingPlan(
            epochs=1,
            iterations_per_epoch=1,
            validation_iterations_per_epoch=1,
            budget_seconds=None,
            sufficient_iterations=None,
            batch_size=batch_size,
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
            transforms=(MirrorPlan(axes=mirror_axes),) if mirror_axes else (),
        ),
    )


def make_plan(
    configurations: dict[str, ConfigurationPlan],
    *,
    labels: LabelScheme = PLAIN_LABELS,
    orientation: str | None = "RAS",
    axis_permutation: tuple[int, int, int] = (0, 1, 2),
) -> Plan:
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
        channels=(ChannelPlan(name="CT", normalization="none", inside_nonzero_only=False, window=None),),
        configurations=configurations,
        reasons=(),
    )


@pytest.fixture
def build_configuration() -> Callable[..., ConfigurationPlan]:
    return make_configuration


@pytest.fixture
def build_plan() -> Callable[..., Plan]:
    return make_plan


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def write_fold() -> Callable[..., nn.Module]:
    """Writes a run with one trained fold, whose network is returned."""

    def write(root: Path, plan: Plan, configuration: str, *, fold: str, seed: int = 0) -> nn.Module:
        run = RunFolder(root)
        write_document(run.plan, plan)
        training = run.fold(configuration, fold)
        write_document(training.plan, plan)
        network = build_network(plan.configurations[configuration].network, torch.Generator().manual_seed(seed))
        weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in network.state_dict().items()}
        save_file(weights, training.final_checkpoint)
        return network

    return write
