"""Whole plans: the published test vectors, the reasons, and what happens where no plan exists."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.labels import build_labels

from autoseg.errors import PlanError
from autoseg.fingerprint import Fingerprint, Machine
from autoseg.plan import Plan
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from planners import PLANNERS

UNSTATED = Machine(accelerator_memory_gb=None)


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A dataset of equal cases and the configurations that the reference planner gives it."""

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    count: int
    labels: int
    planner: str
    configuration: str
    patch: tuple[int, ...]
    batch_size: int | None = None


def _vectors(spacing_mm, shape, *, count, labels, expected) -> list[Vector]:
    return [
        Vector(
            spacing_mm=spacing_mm,
            shape=shape,
            count=count,
            labels=labels,
            planner=planner,
            configuration=configuration,
            patch=patch,
            batch_size=batch_size,
        )
        for planner, configuration, patch, batch_size in expected
    ]


VECTORS = [
    *_vectors(
        (1.0, 1.0, 1.0),
        (40, 56, 40),
        count=260,
        labels=3,
        expected=[
            ("default", "2d", (56, 40), 520),
            ("default", "3d_fullres", (40, 56, 40), 13),
            ("residual-m", "2d", (56, 40), 1618),
            ("residual-m", "3d_fullres", (40, 56, 40), 58),
            ("residual-l", "2d", (56, 40), 4554),
            ("residual-l", "3d_fullres", (40, 56, 40), 178),
            ("residual-xl", "2d", (56, 40), 6711),
            ("residual-xl", "3d_fullres", (40, 56, 40), 260),
        ],
    ),
    *_vectors(
        (1.0, 0.8, 0.8),
        (450, 512, 512),
        count=100,
        labels=3,
        expected=[
            ("default", "2d", (512, 512), 12),
            ("default", "3d_fullres", (128, 128, 128), 2),
            ("default", "3d_lowres", (128, 128, 128), 2),
            ("residual-l", "3d_fullres", (192, 192, 192), 2),
            ("residual-l", "2d", (512, 512), 35),
            ("residual-xl", "3d_fullres", (224, 256, 224), 2),
        ],
    ),
    *_vectors(
        (10.0, 1.4, 1.4),
        (10, 256, 216),
        count=200,
        labels=4,
        expected=[
            ("default", "2d", (256, 224), 56),
            ("default", "3d_fullres", (10, 256, 224), 7),
            ("residual-m", "3d_fullres", (10, 256, 224), 5),
            ("residual-l", "3d_fullres", (10, 256, 224), 17),
            ("residual-xl", "3d_fullres", (10, 256, 224), 29),
        ],
    ),
    *_vectors(
        (3.6, 0.62, 0.62),
        (20, 320, 320),
        count=32,
        labels=3,
        expected=[
            ("default", "2d", (320, 320), 32),
            ("default", "3d_fullres", (20, 320, 256), 2),
            ("residual-m", "3d_fullres", (20, 256, 256), 2),
            ("residual-l", "3d_fullres", (20, 320, 320), 5),
            ("residual-xl", "3d_fullres", (20, 320, 320), 8),
        ],
    ),
    *_vectors(
        (1.0, 1.0, 1.0),
        (138, 170, 138),
        count=484,
        labels=4,
        expected=[
            ("default", "2d", (192, 160), 105),
            ("default", "3d_fullres", (128, 128, 128), 2),
            ("residual-l", "3d_fullres", (160, 192, 160), 3),
            ("residual-xl", "3d_fullres", (160, 192, 160), 5),
        ],
    ),
    *_vectors(
        (5.0, 0.76, 0.76),
        (100, 512, 512),
        count=30,
        labels=14,
        expected=[
            ("default", "3d_fullres", (40, 224, 192), 2),
            ("default", "3d_lowres", (64, 192, 160), 2),
            ("residual-m", "3d_fullres", (40, 192, 192), None),
            ("residual-m", "3d_lowres", (64, 160, 160), None),
            ("residual-l", "3d_fullres", (56, 320, 256), 2),
            ("residual-xl", "3d_fullres", (64, 384, 320), 2),
        ],
    ),
    *_vectors(
        (0.7, 0.7, 4.0),
        (320, 320, 24),
        count=60,
        labels=3,
        expected=[
            ("default", "3d_fullres", (24, 256, 256), 2),
            ("residual-l", "3d_fullres", (24, 320, 320), 4),
            ("residual-xl", "3d_fullres", (24, 320, 320), 7),
        ],
    ),
    *_vectors(
        (999.0, 1.0, 1.0),
        (1, 1024, 768),
        count=90,
        labels=2,
        expected=[
            ("default", "2d", (1024, 768), 4),
            ("residual-m", "2d", (576, 448), 13),
            ("residual-l", "2d", (1024, 640), 14),
            ("residual-xl", "2d", (1024, 768), 17),
        ],
    ),
    *_vectors(
        (0.25, 0.1, 0.1),
        (64, 512, 512),
        count=12,
        labels=2,
        expected=[
            ("default", "3d_fullres", (32, 256, 224), 2),
            ("residual-l", "3d_fullres", (48, 320, 320), None),
            ("residual-xl", "3d_fullres", (64, 384, 384), None),
        ],
    ),
]


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: f"{vector.shape}-{vector.planner}-{vector.configuration}"
)
def test_patches_and_batches_are_those_of_the_reference_planner(vector) -> None:
    plan = _plan(
        build_fingerprint(vector.spacing_mm, vector.shape, count=vector.count, declared_labels=vector.labels),
        vector.planner,
    )
    configuration = plan.configurations[vector.configuration]
    assert configuration.patch_voxels == vector.patch
    assert vector.batch_size in (None, configuration.training.batch_size)


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "labels", "planner", "low_mm"),
    [
        ((1.0, 0.8, 0.8), (450, 512, 512), 3, "default", (2.4273, 1.9418, 1.9418)),
        ((1.0, 0.8, 0.8), (450, 512, 512), 3, "residual-l", (1.6528, 1.3223, 1.3223)),
        ((5.0, 0.76, 0.76), (100, 512, 512), 14, "default", (5.0, 1.4138, 1.4138)),
        ((5.0, 0.76, 0.76), (100, 512, 512), 14, "residual-m", (5.0, 1.5449, 1.5449)),
        ((5.0, 0.76, 0.76), (100, 512, 512), 14, "residual-l", None),
        ((10.0, 1.4, 1.4), (10, 256, 216), 4, "default", None),
    ],
)
def test_the_coarser_spacing_is_that_of_the_reference_planner(spacing_mm, shape, *, labels, planner, low_mm) -> None:
    plan = _plan(build_fingerprint(spacing_mm, shape, count=30, declared_labels=labels), planner)
    low = plan.configurations.get("3d_lowres")
    assert (None if low is None else low.spacing_mm) == (None if low_mm is None else pytest.approx(low_mm, abs=5e-5))


