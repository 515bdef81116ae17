"""First weights of a network: of parts from a local file of other programs, of all from a checkpoint.

An encoder takes files in torchvision's form, latent diffusion those of Stable Diffusion.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autoseg.errors import PlanError, RunError
from autoseg.files.checksums import compute_sha256
from autoseg.networks.initialization import add_input_channels, enlarge_kernels
from autoseg.networks.network import SegmentationNetwork
from autoseg.networks.parts.diffusion.process import NOISE_NAME, tile
from autoseg.networks.parts.diffusion.published import (
    FIRST_KERNEL,
    complete_names,
    fit_published,
    has_denoiser,
    is_left_out,
)
from autoseg.networks.parts.encoders import build_encoder
from autoseg.networks.parts.encoders.encoder import Encoder
from autoseg.networks.safe_unpickling import find_storage_problem, read_checkpoint_safely
from autoseg.networks.weights import find_weight_problem, read_weights
from autoseg.plan.network.base import NetworkPlan, PretrainedPlan
from autoseg.plan.network.encoder_u import EncoderUPlan
from autoseg.plan.network.latent_diffusion import LatentDiffusionPlan

COLOURS: Final = 3
COUNTER: Final = "num_batches_tracked"  # of a batch normalization; older files have none
OLD_DENSE_NAME: Final = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")
MOST_SHOWN: Final = 5


def check_pretrained(plan: NetworkPlan) -> Path | None:
    """Checks that the file of first weights is the one that was planned; returns its path, None if none was planned.

    Raises:
        PlanError: The file is missing, or has changed since the plan was made.
    """
    pretrained = plan.find_pretrained()
    if pretrained is None:
        return None
    path = pretrained.path
    found = hash_pretrained(path)
    if found != pretrained.sha256:
        msg = (
            f"the pretrained weights {path} have changed since the plan was made: expected the SHA-256 "
            f"{pretrained.sha256}, found {found}; put the file back, or plan again with --pretrained"
        )
        raise PlanError(msg)
    return path


def load_pretrained(network: SegmentationNetwork) -> None:
    """Replaces the first weights of parts by those of the file in the plan; does nothing if there is none.

    Raises:
        PlanError: The file is missing, has changed since the plan was made, or does not fit.
        ExchangeError: It is damaged, or holds anything but weights.
    """
    path = check_pretrained(network.plan)
    if path is None:
        return
    if isinstance(network.plan, LatentDiffusionPlan):
        network.load_state_dict(fit_latents(read_latents(path), network.state_dict(), network.plan), strict=False)
        return
    encoders = (module for module in network.modules() if isinstance(module, Encoder))
    encoder = next(encoder for encoder in encoders if encoder.plan.pretrained is not None)
    encoder.load_state_dict(fit_pretrained(read_pretrained(path), encoder, path), strict=False)


def describe_pretrained(path: Path, plan: EncoderUPlan) -> PretrainedPlan:
    """Describes a file for plans, after it was checked; whether the channels are colours, planners decide.

    Args:
        path: The file.
        plan: The network as published, whose encoder the weights must fit.

    Raises:
        PlanError: The file is missing or does not fit.
        ExchangeError: It is damaged, or holds anything but weights.
    """
    described = PretrainedPlan(path=path.resolve(), sha256=hash_pretrained(path), first_kernels="mean")
    with torch.device("meta"):
        encoder = build_encoder(plan)
    fit_pretrained(read_pretrained(path), encoder, path)
    return described


def hash_pretrained(path: Path) -> str:
    """Computes the SHA-256 of a file.

    Raises:
        PlanError: It is missing or cannot be read.
    """
    reason = "it is no file"
    if path.is_file():
        try:
            return compute_sha256(path)
        except OSError as error:
            reason = error.strerror or str(error)
    msg = f"the pretrained weights {path} cannot be read ({reason}); put the file there, or plan with another one"
    raise PlanError(msg)


def read_pretrained(path: Path) -> dict[str, Tensor]:
    """Reads the weights of a .safetensors file, or of one of `torch.save`, of which nothing is executed.

    Raises:
        PlanError: It holds anything but tensors by name.
        ExchangeError: It is damaged or names anything but weights.
    """
    return dict(_list_weights(_read_content(path), path))


def read_latents(path: Path) -> dict[str, Tensor]:
    """Reads the weights of a file of Stable Diffusion, without those of which nothing is used here.

    Raises:
        PlanError: It holds anything but tensors by name.
        ExchangeError: It is damaged or names anything but weights.
    """
    content = _read_content(path)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        msg = f"{path} must hold tensors by name in its state_dict; found {type(state).__name__}"
        raise PlanError(msg)
    kept = {name: tensor for name, tensor in state.items() if not (isinstance(name, str) and is_left_out(name))}
    return complete_names(dict(_list_weights(kept, path)))


def _read_content(path: Path) -> Mapping[Any, Any]:
    if path.suffix == ".safetensors":
        try:
            content: object = load_file(path)
        except (SafetensorError, OSError) as error:
            msg = f"the pretrained weights {path} cannot be read ({error}); copy the file again"
            raise PlanError(msg) from error
    else:
        content = read_checkpoint_safely(path, is_legacy_allowed=True)
    if not isinstance(content, Mapping):
        msg = f"{path} holds no weights by name: expected a dictionary of tensors, found {type(content).__name__}"
        raise PlanError(msg)
    return content


def _list_weights(content: Mapping[object, object], path: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            msg = (
                f"{path} must hold tensors by name, as the files of their authors do; found {name!s:.80}: "
                f"{type(tensor).__name__}"
            )
            raise PlanError(msg)
        if name.endswith(COUNTER):
            continue
        problem = find_storage_problem(tensor)
        if problem is not None:
            msg = f"{path}: the weights {name:.200} {problem}"
            raise PlanError(msg)
        yield OLD_DENSE_NAME.sub(r"\1\2.", name), tensor


def fit_pretrained(weights: Mapping[str, Tensor], encoder: Encoder, path: Path) -> dict[str, Tensor]:
    """Fits weights of torchvision's names to an encoder: to its channels, dimensions and flat kernels.

    Args:
        weights: Weights by the names of torchvision.
        encoder: It may lie on the meta device.
        path: Path of the file, for messages.

    Raises:
        PlanError: A tensor is missing, has another shape, is not finite, or belongs to another network.
    """
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.endswith(COUNTER)}
    names = {name: encoder.find_published_name(name) for name in state}
    problems = [f"expected {name}, found none" for name in names.values() if name not in weights]
    unknown = sorted(set(weights) - set(names.values()))
    problems += [f"found {name}, expected none" for name in unknown if not encoder.is_left_out(name)]
    first, pretrained = next(iter(state)), encoder.plan.pretrained
    is_kept = pretrained is not None and pretrained.first_kernels == "by_colour"
    fitted = {}
    for name, published in names.items():
        if published not in weights:
            continue
        found, shape = weights[published], state[name].shape
        if name == first and not is_kept and found.ndim > 1 and found.shape[1] == COLOURS:
            found = adapt_channels(found, shape[1])
        fitted[name] = adapt_kernel(found, shape)
        if fitted[name].shape != shape:
            problems.append(f"{published}: expected the shape {tuple(shape)}, found {tuple(weights[published].shape)}")
    problem = find_weight_problem(weights, {})
    if problem is not None:
        problems.append(problem)
    advice = "choose the file of the same network in torchvision's form, or another --architecture"
    _refuse_problems(problems, f"{path} do not fit the encoder {encoder.plan.encoder.name}", advice)
    return fitted


def fit_latents(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], plan: LatentDiffusionPlan
) -> dict[str, Tensor]:
    """Fits weights of Stable Diffusion to a network of latent diffusion, and the first kernels to its channels.

    Args:
        weights: Weights by the names of Stable Diffusion.
        expected: State of the network, which may lie on the meta device.
        plan: Its plan, with the file.

    Raises:
        PlanError: A tensor is missing, has another shape, is not finite, or is unknown.
    """
    assert plan.pretrained is not None, "there is a file"
    fitted, problems = fit_published(weights, expected, plan)
    first = fitted.get(FIRST_KERNEL)
    if first is not None and first.ndim > 1 and plan.pretrained.first_kernels == "mean":
        fitted[FIRST_KERNEL] = adapt_channels(first, plan.input_channels)
    problem = find_weight_problem(weights, {})
    if problem is not None:
        problems.append(problem)
    advice = (
        "choose a file with the names of the code of Stable Diffusion 1 or of latent diffusion (.ckpt, .safetensors; "
        "not those of diffusers) that holds the autoencoder of 8 x 8 pixels, or plan without --pretrained"
    )
    _refuse_problems(problems, f"{plan.pretrained.path} do not fit {plan.family}", advice)
    return fitted


def describe_latents(path: Path, plan: LatentDiffusionPlan, expected: Mapping[str, Tensor]) -> PretrainedPlan:
    """Describes a file of Stable Diffusion for plans, after it was checked.

    Args:
        path: The file.
        plan: The network as published.
        expected: State of that network, which may lie on the meta device.

    Raises:
        PlanError: The file is missing or does not fit.
        ExchangeError: It is damaged, or holds anything but weights.
    """
    digest, weights = hash_pretrained(path), read_latents(path)
    described = PretrainedPlan(
        path=path.resolve(),
        sha256=digest,
        first_kernels="mean",
        parts=("autoencoder", "denoiser") if has_denoiser(weights) else ("autoencoder",),
    )
    fit_latents(weights, expected, plan.with_pretrained(described))
    return described


def _refuse_problems(problems: Sequence[str], subject: str, advice: str) -> None:
    if problems:
        more = f"; and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
        msg = f"the pretrained weights {subject}: {'; '.join(problems[:MOST_SHOWN])}{more}; {advice}"
        raise PlanError(msg)


def adapt_channels(
    weight: Float[Tensor, "features colours ..."], channels: int
) -> Float[Tensor, "features channels ..."]:
    """Adapts the kernels for colour images to any number of channels.

    If all channels are equal, the response is that to the colour image of three such channels.
    """
    mean = weight.sum(dim=1, keepdim=True) / channels
    return mean.expand(-1, channels, *weight.shape[2:])


def adapt_kernel(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Adapts the extents of a kernel; where that is not possible, the shape stays another one.

    A kernel for images is repeated along the first axis of volumes and divided by the number of repetitions, so that a
    volume that does not change along this axis gives the response of its slices (Carreira and Zisserman 2017,
    arXiv:1705.07750). Where the encoder's kernel has one voxel along an axis, and more along others, the sum is taken.
    """
    if weight.ndim == len(shape) - 1 == 4:
        weight = weight[:, :, None].expand(-1, -1, shape[2], -1, -1) / shape[2]
    if weight.ndim != len(shape) or all(extent == 1 for extent in shape[2:]):
        return weight
    for axis in range(2, weight.ndim):
        if shape[axis] == 1:
            weight = weight.sum(dim=axis, keepdim=True)
    return weight


