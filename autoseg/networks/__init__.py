"""Networks built from a plan."""

from autoseg.networks.families import FAMILIES, build_network
from autoseg.networks.network import SegmentationNetwork, TargetKind
from autoseg.networks.weights import NETWORK_PREFIX, read_weights, serialize_weights, write_weights

__all__ = [
    "FAMILIES",
    "NETWORK_PREFIX",
    "SegmentationNetwork",
    "TargetKind",
    "build_network",
    "read_weights",
    "serialize_weights",
    "write_weights",
]