def test_the_table_of_planners_holds_what_the_command_line_offers() -> None:
    assert list(PLANNERS) == ["default", "residual-m", "residual-l", "residual-xl", "timed", "lite"]
    for name, planner in PLANNERS.items():
        assert planner.name == ("timed" if name == "lite" else name)
        assert planner.description.endswith(".")


def test_a_plan_carries_over_what_was_measured() -> None:
    fingerprint = build_fingerprint(
        (1.0, 1.0, 1.0), (64, 64, 64), channel_names=("CT", "PET"), median_relative_size_after_cropping=0.5
    )
    plan = _plan(fingerprint, "residual-m")
    assert plan.planner == "residual-m"
    assert plan.dataset_name == fingerprint.dataset_name
    assert plan.file_ending == ".nii.gz"
    assert plan.orientation == "LPS"
    assert plan.labels == fingerprint.labels
    assert [(channel.name, channel.normalization, channel.inside_nonzero_only) for channel in plan.channels] == [
        ("CT", "ct", False),
        ("PET", "zscore", True),
    ]
    network = plan.configurations["3d_fullres"].network
    assert (network.input_channels, network.output_channels) == (2, 2)


def test_training_is_that_of_the_reference() -> None:
    training = _plan(build_fingerprint((1.0, 1.0, 1.0), (64, 64, 64))).configurations["2d"].training
    assert training.model_dump(exclude={"transforms", "batch_size", "losses"}) == {
        "epochs": 1000,
        "iterations_per_epoch": 250,
        "validation_iterations_per_epoch": 50,
        "budget_seconds": None,
        "sufficient_iterations": 2000,
        "foreground_fraction": 0.33,
        "foreground_placement": "centred",
        "foreground_choice": "class",
        "objective": {"name": "segmentation"},
        "optimizer": "sgd_nesterov",
        "initial_learning_rate": 0.01,
        "momentum": 0.99,
        "second_moment_decay": 0.999,
        "weight_decay": 3e-5,
        "schedule": {"name": "polynomial", "exponent": 0.9},
        "warmup_iterations": 0,
        "weight_average_decay": 0.0,
        "gradient_norm_limit": 12.0,
        "augmentation_end_fraction": 0.0,
        "synthetic_fraction": 0.5,
        "synthetic_end_fraction": 0.5,
        "plausibility": None,
    }


