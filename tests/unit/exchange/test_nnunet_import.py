import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.nnunet_models import build_foreign_configuration, build_foreign_dataset, build_foreign_plans

from autoseg.errors import DatasetError, DocumentError, ExchangeError
from autoseg.exchange.nnunet_checkpoint import NnunetCheckpoint
from autoseg.exchange.nnunet_folders import open_nnunet_model
from autoseg.exchange.nnunet_import import import_plan
from autoseg.plan import IntensityWindow, Plan

Import = Callable[..., Plan]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports a model whose plans and dataset.json are given."""

    def run(
        plans: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        *,
        configuration: str = "3d_fullres",
        mirror_axes: tuple[int, ...] = (0, 1, 2),
    ) -> Plan:
        root = tmp_path / "model"
        (root / "fold_0").mkdir(parents=True, exist_ok=True)
        (root / "plans.json").write_text(json.dumps(plans or build_foreign_plans()))
        (root / "dataset.json").write_text(json.dumps(dataset or build_foreign_dataset()))
        (root / "fold_0" / "checkpoint_final.pth").touch()
        checkpoint = NnunetCheckpoint(
            path=root / "fold_0" / "checkpoint_final.pth",
            weights={},
            trainer="nnUNetTrainer",
            configuration=configuration,
            mirror_axes=mirror_axes,
            epochs=1000,
        )
        return import_plan(open_nnunet_model(root, "final"), checkpoint)

    return run


def age(configuration: dict[str, Any], name: str = "PlainConvUNet") -> dict[str, Any]:
    """A configuration as releases before 2.4 wrote it."""
    old = {key: value for key, value in configuration.items() if key != "architecture"}
    arguments = configuration["architecture"]["arch_kwargs"]
    return {
        **old,
        "UNet_class_name": name,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": arguments.get("n_conv_per_stage") or arguments["n_blocks_per_stage"],
        "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
        "num_pool_per_axis": [2, 3, 3],
    }


def test_the_plan_says_what_nnunets_plans_say(imported: Import) -> None:
    plan = imported()
    part = plan.configurations["3d_fullres"]
    assert (part.spacing_mm, part.patch_voxels, part.median_shape_voxels) == (
        (2.5, 1.0, 1.25), (8, 16, 16), (9.5, 20.0, 21.0),
    )  # fmt: skip
    assert (part.training.batch_size, part.training.losses[0].batch_dice) == (7, True)
    assert part.network.features_per_stage == (4, 6, 8, 8)
    assert part.network.kernel_sizes[0] == (1, 3, 3)
    assert part.network.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2))
    assert (part.network.blocks_per_stage, part.network.convolutions_per_decoder_stage) == ((2, 2, 3, 2), (1, 2, 1))
    assert (part.network.input_channels, part.network.output_channels) == (1, 3)
    resampling = part.resampling
    assert (resampling.image_order, resampling.label_order, resampling.logits_order) == (3, 1, 1)
    assert resampling.anisotropy_threshold == 3
    (channel,) = plan.channels
    assert (channel.name, channel.normalization, channel.inside_nonzero_only) == ("MR", "zscore", True)
    assert plan.labels.class_names == ("liver", "tumour")
    assert (plan.dataset_name, plan.file_ending) == ("Dataset001_X", ".nii.gz")


def test_images_are_taken_as_they_are_stored_and_the_plan_says_where_it_came_from(imported: Import) -> None:
    plan = imported()
    assert plan.orientation is None
    reasons = {reason.subject: f"{reason.value}: {reason.because}" for reason in plan.reasons}
    assert "imported from model" in reasons["3d_fullres: origin"]
    assert "ExperimentPlanner" in reasons["3d_fullres: origin"]
    assert "SimpleITKIO" in reasons["3d_fullres: orientation"]
    assert reasons["3d_fullres: mirrored axes"].startswith("0, 1, 2")


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_readers_that_reorient_give_the_plan_an_orientation(reader: str, imported: Import) -> None:
    assert imported(build_foreign_plans(image_reader_writer=reader)).orientation == "RAS"


def test_transposed_axes_become_the_plans(imported: Import) -> None:
    plans = build_foreign_plans(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    assert imported(plans).axis_permutation == (2, 0, 1)


def test_mirrored_axes_are_the_checkpoints(imported: Import) -> None:
    plan = imported(mirror_axes=(1,))
    assert plan.configurations["3d_fullres"].training.mirror_axes == (1,)


@pytest.mark.parametrize("residual", [False, True])
def test_plans_of_old_releases_say_the_same(residual: bool, imported: Import) -> None:
    new = build_foreign_configuration(residual=residual)
    new["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 8, 8]
    old = age(new, "ResidualEncoderUNet" if residual else "PlainConvUNet")
    expected = imported(build_foreign_plans({"3d_fullres": new}))
    assert imported(build_foreign_plans({"3d_fullres": old})) == expected
    family = expected.configurations["3d_fullres"].network.family
    assert family == ("residual_encoder_unet" if residual else "plain_unet")


def test_intensities_of_old_releases_are_found(imported: Import) -> None:
    part = build_foreign_configuration(normalization_schemes=["CTNormalization"], use_mask_for_norm=[False])
    plans = build_foreign_plans({"3d_fullres": part})
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    (channel,) = imported(plans).channels
    assert channel.window == IntensityWindow(lower=-30, upper=170, mean=60.5, std=20.25)


def test_only_zscore_heeds_the_mask(imported: Import) -> None:
    part = build_foreign_configuration(normalization_schemes=["CTNormalization"], use_mask_for_norm=[True])
    (channel,) = imported(build_foreign_plans({"3d_fullres": part})).channels
    assert not channel.inside_nonzero_only


def test_a_two_dimensional_model_is_imported(imported: Import) -> None:
    plan = imported(build_foreign_plans({"2d": build_foreign_configuration(2)}), configuration="2d", mirror_axes=(0, 1))
    part = plan.configurations["2d"]
    assert (part.dimensions, part.network.dimensions, part.patch_voxels) == (2, 2, (16, 16))


def test_single_numbers_stand_for_all_stages_and_axes(imported: Import) -> None:
    part = build_foreign_configuration()
    part["architecture"]["arch_kwargs"] |= {
        "features_per_stage": 8, "kernel_sizes": 3, "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 1,
    }  # fmt: skip
    network = imported(build_foreign_plans({"3d_fullres": part})).configurations["3d_fullres"].network
    assert (network.features_per_stage, network.kernel_sizes[0]) == ((8, 8, 8, 8), (3, 3, 3))
    assert (network.blocks_per_stage, network.convolutions_per_decoder_stage) == ((2, 2, 2, 2), (1, 1, 1))


def test_regions_and_the_ignore_label_are_those_of_the_dataset(imported: Import) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    plan = imported(dataset=build_foreign_dataset(labels=labels, regions_class_order=[1, 2]))
    assert plan.labels.has_regions
    assert (plan.labels.ignore_value, plan.labels.region_write_values) == (3, (1, 2))
    assert plan.configurations["3d_fullres"].network.output_channels == 2


def test_a_cascade_brings_the_configurations_that_it_builds_on(imported: Import) -> None:
    configurations = {
        "2d": build_foreign_configuration(2),
        "3d_lowres": build_foreign_configuration(),
        "3d_fullres": build_foreign_configuration(),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres", "batch_size": 3},
    }
    plan = imported(build_foreign_plans(configurations), configuration="3d_cascade_fullres", mirror_axes=(2,))
    assert set(plan.configurations) == {"3d_lowres", "3d_fullres", "3d_cascade_fullres"}
    cascade = plan.configurations["3d_cascade_fullres"]
    assert (cascade.previous_configuration, cascade.data_of, cascade.training.batch_size) == (
        "3d_lowres",
        "3d_fullres",
        3,
    )
    assert cascade.network.input_channels == 3
    assert cascade.training.mirror_axes == (2,)
    assert plan.configurations["3d_lowres"].network.input_channels == 1
    assert plan.configurations["3d_lowres"].training.mirror_axes == (0, 1, 2)


def test_resampling_by_torch_is_linear(imported: Import) -> None:
    changes: dict[str, Any] = {}
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        arguments = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
        changes |= {key: "resample_torch_fornnunet", f"{key}_kwargs": arguments}
    plan = imported(build_foreign_plans({"3d_fullres": build_foreign_configuration(**changes)}))
    resampling = plan.configurations["3d_fullres"].resampling
    assert (resampling.image_order, resampling.logits_order) == (1, 1)
    assert resampling.anisotropy_threshold > 1e6  # never apart


@pytest.mark.parametrize(
    ("forced", "threshold", "ratio", "is_apart"),
    [
        (None, None, 2.9, False),
        (None, None, 3.1, True),
        (None, 2, 2.9, True),
        (True, None, 1.1, True),
        (False, None, 9, False),
    ],
)
def test_when_an_axis_is_resampled_apart(
    forced: bool | None, threshold: float | None, *, ratio: float, is_apart: bool, imported: Import
) -> None:
    more = {} if threshold is None else {"separate_z_anisotropy_threshold": threshold}
    changes = {
        f"resampling_fn_{purpose}_kwargs": {"order": 1, "order_z": 0, "force_separate_z": forced, **more}
        for purpose in ("data", "seg", "probabilities")
    }
    plan = imported(build_foreign_plans({"3d_fullres": build_foreign_configuration(**changes)}))
    assert (ratio > plan.configurations["3d_fullres"].resampling.anisotropy_threshold) is is_apart


REFUSED = {
    "unknown normalization": ({"normalization_schemes": ["MyNorm"]}, "MyNorm"),
    "unknown resampling": ({"resampling_fn_data": "no_resampling_hack"}, "no_resampling_hack"),
    "unknown preprocessor": ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
    "spline across slices": ({"resampling_fn_data_kwargs": {"order": 3, "order_z": 1}}, "order_z 1"),
    "unknown order": ({"resampling_fn_data_kwargs": {"order": 2, "order_z": 0}}, "spline order 2"),
    "cubic logits": ({"resampling_fn_probabilities_kwargs": {"order": 3, "order_z": 0}}, "cubic splines"),
    "two rules": ({"resampling_fn_data_kwargs": {"order": 3, "force_separate_z": True}}, "different rules"),
    "channels": ({"normalization_schemes": ["NoNormalization"] * 2}, "has 1 channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_autoseg_cannot_do_is_refused_by_name(case: str, imported: Import) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ExchangeError, match=message):
        imported(build_foreign_plans({"3d_fullres": build_foreign_configuration(**changes)}))


NETWORKS = {
    "batch norm": ({"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}, "norm_op is 'BatchNorm3d'"),
    "epsilon": ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "norm_op_kwargs.eps is 0.001"),
    "no affine": ({"norm_op_kwargs": {"eps": 1e-5}}, "norm_op_kwargs.affine is False"),
    "activation": ({"nonlin": "torch.nn.ReLU"}, "nonlin is 'ReLU'"),
    "slope": ({"nonlin_kwargs": {"negative_slope": 0.2}}, "negative_slope is 0.2"),
    "no bias": ({"conv_bias": False}, "conv_bias is False"),
    "dropout": ({"dropout_op": "torch.nn.Dropout3d"}, "dropout_op is 'torch.nn.Dropout3d'"),
    "something new": ({"squeeze_excitation": True}, "squeeze_excitation is True"),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_other_networks_are_refused_by_name(case: str, imported: Import) -> None:
    changes, message = NETWORKS[case]
    part = build_foreign_configuration()
    part["architecture"]["arch_kwargs"] |= changes
    with pytest.raises(ExchangeError, match=message):
        imported(build_foreign_plans({"3d_fullres": part}))


def test_options_that_are_switched_off_change_nothing(imported: Import) -> None:
    part = build_foreign_configuration()
    part["architecture"]["arch_kwargs"] |= {"squeeze_excitation": False, "stochastic_depth_p": 0.0}
    assert imported(build_foreign_plans({"3d_fullres": part})) == imported()


def test_an_unknown_network_class_is_refused_by_name(imported: Import) -> None:
    part = build_foreign_configuration()
    part["architecture"]["network_class_name"] = "somewhere.MedNeXt"
    with pytest.raises(ExchangeError, match=r"somewhere\.MedNeXt, which autoseg does not have"):
        imported(build_foreign_plans({"3d_fullres": part}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_reader_writer": "MyReader"}, "MyReader"),
        ({"label_manager": "MyLabels"}, "interprets labels with MyLabels"),
    ],
)
def test_unknown_readers_and_label_managers_are_refused_by_name(
    changes: dict[str, str], message: str, imported: Import
) -> None:
    with pytest.raises(ExchangeError, match=message):
        imported(build_foreign_plans(**changes))


def test_a_configuration_without_any_network_is_refused(imported: Import) -> None:
    part = build_foreign_configuration()
    del part["architecture"]
    with pytest.raises(ExchangeError, match=r"describes no network.*UNet_class_name"):
        imported(build_foreign_plans({"3d_fullres": part}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [8, 16, 15]}, r"patch_voxels\.2 must be a multiple of 8"),
        ({"spacing": [1.0, 1.0]}, "spacing_mm must have 3 values"),
        ({"batch_size": 0}, "batch_size: .*greater than or equal to 1"),
    ],
)
def test_values_that_make_no_sense_are_the_users_error(changes: dict[str, Any], message: str, imported: Import) -> None:
    with pytest.raises(ExchangeError, match=message):
        imported(build_foreign_plans({"3d_fullres": build_foreign_configuration(**changes)}))


def test_a_window_of_equal_intensities_is_refused(imported: Import) -> None:
    ct = build_foreign_configuration(normalization_schemes=["CTNormalization"])
    intensities = {"0": {"mean": 1.0, "std": 0.0, "percentile_00_5": 1.0, "percentile_99_5": 1.0}}
    plans = build_foreign_plans({"3d_fullres": ct}, foreground_intensity_properties_per_channel=intensities)
    with pytest.raises(ExchangeError, match=r"channel 0 is normalized .*standard deviation .* is 0 \(mean 1\)"):
        imported(plans)


def test_circular_and_missing_parents_are_refused(imported: Import) -> None:
    circle = {"3d_fullres": {"inherits_from": "b"}, "b": {"inherits_from": "3d_fullres"}}
    with pytest.raises(ExchangeError, match="circle: 3d_fullres from b from 3d_fullres"):
        imported(build_foreign_plans(circle))
    with pytest.raises(ExchangeError, match="no configuration 'b'"):
        imported(build_foreign_plans({"3d_fullres": build_foreign_configuration(inherits_from="b")}))


def test_what_plans_and_dataset_lack_is_named(imported: Import) -> None:
    part = build_foreign_configuration()
    del part["patch_size"]
    with pytest.raises(DocumentError, match=r"configurations\.3d_fullres: patch_size: is missing"):
        imported(build_foreign_plans({"3d_fullres": part}))
    ct = build_foreign_configuration(normalization_schemes=["CTNormalization"])
    with pytest.raises(DocumentError, match=r"per_channel\.0: mean: is missing"):
        imported(build_foreign_plans({"3d_fullres": ct}, foreground_intensity_properties_per_channel={}))
    with pytest.raises(DatasetError, match=r"dataset\.json cannot be used:\n.*background"):
        imported(dataset=build_foreign_dataset(labels={"liver": 1}))
