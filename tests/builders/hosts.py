"""Computers whose speed is written down, not measured."""

from typing import Any

from autoseg.fingerprint import HostThroughput

# Two cores with bfloat16 instructions, as measured.
HOST = HostThroughput(
    cores=2,
    memory_gb=24.0,
    number_type="bfloat16",
    convolution_flops={16: 403e9, 32: 594e9, 64: 644e9},
    elementwise_rate=535e6,
)


def build_host(**changes: Any) -> HostThroughput:
    """That computer with other values."""
    return HostThroughput.model_validate(HOST.model_dump() | changes)