def test_the_cascade_is_full_resolution_with_one_more_channel_per_foreground_label() -> None:
    fingerprint = build_fingerprint((1.0, 0.8, 0.8), (450, 512, 512), count=10, channel_names=("T1", "T2"))
    plan = _plan(_with_regions(fingerprint))
    assert list(plan.configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    cascade, full = plan.configurations["3d_cascade_fullres"], plan.configurations["3d_fullres"]
    assert (cascade.previous_configuration, cascade.data_of) == ("3d_lowres", "3d_fullres")
    assert (full.previous_stage, full.data_of) == (None, "3d_fullres")
    # two images and the labels 1, 2, 3 behind the two regions
    assert (full.network.input_channels, cascade.network.input_channels) == (2, 5)
    assert cascade.network.output_channels == 2
    assert cascade.training.transforms == (*full.training.transforms, *REFERENCE_MASK_TRANSFORMS)
    assert cascade.training == full.training.model_copy(update={"transforms": cascade.training.transforms})
    assert [configuration.training.losses[0].batch_dice for configuration in plan.configurations.values()] == [
        True,
        False,
        True,
        True,
    ]
    assert _explain(plan, "3d_cascade_fullres: input channels").startswith("2 image channels and 3 masks")


def test_without_a_coarser_configuration_single_samples_are_scored() -> None:
    plan = _plan(build_fingerprint((1.0, 1.0, 1.0), (40, 56, 40), count=260))
    assert list(plan.configurations) == ["2d", "3d_fullres"]
    assert not plan.configurations["3d_fullres"].training.losses[0].batch_dice
    assert "not less than 25 %" in _explain(plan, "3d_lowres")


def test_every_decision_has_a_reason() -> None:
    plan = _plan(build_fingerprint((1.0, 0.8, 0.8), (450, 512, 512), count=10))
    shared = ["memory target", "orientation", "target spacing", "axis permutation", "channel 0 (T2): normalization"]
    rules = [
        "patch size", "topology", "features", "depth", "deep supervision", "batch size", "batch Dice", "augmentation",
        "resampling",
    ]  # fmt: skip
    subjects = [
        *shared,
        "training",
        "iterations needed",
        "dimensions",
        *(f"2d: {rule}" for rule in rules),
        "3d_lowres",
        *(f"3d_lowres: {rule}" for rule in rules),
        *(f"3d_fullres: {rule}" for rule in rules),
        "3d_cascade_fullres",
        "3d_cascade_fullres: input channels",
        *("3d_roi", "2d_triplanar", "boundary_refinement"),  # offered
    ]
    assert [reason.subject for reason in plan.reasons] == subjects
    for reason in plan.reasons:
        assert reason.value
        assert reason.because[-1] not in " .:;,"
    assert "brought to LPS" in _explain(plan, "orientation")


def test_pictures_have_no_orientation_and_no_volumes() -> None:
    fingerprint = build_fingerprint((999.0, 1.0, 1.0), (1, 256, 256), count=20)
    plan = _plan(fingerprint.model_copy(update={"orientation": None, "file_ending": ".png"}))
    assert list(plan.configurations) == ["2d"]
    assert plan.orientation is None
    assert "files ending in .png have no world coordinates" in _explain(plan, "orientation")
    assert "3D networks have nothing to see" in _explain(plan, "dimensions")


def test_a_network_of_two_stages_is_trained_without_deep_supervision() -> None:
    plan = _plan(build_fingerprint((1.0, 1.0, 1.0), (9, 9, 9), count=20))
    for configuration in plan.configurations.values():
        assert len(configuration.network.strides) == 2
        assert not configuration.network.deep_supervision


def test_a_configuration_that_cannot_pool_is_left_out_with_a_reason() -> None:
    plan = _plan(build_fingerprint((1.0, 1.0, 1.0), (64, 7, 7), count=20))
    assert list(plan.configurations) == ["3d_fullres"]
    assert "a patch of 7 x 7 voxels (median case: 7 x 7) cannot be halved even once" in _explain(plan, "2d")


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "left_out", "planned"),
    [
        ((9000.0, 1.0, 1.0), (6, 300, 300), "3d_fullres", ["2d"]),
        ((1.0, 1.0, 1.0), (2, 2000, 2000), "3d_lowres", ["2d", "3d_fullres"]),
    ],
)
def test_no_3d_patch_holds_a_single_slice(spacing_mm, shape, left_out, planned) -> None:
    plan = PLANNERS["default"].plan(build_fingerprint(spacing_mm, shape, count=20), UNSTATED)
    assert list(plan.configurations) == planned
    (reason,) = (reason for reason in plan.reasons if reason.subject == left_out)
    assert reason.value == "left out"
    assert "would hold one slice only, which a 2D network sees as well" in reason.because


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_across_any_axis_are_planned_in_their_plane_though_one_case_has_two(axis) -> None:
    def shape_case(slices, longest):
        shape, spacing_mm = [longest, 300, 256], [1.2, 1.2, 1.2]
        shape[axis], spacing_mm[axis] = slices, 2.0
        return build_case(tuple(spacing_mm), tuple(shape))

    cases = (*(shape_case(1, 250 + 8 * index) for index in range(5)), shape_case(2, 290))
    plan = PLANNERS["default"].plan(build_fingerprint((1.0, 1.0, 1.0), (1, 1, 1), cases=cases), UNSTATED)
    assert plan.axis_permutation[0] == axis
    assert list(plan.configurations) == ["2d"]
    assert min(plan.configurations["2d"].patch_voxels) >= 256


