"""Conversion between the names of weights here and in nnU-Net, whose modules are nested in another way."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from autoseg.errors import ExchangeError, shorten_names
from autoseg.exchange.nnunet_networks import check_family
from autoseg.networks.families import build_network
from autoseg.plan.network import NetworkPlan, UNetPlan

# Here, and there. Decoders count from the full resolution here (level), from the lowest there (step).
RULES: Final = (
    (r"levels\.(?P<level>\d+)\.upsampling\.", "decoder.transpconvs.{step}."),
    (r"levels\.(?P<level>\d+)\.units\.(?P<unit>\d+)\.normalized\.", "decoder.stages.{step}.convs.{unit}."),
    (r"heads\.(?P<level>\d+)\.", "decoder.seg_layers.{step}."),
    (r"encoder\.stem\.normalized\.", "encoder.stem.convs.0."),
    (r"encoder\.stages\.(?P<stage>\d+)\.(?P<unit>\d+)\.normalized\.", "encoder.stages.{stage}.0.convs.{unit}."),
    (
        r"encoder\.stages\.(?P<stage>\d+)\.(?P<unit>\d+)\.first\.normalized\.",
        "encoder.stages.{stage}.blocks.{unit}.conv1.",
    ),
    (r"encoder\.stages\.(?P<stage>\d+)\.(?P<unit>\d+)\.second\.", "encoder.stages.{stage}.blocks.{unit}.conv2."),
    (
        r"encoder\.stages\.(?P<stage>\d+)\.(?P<unit>\d+)\.shortcut\.projection\.",
        "encoder.stages.{stage}.blocks.{unit}.skip.{skip}.",
    ),
)
CONVOLUTION: Final = ("convolution.", "conv.")
# nnU-Net lists the parts of a unit a second time, by position, and the encoder once more below the decoder.
REPEATED_PARTS: Final = ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1."))
REPEATED_MARK: Final = ".all_modules."
REPEATED_ENCODER: Final = "decoder."


def convert_from_nnunet(weights: Mapping[str, Tensor], plan: NetworkPlan, *, where: str) -> dict[str, Tensor]:
    """Renames nnU-Net's weights to those of a network of the plan; each tensor of either has exactly one counterpart.

    Args:
        weights: Tensors by nnU-Net's names.
        plan: Describes the network.
        where: The name of the file in a message.

    Raises:
        ExchangeError: The weights belong to another network than the plan's, or nnU-Net has no such network.
    """
    plan = check_family(plan)
    with torch.device("meta"):  # shapes without memory
        expected = build_network(plan).state_dict()
    names = {name: rename_to_nnunet(name, plan) for name in expected}
    found = {name for name in weights if not _is_repetition(name)}
    missing, extra = sorted(set(names.values()) - found), sorted(found - set(names.values()))
    if missing or extra:
        lacking, unknown = (shorten_names(names) or "none" for names in (missing, extra))
        msg = (
            f"{where} does not hold the weights of the planned {plan.family}: missing {lacking}, not expected "
            f"{unknown}; a network that a trainer builds in its own way cannot be imported"
        )
        raise ExchangeError(msg)
    converted = {ours: weights[theirs].float() for ours, theirs in names.items()}
    for ours, tensor in converted.items():
        if tensor.shape != expected[ours].shape:
            msg = (
                f"{where}: {names[ours]} has the shape {tuple(tensor.shape)}, but the plan's network has "
                f"{tuple(expected[ours].shape)} there; plans and checkpoint belong to different models"
            )
            raise ExchangeError(msg)
    return converted


def convert_to_nnunet(weights: Mapping[str, Tensor], plan: NetworkPlan) -> dict[str, Tensor]:
    """Renames weights to all the names that nnU-Net expects: it loads strictly, so repetitions must be there too.

    Raises:
        ExchangeError: nnU-Net has no such network.
    """
    plan = check_family(plan)
    converted: dict[str, Tensor] = {}
    for ours, tensor in weights.items():
        theirs = rename_to_nnunet(ours, plan)
        for name in (theirs, *_repeat_part(theirs)):
            converted[name] = tensor
            if name.startswith("encoder."):
                converted[f"{REPEATED_ENCODER}{name}"] = tensor
    return converted


def rename_to_nnunet(name: str, plan: UNetPlan) -> str:
    """Returns nnU-Net's name of one of our weights."""
    for pattern, template in RULES:
        match = re.match(pattern, name)
        if match is not None:
            rest = name[match.end() :].replace(*CONVOLUTION)
            return template.format(**_compute_places(match, plan)) + rest
    msg = f"no weight of nnU-Net belongs to {name}"
    raise AssertionError(msg)


def _compute_places(match: re.Match[str], plan: UNetPlan) -> dict[str, str]:
    """Computes the numbers in nnU-Net's names from those in ours."""
    places = {key: value for key, value in match.groupdict().items() if value is not None}
    if "level" in places:
        places["step"] = str(len(plan.features_per_stage) - 2 - int(places["level"]))
    if "stage" in places:
        # A pooling without weights comes first where the block has a stride.
        is_strided = places["unit"] == "0" and any(step != 1 for step in plan.strides[int(places["stage"])])
        places["skip"] = "1" if is_strided else "0"
    return places


def _repeat_part(name: str) -> Iterable[str]:
    return (name.replace(part, repeated) for part, repeated in REPEATED_PARTS if part in name)


def _is_repetition(name: str) -> bool:
    return REPEATED_MARK in name or name.startswith(f"{REPEATED_ENCODER}encoder.")
