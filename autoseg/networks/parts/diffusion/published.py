"""Weights of Stable Diffusion by the names of its code (Rombach et al. 2022, arXiv:2112.10752).

Its files hold an autoencoder of pictures, a denoiser, and more that has no place here. Every tensor of a network here
is one of theirs, or three of them one after the other: `find_published_names` is the rule.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from autoseg.plan.network.latent_diffusion import DenoiserPlan, LatentDiffusionPlan

AUTOENCODER: Final = "first_stage_model."
DENOISER: Final = "model.diffusion_model."
SCALE_NAME: Final = "scale_factor"
OWN_SCALE: Final = "autoencoder.latent_scale"
FIRST_KERNEL: Final = "vision.stem.weight"
TEXT_MARK: Final = ".transformer_blocks."  # in the names of a denoiser that attends to a text
LEFT_OUT: Final = (
    *(
        "cond_stage_model.",
        "model_ema.",
        "loss.",
        f"{AUTOENCODER}loss.",
        "betas",
        "logvar",
        "posterior_",
        "lvlb_weights",
    ),
    *("alphas_cumprod", "sqrt_alphas_", "sqrt_one_minus_", "sqrt_recip", "log_one_minus_"),
)
"""Beginnings of the names of what a file may hold beside: what sees the condition, averages, losses, the schedule."""

ENDS: Final = {"stem": "conv_in", "norm": "norm_out", "head": "conv_out"}
MOMENTS: Final = {"encoder": "quant_conv", "decoder": "post_quant_conv"}
MIDDLE: Final = {"first": "block_1", "attention": "attn_1", "second": "block_2"}
BLOCK: Final = {
    "first_norm": ("norm1",),
    "first": ("conv1",),
    "second_norm": ("norm2",),
    "second": ("conv2",),
    "shortcut": ("nin_shortcut",),
    "norm": ("norm",),
    "mixing": ("q", "k", "v"),
    "output": ("proj_out",),
}
"""Parts of residual blocks and attentions of the autoencoder."""

DENOISER_ENDS: Final = {"embedding": "time_embed", "stem": "input_blocks.0.0", "norm": "out.0", "head": "out.2"}
DENOISER_MIDDLE: Final = {"first": 0, "attention": 1, "second": 2}
DENOISER_PLACES: Final = {"block": 0, "attention": 1}
DENOISER_BLOCK: Final = {
    "first_norm": "in_layers.0",
    "first": "in_layers.2",
    "step": "emb_layers.1",
    "second_norm": "out_layers.0",
    "second": "out_layers.3",
    "shortcut": "skip_connection",
    "norm": "norm",
    "mixing": "qkv",
    "output": "proj_out",
}
"""The same of the denoiser."""


def find_published_names(name: str, plan: LatentDiffusionPlan) -> tuple[str, ...]:
    """Finds the names that Stable Diffusion gives to a tensor of the state; several are joined, none: it has no such.

    The encoder of the image begins with the weights of that of label maps.
    """
    top, _, inner = name.partition(".")
    if top == "denoiser":
        return (f"{DENOISER}{_find_in_denoiser(inner.split('.'), plan.denoiser)}",)
    if top == "vision" or name.startswith(("autoencoder.encoder.", "autoencoder.decoder.")):
        side, *parts = f"encoder.{inner}".split(".") if top == "vision" else inner.split(".")
        found = _find_in_autoencoder(side, parts, plan)
        return tuple(f"{AUTOENCODER}{published}" for published in found)
    return ()


def _find_in_autoencoder(side: str, parts: Sequence[str], plan: LatentDiffusionPlan) -> Iterator[str]:
    top, *rest = parts
    if top in ENDS:
        yield ".".join((side, ENDS[top], *rest))
    elif top == "moments":
        yield ".".join((MOMENTS[side], *rest))
    elif top == "middle":
        place, kind, tensor = rest
        yield from (f"{side}.mid.{MIDDLE[place]}.{published}.{tensor}" for published in BLOCK[kind])
    else:
        index, kind, tensor = rest
        place = _find_in_stages(side, int(index), plan)
        if kind in BLOCK:
            yield from (f"{side}.{place}.{published}.{tensor}" for published in BLOCK[kind])
        else:
            yield f"{side}.{place}.{tensor}"


def _find_in_stages(side: str, index: int, plan: LatentDiffusionPlan) -> str:
    """Finds the place of a module of `stages`, in which a change of resolution follows the blocks of a stage."""
    last, blocks = plan.autoencoder.stage_count - 1, plan.autoencoder.blocks_per_stage
    if side == "encoder":
        stage, place = divmod(index, blocks + 1)
        return f"down.{stage}.block.{place}" if place < blocks else f"down.{stage}.downsample.conv"
    above, place = divmod(index, blocks + 2)
    return f"up.{last - above}.block.{place}" if place <= blocks else f"up.{last - above}.upsample.conv"


def _find_in_denoiser(parts: Sequence[str], plan: DenoiserPlan) -> str:
    top, *rest = parts
    if top in DENOISER_ENDS:
        return ".".join((DENOISER_ENDS[top], *rest))
    if top == "middle":
        place = f"middle_block.{DENOISER_MIDDLE[rest[0]]}"
    else:
        place = _find_block(top, int(rest[0]), rest[1], plan)
    kind, tensor = rest[-2:]
    return f"{place}.{DENOISER_BLOCK[kind]}.{tensor}"


def _find_block(side: str, index: int, part: str, plan: DenoiserPlan) -> str:
    """Finds the place of a module; in the decoder, a change of resolution belongs to the block before it."""
    if side == "encoder":
        return f"input_blocks.{1 + index}.{DENOISER_PLACES.get(part, 0)}"
    above, place = divmod(index, plan.blocks_per_stage + 2)
    first = above * (plan.blocks_per_stage + 1)
    if place <= plan.blocks_per_stage:
        return f"output_blocks.{first + place}.{DENOISER_PLACES[part]}"
    has_attention = plan.stage_count - 1 - above in plan.attention_stages
    return f"output_blocks.{first + place - 1}.{1 + has_attention}"


def is_left_out(name: str) -> bool:
    """Returns whether a name is that of something which has no place here."""
    return name.startswith(LEFT_OUT)


def complete_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Completes the names of a file that holds an autoencoder alone, without the name of that part."""
    if any(name.startswith((AUTOENCODER, DENOISER)) for name in weights):
        return dict(weights)
    return {name if is_left_out(name) else f"{AUTOENCODER}{name}": tensor for name, tensor in weights.items()}


