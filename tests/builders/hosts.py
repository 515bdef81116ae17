"""Devices whose speed is written down, not measured."""

from typing import Any

from autoseg.fingerprint import DeviceThroughput

# Two cores with bfloat16 instructions, as measured.
HOST = DeviceThroughput(
    cores=2,
    memory_gb=24.0,
    number_type="bfloat16",
    convolution_flops={16: 403e9, 32: 594e9, 64: 644e9},
    elementwise_rate=535e6,
)


def build_host(**changes: Any) -> DeviceThroughput:
    """That computer with other values."""
    return DeviceThroughput.model_validate(HOST.model_dump() | changes)


# A GPU as fast as an H100: about 176 TFLOP/s in the convolutions of a large U-Net, about 0.8 ms for each layer of a
# small one (15 ms for 17 layers and the loss), normalization and activation of a patch of 128 cubed in about 50 ms.
GPU = DeviceThroughput(
    device="NVIDIA H100 80GB HBM3",
    cores=16,
    memory_gb=85.0,
    number_type="bfloat16",
    convolution_flops={16: 60e12, 32: 110e12, 64: 180e12, 128: 250e12, 256: 300e12},
    elementwise_rate=25e9,
    layer_seconds=0.0008,
)
