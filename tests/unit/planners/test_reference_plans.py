"""Plans must equal those of the reference planner in everything that the two have in common.

Every file of the folder holds one made-up dataset: its `dataset_json`, its `fingerprint`, and the `plans` of four
planners of nnU-Net 2.8.1.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from builders.labels import build_labels

from autoseg.fingerprint import (
    CaseFingerprint,
    ChannelFingerprint,
    Fingerprint,
    ForegroundIntensities,
    Machine,
)
from autoseg.labels import LabelScheme
from autoseg.plan import ConfigurationPlan, IntensityWindow, Plan
from autoseg.plan.reference import REFERENCE_MASK_TRANSFORMS
from planners import PLANNERS

REFERENCE_NAMES = {
    "default": "nnUNetPlans",
    "residual-m": "nnUNetResEncUNetMPlans",
    "residual-l": "nnUNetResEncUNetLPlans",
    "residual-xl": "nnUNetResEncUNetXLPlans",
}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
NETWORKS = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_encoder_unet"}
CASCADE = "3d_cascade_fullres"

pytestmark = pytest.mark.reference_plans


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(metafunc.config.getoption("--reference-plans"))
    if "reference_file" in metafunc.fixturenames:
        metafunc.parametrize("reference_file", sorted(folder.glob("*.json")), ids=lambda path: path.stem)
    if "reference_folder" in metafunc.fixturenames:
        absent = pytest.mark.skip(reason=f"there is no folder {folder}")
        metafunc.parametrize("reference_folder", [pytest.param(folder, marks=() if folder.is_dir() else absent)])


def test_the_folder_holds_reference_plans_of_every_planner(reference_folder: Path) -> None:
    files = sorted(reference_folder.glob("*.json"))
    assert files, f"{reference_folder} holds no reference plan"
    for file in files:
        assert set(REFERENCE_NAMES.values()) <= set(_read(file)["plans"])


@pytest.mark.parametrize("planner", REFERENCE_NAMES)
def test_a_plan_equals_that_of_the_reference_planner(reference_file: Path, planner: str) -> None:
    content = _read(reference_file)
    expected = content["plans"][REFERENCE_NAMES[planner]]
    plan = PLANNERS[planner].plan(_build_fingerprint(content), Machine(accelerator_memory_gb=None))
    assert list(plan.axis_permutation) == expected["transpose_forward"]
    assert list(plan.configurations) == sorted(
        expected["configurations"], key=["2d", "3d_lowres", "3d_fullres", CASCADE].index
    )
    for name, configuration in plan.configurations.items():
        reference = expected["configurations"][name]
        reference = expected["configurations"][reference.get("inherits_from", name)] | reference
        assert _summarize(configuration) == _summarize_reference(reference)
        assert [SCHEMES[scheme] for scheme in reference["normalization_schemes"]] == [
            channel.normalization for channel in plan.channels
        ]
        assert reference["use_mask_for_norm"] == [channel.inside_nonzero_only for channel in plan.channels]
    _check_cascade(plan, expected["configurations"])
    _check_windows(plan, expected["foreground_intensity_properties_per_channel"])


def _summarize(configuration: ConfigurationPlan) -> dict[str, Any]:
    network = configuration.network
    return {
        "spacing": pytest.approx(list(configuration.spacing_mm), rel=1e-12),
        "median_shape": list(configuration.median_shape_voxels),
        "patch": list(configuration.patch_voxels),
        "batch_size": configuration.training.batch_size,
        "batch_dice": configuration.training.losses[0].batch_dice,
        "previous_stage": configuration.previous_configuration,
        "architecture": network.family,
        "features": list(network.features_per_stage),
        "kernels": [list(kernel) for kernel in network.kernel_sizes],
        "strides": [list(stride) for stride in network.strides],
        "blocks": list(network.blocks_per_stage),
        "decoder": list(network.convolutions_per_decoder_stage),
        "image_order": configuration.resampling.image_order,
        "label_order": configuration.resampling.label_order,
        "logits_order": configuration.resampling.logits_order,
    }


def _summarize_reference(reference: dict[str, Any]) -> dict[str, Any]:
    network = reference["architecture"]["arch_kwargs"]
    blocks = network.get("n_conv_per_stage", network.get("n_blocks_per_stage"))
    assert network["n_stages"] == len(blocks)
    return {
        "spacing": reference["spacing"],
        "median_shape": reference["median_image_size_in_voxels"],
        "patch": reference["patch_size"],
        "batch_size": reference["batch_size"],
        "batch_dice": reference["batch_dice"],
        "previous_stage": reference.get("previous_stage"),
        "architecture": NETWORKS[reference["architecture"]["network_class_name"].rsplit(".", 1)[-1]],
        "features": network["features_per_stage"],
        "kernels": network["kernel_sizes"],
        "strides": network["strides"],
        "blocks": blocks,
        "decoder": network["n_conv_per_stage_decoder"],
        "image_order": reference["resampling_fn_data_kwargs"]["order"],
        "label_order": reference["resampling_fn_seg_kwargs"]["order"],
        "logits_order": reference["resampling_fn_probabilities_kwargs"]["order"],
    }


def _check_cascade(plan: Plan, reference: dict[str, Any]) -> None:
    assert (CASCADE in plan.configurations) == (CASCADE in reference)
    if CASCADE not in reference:
        return
    cascade, full = plan.configurations[CASCADE], plan.configurations["3d_fullres"]
    assert cascade.data_of == reference[CASCADE]["inherits_from"] == "3d_fullres"
    extra = len(plan.labels.foreground_labels)
    assert cascade.network == full.network.model_copy(update={"input_channels": len(plan.channels) + extra})
    transforms = (*full.training.transforms, *REFERENCE_MASK_TRANSFORMS)
    assert cascade.training == full.training.model_copy(update={"transforms": transforms})


def _check_windows(plan: Plan, properties: dict[str, dict[str, float]]) -> None:
    for channel, intensities in zip(plan.channels, properties.values(), strict=True):
        expected = IntensityWindow(
            lower=intensities["percentile_00_5"],
            upper=intensities["percentile_99_5"],
            mean=intensities["mean"],
            std=intensities["std"],
        )
        assert channel.window == (expected if channel.normalization == "ct" else None)


@cache
def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _build_fingerprint(content: dict[str, Any]) -> Fingerprint:
    dataset, measured = content["dataset_json"], content["fingerprint"]
    labels = _build_labels(dataset)
    relative_size = measured["median_relative_size_after_cropping"]
    shapes, spacings = measured["shapes_after_crop"], measured["spacings"]
    assert len(shapes) == dataset["numTraining"]
    return Fingerprint(
        autoseg_version="0",
        dataset_name="reference",
        file_ending=dataset["file_ending"],
        labels=labels,
        channels=tuple(
            ChannelFingerprint(name=name, foreground=ForegroundIntensities(**intensities))
            for name, intensities in zip(
                dataset["channel_names"].values(),
                measured["foreground_intensity_properties_per_channel"].values(),
                strict=True,
            )
        ),
        cases=tuple(
            CaseFingerprint(
                name=f"case{index}",
                spacing_mm=tuple(spacing),
                shape_voxels=tuple(shape),  # the shape before cropping is not known and not used
                cropped_shape_voxels=tuple(shape),
                relative_size_after_cropping=relative_size,
                voxel_counts=(1,) * len(labels.classes),
            )
            for index, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
        ),
        orientation=None,
        median_relative_size_after_cropping=relative_size,
    )


def _build_labels(dataset: dict[str, Any]) -> LabelScheme:
    declared = {
        name: tuple(values) if isinstance(values, list) else (values,) for name, values in dataset["labels"].items()
    }
    order = dataset.get("regions_class_order")
    return build_labels(
        {name: values for name, values in declared.items() if name not in ("background", "ignore")},
        ignore_value=dataset["labels"].get("ignore"),
        region_write_values=None if order is None else tuple(order),
    )
