"""U-Nets built from a plan."""

from autoseg.networks.build import ARCHITECTURES, SegmentationNetwork, build_network
from autoseg.networks.weights import NETWORK_PREFIX, read_weights, serialize_weights, write_weights

__all__ = [
    "ARCHITECTURES",
    "NETWORK_PREFIX",
    "SegmentationNetwork",
    "build_network",
    "read_weights",
    "serialize_weights",
    "write_weights",
]
