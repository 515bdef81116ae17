"""Compares the fused normalization with PyTorch's own on the CPU, by Triton's interpreter; prints the differences.

Run with TRITON_INTERPRET=1, in a process without the type checks of the tests, which Triton cannot read.
"""

import json

import torch
from torch.nn import functional

from autoseg.networks.fused_normalization import measure_difference, normalize_and_activate

CASES = {
    "one part": ((2, 4, 3, 5, 7), 0.01, torch.float32),
    "many parts": ((2, 3, 60, 70), 0.01, torch.float32),
    "several tiles of channels": ((1, 70, 9, 11), 0.0, torch.float32),
    "no activation": ((2, 5, 6, 6, 6), 1.0, torch.float32),
    "bfloat16": ((2, 8, 6, 10, 6), 0.01, torch.bfloat16),
    "float16": ((2, 8, 6, 10), 0.01, torch.float16),
    "1 channel": ((2, 1, 9, 11), 0.01, torch.float32),
    "3 channels": ((2, 3, 4, 5, 6), 0.01, torch.float32),
    "5 channels": ((1, 5, 9, 11), 0.01, torch.float32),
    "65 channels": ((1, 65, 5, 7), 0.01, torch.float32),
    "far from zero": ((1, 4, 30, 40), 0.01, torch.float32),
}


def normalize(features, weight, bias, slope):
    normalized = functional.instance_norm(features, weight=weight, bias=bias, eps=1e-5)
    return functional.leaky_relu(normalized, slope)


def differentiate(compute, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    result = compute(*leaves)
    generator = torch.Generator().manual_seed(1)
    torch.autograd.backward(result, torch.randn(result.shape, generator=generator).to(result.dtype))
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def main():
    differences = {}
    for name, (shape, slope, dtype) in CASES.items():
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(shape, generator=generator) + (100.0 if name == "far from zero" else 0.5)
        weight, bias = (torch.rand(shape[1], generator=generator) + 0.5 for _ in range(2))
        layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        features = features.contiguous(memory_format=layout).to(dtype)
        found = differentiate(
            lambda x, w, b, slope=slope: normalize_and_activate(x, w, b, epsilon=1e-5, slope=slope),
            features, weight, bias,
        )  # fmt: skip
        expected = differentiate(lambda x, w, b, slope=slope: normalize(x.float(), w, b, slope), features, weight, bias)
        assert found[0].is_contiguous(memory_format=layout)
        assert found[0].dtype == found[1].dtype == dtype
        differences[name] = max(
            float((mine.float() - other.float()).abs().max() / other.float().abs().max())
            for mine, other in zip(found, expected, strict=True)
        )
    differences["trial"] = measure_difference(torch.device("cpu"), torch.bfloat16)
    print(json.dumps(differences))  # noqa: T201 (for the test that started it)


main()
