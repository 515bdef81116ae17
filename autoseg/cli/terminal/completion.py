"""Completes option values in the shell (`autoseg --install-completion`).

It must be fast, so nothing heavy is imported: runs are read from their JSON files, and names of planners,
architectures, losses and layouts are repeated.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

PLANNERS = ("default", "residual-m", "residual-l", "residual-xl", "timed", "lite")
ARCHITECTURES = (
    "plain_unet",
    "residual_encoder_unet",
    "u_net",
    "u_net_3d",
    "v_net",
    "res_unet",
    "r2u_net",
    "multires_unet",
    "dense_unet",
    "attention_unet",
    "u2_net",
    "mobile_unet",
    "rep_unet",
    "unet_plus_plus",
    "se_unet",
    "cbam_unet",
    "scse_unet",
    "aspp_unet",
    "non_local_unet",
    "dual_attention_unet",
    "graph_unet",
    "fcn_32s",
    "fcn_16s",
    "fcn_8s",
    "deeplab_v3_plus",
    "danet",
    "hrnet_v1",
    "hrnet_v2",
    "mednext_s",
    "mednext_b",
    "mednext_m",
    "mednext_l",
    "mednext_s_k5",
    "mednext_b_k5",
    "mednext_m_k5",
    "mednext_l_k5",
    "mednext_v2",
    "mednext_v2_wide",
    "seg_res_net",
    "unext",
    "primus_s",
    "primus_b",
    "primus_m",
    "primus_l",
    "u_net_valid",
    "ternaus_net",
    "ce_net",
    "resnet18_unet",
    "resnet34_unet",
    "resnet50_unet",
    "resnet101_unet",
    "densenet161_unet",
    "h_dense_unet",
    "sau_net",
    "latent_diffusion",
    "diffusion_unet",
    "mask_rcnn",
)
HEADS = ("point_rend",)
_BLOCKS = (
    *("plain", "residual", "residual_stage", "recurrent_residual", "multires", "dense", "inception", "separable"),
    *("rep", "csp_rep", "rsu"),
)
PARTS = {
    "block": _BLOCKS,
    "decoder_block": _BLOCKS,
    "skip": ("concatenation", "addition", "attention_gate", "residual_path"),
    "context": ("none", "spp", "aspp", "dac", "rmp", "non_local", "dual_attention", "graph_unet"),
    "attention": ("none", "se", "cbam", "scse", "dual_excitation"),
    "normalization": ("instance", "batch", "group", "layer", "none"),
    "activation": ("leaky_relu", "relu", "prelu", "elu", "gelu", "silu"),
    "downsampling": ("strided", "strided_wide", "max_pool", "average_pool"),
    "upsampling": ("transposed", "transposed_wide", "linear", "linear_convolution", "nearest_convolution"),
}
LOSSES = (
    "dice",
    "cross_entropy",
    "weighted_cross_entropy",
    "balanced_cross_entropy",
    "focal",
    "border_weighted_cross_entropy",
    "squared_dice",
    "generalized_dice",
    "tversky",
    "focal_tversky",
    "exponential_logarithmic",
    "boundary",
    "cldice",
    "shape_prior",
    "adversarial",
)
LAYOUTS = (
    "synapse",
    "nih-pancreas",
    "covid19-ct",
    "acdc",
    "isles2018",
    "sts-3d",
    "kvasir",
    "cvc-clinicdb",
    "cvc-colondb",
    "isic2018",
    "busi",
    "drive",
    "refuge2",
    "carvana",
    "glas",
    "monuseg",
    "dsb2018",
    "isbi2012",
    "phc-u373",
    "coco",
)
CONFIGURATIONS = (
    *("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"),
    *("2.5d", "3d_roi", "2d_triplanar", "detect_then_segment", "boundary_refinement"),
)
FOLDS = ("0", "1", "2", "3", "4")
CASE_PLACES = ("here", "dask", "slurm")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
PLACES = ("here", "slurm")
DEVICES = ("auto", "cpu", "cuda", "mps")  # not cuda:1, as bash ends words at colons


def complete_planner(incomplete: str) -> list[str]:
    """Completes `--planner`."""
    return _select(PLANNERS, incomplete)


def complete_architecture(incomplete: str) -> list[str]:
    """Completes `--architecture`."""
    return _select(ARCHITECTURES, incomplete)


def complete_part(incomplete: str) -> list[str]:
    """Completes `--part`; bash ends words at the equals sign, so that it gets whole ones alone."""
    return _select((f"{name}={value}" for name, values in PARTS.items() for value in values), incomplete)


def complete_head(incomplete: str) -> list[str]:
    """Completes `--head`."""
    return _select(HEADS, incomplete)


def complete_loss(incomplete: str) -> list[str]:
    """Completes the last name of `--loss`."""
    before, plus, last = incomplete.rpartition("+")
    return [f"{before}{plus}{name}" for name in _select(LOSSES, last)]


def complete_configuration(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes `--configuration` with those of the run on the command line, else with the usual ones."""
    planned = _read_run(ctx, "plan.json").get("configurations")
    return _select(planned if isinstance(planned, dict) else CONFIGURATIONS, incomplete)


def complete_fold(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes `--fold` with those of the run on the command line, else with five; and with "all"."""
    folds = _read_run(ctx, "splits.json").get("folds")
    names = map(str, range(len(folds))) if isinstance(folds, list) else FOLDS
    return _select((*names, "all"), incomplete)


def complete_device(incomplete: str) -> list[str]:
    """Completes `--device`."""
    return _select(DEVICES, incomplete)


def complete_case_place(incomplete: str) -> list[str]:
    """Completes `--on` of commands that work on single cases."""
    return _select(CASE_PLACES, incomplete)


def complete_place(incomplete: str) -> list[str]:
    """Completes `--on`."""
    return _select(PLACES, incomplete)


def complete_layout(incomplete: str) -> list[str]:
    """Completes `--layout`."""
    return _select(("auto", *LAYOUTS), incomplete)


def complete_precision(incomplete: str) -> list[str]:
    """Completes `--precision`."""
    return _select(PRECISIONS, incomplete)


def _select(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _read_run(ctx: typer.Context, name: str) -> dict[str, Any]:
    """Reads a document of the run; empty if it cannot be read, as completion must not fail."""
    from autoseg.errors import AutosegError
    from autoseg.untrusted.json_reading import read_json

    arguments = [parameter.name for parameter in ctx.command.params if parameter.param_type_name == "argument"]
    if arguments[:1] != ["run"] or not ctx.args:  # while an option is incomplete, arguments are unparsed words
        return {}
    try:
        content = read_json(Path(ctx.args[0]).expanduser() / name)
    except (AutosegError, ValueError, RuntimeError):  # missing, no JSON, or ~user of an unknown user
        return {}
    return content if isinstance(content, dict) else {}
