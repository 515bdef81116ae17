"""Export of a trained configuration to a folder that nnU-Net predicts with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_folders import DATASET_NAME, PLANS_NAME, SEPARATOR
from autoseg.exchange.nnunet_limits import check_label_values, compute_ignore_value
from autoseg.exchange.nnunet_networks import describe_network
from autoseg.exchange.nnunet_preprocessing import SPLINES, describe_resampling, find_normalization_name, find_reader
from autoseg.exchange.nnunet_trainers import BASE
from autoseg.exchange.nnunet_weights import convert_to_nnunet
from autoseg.fingerprint import Fingerprint
from autoseg.plan.document import ConfigurationPlan, Plan
from autoseg.plan.losses import DiceTerm
from autoseg.plan.preprocessing import ChannelPlan
from autoseg.plan.stages import MasksOfPreviousStage
from autoseg.run_folder import translate_library_errors, write_atomically, write_text

PLANS_TITLE: Final = "autosegPlans"
REORIENTED: Final = "RAS"
IMPORTED_NAMES: Final = ("conv_op", "norm_op", "dropout_op", "nonlin")  # that nnU-Net imports by their texts


def name_model_folder(configuration: str) -> str:
    """Returns the name that nnU-Net gives to the models of a trainer and a plan."""
    return SEPARATOR.join((BASE, PLANS_TITLE, configuration))


def describe_export_differences(plan: Plan) -> tuple[str, ...]:
    """Describes what nnU-Net does in another way with a model of this plan, one sentence each."""
    notes = []
    if plan.orientation not in (None, REORIENTED):
        notes.append(
            f"nnU-Net takes images as they are stored, this model needs {plan.orientation}: reorient images to "
            f"{plan.orientation} before nnU-Net predicts them (autoseg does so by itself)"
        )
    if plan.labels.ignore_value not in (None, compute_ignore_value(plan.labels)):
        notes.append(
            f"the ignore label {plan.labels.ignore_value} is left out: nnU-Net wants "
            f"{compute_ignore_value(plan.labels)} for it, and prediction does not need it"
        )
    return tuple(notes)


def drop_unknown_configurations(plan: Plan, configuration: str) -> Plan:
    """Returns the plan without the configurations that nnU-Net cannot express, but for what the exported one needs."""
    needed = {*plan.list_stages(configuration), plan.configurations[configuration].data_of}
    kept = {
        name: part
        for name, part in plan.configurations.items()
        if name in needed or all(_is_known(plan.configurations[stage]) for stage in plan.list_stages(name))
    }
    return plan.model_copy(update={"configurations": kept})


def _is_known(part: ConfigurationPlan) -> bool:
    return (
        not part.context_slices
        and not part.sees_other_planes
        and isinstance(part.previous_stage, MasksOfPreviousStage | None)
    )


def write_model_description(folder: Path, plan: Plan, fingerprint: Fingerprint | None) -> None:
    """Writes plans.json and dataset.json.

    Args:
        folder: Folder of the model.
        plan: The plan that the model followed.
        fingerprint: Fingerprint of the training data, if the run has one.

    Raises:
        ExchangeError: nnU-Net cannot express something; the message names it.
    """
    _write_json(folder / PLANS_NAME, _describe_plans(plan, fingerprint))
    _write_json(folder / DATASET_NAME, _describe_dataset(plan, fingerprint))


def write_nnunet_checkpoint(
    path: Path, weights: Mapping[str, Tensor], plan: Plan, *, configuration: str, fold: str
) -> None:
    """Writes weights as nnU-Net's prediction reads them.

    nnU-Net knows no other form than PyTorch's pickled one. This one holds tensors, texts and numbers only. Equal
    weights become equal files: PyTorch would write the name of the temporary file into it.

    Raises:
        RunError: The folder cannot be written or the disk is full.
    """
    chosen = plan.configurations[configuration]
    content = {
        "network_weights": convert_to_nnunet(weights, chosen.network),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": chosen.training.epochs,
        "init_args": {
            "plans": _describe_plans(plan, None),
            "configuration": configuration,
            "fold": int(fold) if fold.isdecimal() else fold,
            "dataset_json": _describe_dataset(plan, None),
        },
        "trainer_name": BASE,
        "inference_allowed_mirroring_axes": chosen.training.mirror_axes or None,
    }
    with write_atomically(path) as temporary, translate_library_errors(temporary), temporary.open("wb") as stream:
        torch.save(content, stream)


def _describe_plans(plan: Plan, fingerprint: Fingerprint | None) -> dict[str, Any]:
    dimensions = [part.dimensions for part in plan.configurations.values()]
    forward = plan.axis_permutation
    return {
        "dataset_name": plan.dataset_name,
        "plans_name": PLANS_TITLE,
        "image_reader_writer": find_reader(plan.file_ending, plan.orientation, dimensions=dimensions),
        "transpose_forward": list(forward),
        "transpose_backward": [forward.index(axis) for axis in range(3)],
        "configurations": {name: _describe_configuration(name, plan) for name in plan.configurations},
        "experiment_planner_used": f"autoseg {plan.planner}",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): _describe_intensities(index, channel, fingerprint)
            for index, channel in enumerate(plan.channels)
        },
    }


def _describe_configuration(name: str, plan: Plan) -> dict[str, Any]:
    part = plan.configurations[name]
    content = {
        "data_identifier": f"{PLANS_TITLE}_{part.data_of}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": part.training.batch_size,
        "patch_size": list(part.patch_voxels),
        "median_image_size_in_voxels": list(part.median_shape_voxels),
        "spacing": list(part.spacing_mm),
        "normalization_schemes": [find_normalization_name(channel) for channel in plan.channels],
        "use_mask_for_norm": [channel.inside_nonzero_only for channel in plan.channels],
        **_describe_functions(part),
        "architecture": _describe_architecture(part),
        "batch_dice": any(isinstance(term, DiceTerm) and term.batch_dice for term in part.training.losses),
    }
    if part.border != "zeros":
        msg = (
            f"{name} continues images at their border ({part.border!r}), but nnU-Net pads them with zeros; export it "
            f"with --format autoseg, or export another configuration"
        )
        raise ExchangeError(msg)
    if part.context_slices:
        msg = (
            f"{name} sees {part.context_slices} neighbouring slices on either side as channels ('context_slices'), "
            f"which nnU-Net cannot: export it with --format autoseg, or export another configuration"
        )
        raise ExchangeError(msg)
    if part.sees_other_planes:
        msg = (
            f"{name} averages predictions in slices across {len(part.plane_axes)} axes ('plane_axes'), which nnU-Net "
            f"cannot: export it with --format autoseg, or export another configuration"
        )
        raise ExchangeError(msg)
    if part.training.mirror_pairs is not None:
        msg = (
            f"{name} exchanges the labels of left and right where it is mirrored ('mirror_pairs'), but nnU-Net cannot: "
            f"export it with --format autoseg, or export another configuration"
        )
        raise ExchangeError(msg)
    if part.previous_stage is not None:
        if not isinstance(part.previous_stage, MasksOfPreviousStage):
            msg = (
                f"{name} gets {part.previous_stage.input!r} from {part.previous_configuration}, but in nnU-Net a stage "
                f"gets masks; export it with --format autoseg, or export another configuration"
            )
            raise ExchangeError(msg)
        content["previous_stage"] = part.previous_configuration
    if part.data_of != name:
        content["inherits_from"] = part.data_of
    heirs = [other for other, heir in plan.configurations.items() if heir.previous_configuration == name]
    return {**content, "next_stage": heirs} if heirs else content


def _describe_functions(part: ConfigurationPlan) -> dict[str, Any]:
    resampling = part.resampling
    content: dict[str, Any] = {}
    for purpose, order in (
        ("data", resampling.image_order),
        ("seg", resampling.label_order),
        ("probabilities", resampling.logits_order),
    ):
        content[f"resampling_fn_{purpose}"] = SPLINES
        content[f"resampling_fn_{purpose}_kwargs"] = describe_resampling(
            order, is_seg=purpose == "seg", threshold=resampling.anisotropy_threshold
        )
    return content


def _describe_architecture(part: ConfigurationPlan) -> dict[str, Any]:
    foreign = describe_network(part.network)
    arguments = foreign.arch_kwargs.model_dump(mode="json", exclude_unset=True)
    return {
        "network_class_name": foreign.network_class_name,
        "arch_kwargs": arguments,
        "_kw_requires_import": list(IMPORTED_NAMES),
    }


def _describe_intensities(index: int, channel: ChannelPlan, fingerprint: Fingerprint | None) -> dict[str, float]:
    """nnU-Net wants an entry for every channel, but looks only into those of CT channels."""
    measured = None if fingerprint is None else fingerprint.channels[index].foreground
    content = {} if measured is None else measured.model_dump()
    if channel.window is None:
        return content
    window = channel.window
    used = {"percentile_00_5": window.lower, "percentile_99_5": window.upper, "mean": window.mean, "std": window.std}
    return {**content, **used}


def _describe_dataset(plan: Plan, fingerprint: Fingerprint | None) -> dict[str, Any]:
    labels = plan.labels
    check_label_values(labels)
    entries: dict[str, int | list[int]] = {"background": 0}
    for entry in labels.classes:
        entries[entry.name] = entry.values[0] if len(entry.values) == 1 else list(entry.values)
    if labels.ignore_value is not None and labels.ignore_value == compute_ignore_value(labels):
        entries["ignore"] = labels.ignore_value
    content = {
        "channel_names": {str(index): channel.name for index, channel in enumerate(plan.channels)},
        "labels": entries,
        "numTraining": 0 if fingerprint is None else len(fingerprint.cases),
        "file_ending": plan.file_ending,
        "name": plan.dataset_name,
    }
    if labels.region_write_values is None:
        return content
    return {**content, "regions_class_order": list(labels.region_write_values)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=4) + "\n")