def fit_initial_weights(
    path: Path, expected: Mapping[str, Tensor], *, adds_channels: bool = False
) -> tuple[dict[str, Tensor], str]:
    """Reads the weights of a checkpoint for a network that may have kernels of other extents.

    Args:
        path: A checkpoint of autoseg.
        expected: State of the network, which may lie on the meta device.
        adds_channels: Whether the network may have further input channels, which begin with weights of zero.

    Returns:
        The weights for `load_state_dict`, and a sentence that says where they are from and what was interpolated.

    Raises:
        RunError: The checkpoint is missing or damaged, or is of a network that differs in more than its kernels.
    """
    read = read_weights(path)
    problem = find_weight_problem(read, expected)
    if problem is not None:
        msg = f"the weights {path} cannot be begun with: {problem}; choose another checkpoint"
        raise RunError(msg)
    if adds_channels:
        read = add_input_channels(read, expected)
    read = _tile_noise(read, expected)
    try:
        weights = enlarge_kernels(read, expected)
    except RunError as error:
        msg = f"the weights {path} do not fit the planned network: {error}"
        raise RunError(msg) from error
    return weights, f"begins with the weights of {path}{_describe_resized(read, weights)}"


def _tile_noise(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Repeats the noise of a network of diffusion to the grid of another patch; interpolated, it would be weaker."""
    noise, wanted = weights.get(NOISE_NAME), expected.get(NOISE_NAME)
    if noise is None or wanted is None or noise.ndim != wanted.ndim or noise.shape == wanted.shape:
        return weights
    return weights | {NOISE_NAME: tile(noise, wanted.shape[2:]).contiguous()}


def _describe_resized(read: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    changes = [(read[name].shape[2:], weights[name].shape[2:]) for name in read if read[name] is not weights[name]]
    if not changes:
        return ""
    kinds = sorted({"x".join(map(str, old)) + " to " + "x".join(map(str, new)) for old, new in changes})
    return f"; {len(changes)} of {len(weights)} tensors are kernels that were interpolated: {', '.join(kinds)} voxels"