def test_images_too_small_for_any_network_are_an_error() -> None:
    with pytest.raises(PlanError, match=r"the images are too small for a network: a patch of 7 x 6 voxels"):
        _plan(build_fingerprint((1.0, 1.0, 1.0), (5, 7, 6), count=20))


def test_less_memory_than_any_network_needs_is_an_error() -> None:
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (64, 64, 64), count=20)
    with pytest.raises(PlanError, match="no network with two resolutions fits into the memory"):
        PLANNERS["default"].plan(fingerprint, Machine(accelerator_memory_gb=1e-4))


def test_more_memory_gives_a_larger_patch_and_says_so() -> None:
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (400, 400, 400), count=20)
    plan = PLANNERS["default"].plan(fingerprint, Machine(accelerator_memory_gb=24))
    assert plan.configurations["3d_fullres"].patch_voxels == (192, 192, 192)
    assert "are multiplied by 3" in _explain(plan, "memory target")


def test_a_plan_survives_its_json() -> None:
    plan = _plan(build_fingerprint((1.0, 0.8, 0.8), (450, 512, 512), count=10, channel_names=("CT",)))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_planning_needs_no_torch() -> None:
    code = "import planners, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _plan(fingerprint: Fingerprint, planner: str = "default") -> Plan:
    return PLANNERS[planner].plan(fingerprint, UNSTATED)


def _explain(plan: Plan, subject: str) -> str:
    (because,) = (reason.because for reason in plan.reasons if reason.subject == subject)
    return because


def _with_regions(fingerprint: Fingerprint) -> Fingerprint:
    labels = build_labels({"whole": (1, 2, 3), "core": (2,)}, ignore_value=4, region_write_values=(1, 2))
    return fingerprint.model_copy(update={"labels": labels})