def has_denoiser(weights: Mapping[str, Tensor]) -> bool:
    """Returns whether there is a denoiser, and one that needs no text."""
    names = [name for name in weights if name.startswith(DENOISER)]
    return bool(names) and not any(TEXT_MARK in name for name in names)


def fit_published(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], plan: LatentDiffusionPlan
) -> tuple[dict[str, Tensor], list[str]]:
    """Fits weights of Stable Diffusion to a network.

    Args:
        weights: Weights by the names of Stable Diffusion.
        expected: State of the network, which may lie on the meta device.
        plan: Its plan, which says what parts there are.

    Returns:
        The weights for `load_state_dict`, which lacks what they do not hold, and what does not fit, in words.
    """
    has_own = plan.pretrained is not None and "denoiser" in plan.pretrained.parts
    names = {name: find_published_names(name, plan) for name in expected if has_own or not name.startswith("denoiser.")}
    wanted = {published for group in names.values() for published in group}
    problems = [f"expected {published}, found none" for published in sorted(wanted - weights.keys())]
    for name in sorted(weights.keys() - wanted):
        if name != SCALE_NAME and not is_left_out(name) and (has_own or not name.startswith(DENOISER)):
            problems.append(f"found {name}, expected none")
    fitted = {}
    for name, group in names.items():
        if not group or any(published not in weights for published in group):
            continue
        fitted[name] = _join(name, [weights[published] for published in group], expected[name].shape, plan)
        if name != FIRST_KERNEL and fitted[name].shape != expected[name].shape:
            found = tuple(weights[group[0]].shape)
            problems.append(f"{group[0]}: expected {_describe_expected(expected[name].shape, group)}, found {found}")
    if SCALE_NAME in weights:
        fitted[OWN_SCALE] = weights[SCALE_NAME].reshape(())
    return fitted, problems


def _join(name: str, parts: Sequence[Tensor], shape: torch.Size, plan: LatentDiffusionPlan) -> Tensor:
    """Joins tensors to one, in the form that it has here."""
    joined = parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
    if not name.startswith("denoiser."):
        return joined
    if joined.ndim == len(shape) - 1 == 3:
        joined = joined[..., None]  # kernels of one voxel, there along one axis
    if ".mixing." in name and len(joined) == shape[0]:
        heads = plan.denoiser.heads
        joined = joined.reshape(heads, 3, -1, *joined.shape[1:]).transpose(0, 1).flatten(0, 2)
    if name == "denoiser.stem.weight" and joined.ndim == len(shape) and 2 * joined.shape[1] == shape[1]:
        joined = torch.cat((joined, torch.zeros_like(joined)), dim=1)  # the encoded image counts for nothing at first
    return joined


def _describe_expected(shape: torch.Size, group: Sequence[str]) -> str:
    return f"the shape {(shape[0] // len(group), *shape[1:])}"
