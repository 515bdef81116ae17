"""Instance normalization and (leaky) ReLU in one, for channels last in the memory of a GPU, written in Triton.

PyTorch's instance normalization converts channels last to channels first and back, and reads and writes the features
once more for the activation. Here the features are read twice and written once, and the backward pass reads features
and gradients twice; nothing is kept but the features and two sums per channel. Sums are in single precision, of
deviations from the first voxel, so that they may be squared; every volume is divided into parts that are summed side by
side, so that few channels occupy a GPU, too.

Triton comes with PyTorch for CUDA. This module is imported where it is used, and needs it.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

TILE_ELEMENTS = 4096
MOST_CHANNELS = 64  # of a tile
MOST_PARTS = 512
TILES_PER_PART = 4  # at least
CHANNELS_OF_REDUCTION = 16
EPSILON_OF_A_TRIAL = 1e-5


@triton.jit
def _sum_deviations(x, parts, voxels, channels, rows, part_count, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums, for a part of a sample, deviations from the first voxel, and their squares."""
    sample, part = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += sample.to(tl.int64) * voxels * channels
    shift = tl.load(x + c, mask=c < channels, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_C], dtype=tl.float32)
    for row in range(0, rows, BLOCK_S):
        s = part * rows + row + tl.arange(0, BLOCK_S)
        inside = (s < voxels)[:, None] & (c < channels)[None, :]
        values = tl.load(x + s.to(tl.int64)[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        deviations = tl.where(inside, values - shift[None, :], 0.0)
        total += tl.sum(deviations, axis=0)
        squares += tl.sum(deviations * deviations, axis=0)
    of_part = parts + (sample * part_count + part) * channels + c
    tl.store(of_part, total, mask=c < channels)
    tl.store(of_part + tl.num_programs(0) * part_count * channels, squares, mask=c < channels)


@triton.jit
def _add_parts(parts, sums, channels, part_count, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Adds up the parts of a sample."""
    sample = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.arange(0, BLOCK_P)
    inside = (p < part_count)[:, None] & (c < channels)[None, :]
    values = tl.load(parts + (sample * part_count + p)[:, None] * channels + c[None, :], mask=inside, other=0.0)
    tl.store(sums + sample * channels + c, tl.sum(values, axis=0), mask=c < channels)


@triton.jit
def _find_statistics(x, sums, c, sample, samples, voxels, channels, epsilon):
    """Computes mean and 1 / standard deviation of the channels of a sample, whose features begin at x."""
    shift = tl.load(x + c, mask=c < channels, other=0.0).to(tl.float32)
    offset = tl.load(sums + sample * channels + c, mask=c < channels, other=0.0) / voxels
    squares = tl.load(sums + (samples + sample) * channels + c, mask=c < channels, other=0.0) / voxels
    variance = tl.maximum(squares - offset * offset, 0.0)
    return shift + offset, 1.0 / tl.sqrt(variance + epsilon)


@triton.jit
def _normalize(
    x, sums, weight, bias, y, voxels, channels, samples, epsilon, slope, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Normalizes a tile, scales and shifts it, and multiplies negative values by the slope."""
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    sample = tl.program_id(2)
    x += sample.to(tl.int64) * voxels * channels
    y += sample.to(tl.int64) * voxels * channels
    mean, scale = _find_statistics(x, sums, c, sample, samples, voxels, channels, epsilon)
    factor = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    inside = (s < voxels)[:, None] & (c < channels)[None, :]
    place = s.to(tl.int64)[:, None] * channels + c[None, :]
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    normalized = (values - mean[None, :]) * scale[None, :] * factor[None, :] + shift[None, :]
    activated = tl.where(normalized > 0, normalized, normalized * slope)
    tl.store(y + place, activated.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sum_gradients(
    x, gradient, sums, weight, bias, parts, voxels, channels, rows, part_count, epsilon, slope,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums, for a part of a sample, gradients before the activation, and their products with normalized features."""
    sample, part = tl.program_id(0), tl.program_id(1)
    samples = tl.num_programs(0)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    x += sample.to(tl.int64) * voxels * channels
    gradient += sample.to(tl.int64) * voxels * channels
    mean, scale = _find_statistics(x, sums, c, sample, samples, voxels, channels, epsilon)
    factor = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_C], dtype=tl.float32)
    products = tl.zeros([BLOCK_C], dtype=tl.float32)
    for row in range(0, rows, BLOCK_S):
        s = part * rows + row + tl.arange(0, BLOCK_S)
        inside = (s < voxels)[:, None] & (c < channels)[None, :]
        place = s.to(tl.int64)[:, None] * channels + c[None, :]
        values = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
        after = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        before = tl.where(values * factor[None, :] + shift[None, :] > 0, after, after * slope)
        total += tl.sum(before, axis=0)
        products += tl.sum(before * values, axis=0)
    of_part = parts + (sample * part_count + part) * channels + c
    tl.store(of_part, total, mask=c < channels)
    tl.store(of_part + samples * part_count * channels, products, mask=c < channels)


@triton.jit
def _differentiate(
    x, gradient, sums, gradient_sums, weight, bias, result, voxels, channels, samples, epsilon, slope,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Computes the gradient of the features of a tile."""
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    sample = tl.program_id(2)
    start = sample.to(tl.int64) * voxels * channels
    x += start
    gradient += start
    result += start
    mean, scale = _find_statistics(x, sums, c, sample, samples, voxels, channels, epsilon)
    factor = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    total = tl.load(gradient_sums + sample * channels + c, mask=c < channels, other=0.0) / voxels
    product = tl.load(gradient_sums + (samples + sample) * channels + c, mask=c < channels, other=0.0) / voxels
    inside = (s < voxels)[:, None] & (c < channels)[None, :]
    place = s.to(tl.int64)[:, None] * channels + c[None, :]
    values = (tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - mean[None, :]) * scale[None, :]
    after = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    before = tl.where(values * factor[None, :] + shift[None, :] > 0, after, after * slope)
    own = (before - total[None, :] - values * product[None, :]) * scale[None, :] * factor[None, :]
    tl.store(result + place, own.to(result.dtype.element_ty), mask=inside)


class _Normalization(torch.autograd.Function):
    """The operation on features as (sample, channel, *space), whose channels are last in memory.

    What it returns has that shape, too, and is no view, so that it may be overwritten without a copy in the backward
    pass. Triton launches on the current device, which need not be that of the features.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, slope):
        samples, channels, voxels = _count(x)
        y = torch.empty_like(x)
        block_s, block_c = _choose_tile(channels)
        grid = (triton.cdiv(voxels, block_s), triton.cdiv(channels, block_c), samples)
        with torch.cuda.device_of(x):
            sums = _reduce(_sum_deviations, (x,), (), x)
            _normalize[grid](
                x, sums, weight, bias, y, voxels, channels, samples, epsilon, slope, BLOCK_S=block_s, BLOCK_C=block_c
            )
        ctx.save_for_backward(x, sums, weight, bias)
        ctx.epsilon, ctx.slope = epsilon, slope
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, sums, weight, bias = ctx.saved_tensors
        gradient = _put_channels_last(gradient)
        samples, channels, voxels = _count(x)
        result = torch.empty_like(x)
        block_s, block_c = _choose_tile(channels)
        grid = (triton.cdiv(voxels, block_s), triton.cdiv(channels, block_c), samples)
        with torch.cuda.device_of(x):
            gradient_sums = _reduce(_sum_gradients, (x, gradient, sums, weight, bias), (ctx.epsilon, ctx.slope), x)
            _differentiate[grid](
                x, gradient, sums, gradient_sums, weight, bias, result, voxels, channels, samples, ctx.epsilon,
                ctx.slope, BLOCK_S=block_s, BLOCK_C=block_c,
            )  # fmt: skip
        of_bias, of_weight = gradient_sums.sum(1)
        return result, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None


def _count(x: Tensor) -> tuple[int, int, int]:
    """Counts samples, channels and voxels."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _put_channels_last(features: Tensor) -> Tensor:
    """Returns the features with channels last in memory, without gaps; a copy only where they are not."""
    return features.movedim(1, -1).contiguous().movedim(-1, 1)


def _choose_tile(channels: int) -> tuple[int, int]:
    """Chooses the voxels and channels of a tile."""
    block_c = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    return TILE_ELEMENTS // block_c, block_c


def _reduce(kernel, tensors, numbers, x: Tensor) -> Tensor:
    """Computes two sums per sample and channel: those of parts, then those of the parts."""
    samples, channels, voxels = _count(x)
    block_s, block_c = _choose_tile(channels)
    part_count = max(1, min(MOST_PARTS, voxels // (TILES_PER_PART * block_s)))
    rows = triton.cdiv(triton.cdiv(voxels, part_count), block_s) * block_s
    parts = torch.empty((2, samples, part_count, channels), device=x.device)
    grid = (samples, part_count, triton.cdiv(channels, block_c))
    kernel[grid](*tensors, parts, voxels, channels, rows, part_count, *numbers, BLOCK_S=block_s, BLOCK_C=block_c)
    sums = torch.empty((2, samples, channels), device=x.device)
    block_p = triton.next_power_of_2(part_count)
    _add_parts[(2 * samples, triton.cdiv(channels, CHANNELS_OF_REDUCTION))](
        parts, sums, channels, part_count, BLOCK_P=block_p, BLOCK_C=CHANNELS_OF_REDUCTION
    )
    return sums


def normalize_and_activate(
    features: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float, slope: float = 1.0
) -> Tensor:
    """Normalizes each channel of each sample, scales and shifts it, and multiplies negative values by the slope.

    Args:
        features: (batch, channel, *space) on a GPU; of any layout, but only channels last is not copied.
        weight: Scale of every channel.
        bias: Shift of every channel.
        epsilon: Added to the variance.
        slope: 0 for a ReLU, 1 for no activation.

    Returns:
        Channels last, in the dtype of the features.
    """
    result: Tensor = _Normalization.apply(_put_channels_last(features), weight, bias, epsilon, slope)
    return result


def measure_difference(device: torch.device, dtype: torch.dtype) -> float:
    """Computes the largest difference from PyTorch's own operations on a CPU, of values and gradients, on a few
    features; as a part of the largest value.
    """
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn((2, 12, 6, 7, 5), generator=generator) + 0.5).to(dtype)
    weight, bias = torch.rand((2, 12), generator=generator) + 0.5
    gradient = torch.randn(features.shape, generator=generator).to(dtype)

    def differentiate(compute, place, kind) -> list[Tensor]:
        leaves = [tensor.to(place).requires_grad_() for tensor in (features.to(kind), weight, bias)]
        result = compute(*leaves)
        gradients = torch.autograd.grad(result, leaves, gradient.to(place, kind))
        return [tensor.detach().float().cpu() for tensor in (result, *gradients)]

    def compute_as_pytorch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.leaky_relu(functional.group_norm(x, len(weight), weight, bias, EPSILON_OF_A_TRIAL), 0.01)

    def compute_fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalize_and_activate(x, weight, bias, epsilon=EPSILON_OF_A_TRIAL, slope=0.01)

    found = differentiate(compute_fused, device, dtype)
    expected = differentiate(compute_as_pytorch, "cpu", torch.float32)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
