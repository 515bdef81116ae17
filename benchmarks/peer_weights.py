"""The names that nnU-Net's weights have in autoseg, for plain U-Nets; both ways."""

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from autoseg.networks import NETWORK_PREFIX, read_weights

PARTS = {"conv": "convolution", "norm": "norm"}


def convert_to_autoseg(source: Path, checkpoint: Path, *, stages: int) -> None:
    """Writes nnU-Net's weights (.npz) as a checkpoint."""
    stored = np.load(source)
    names = {name: translate(name, stages) for name in stored.files}
    tensors = {
        f"{NETWORK_PREFIX}{ours}": torch.from_numpy(np.ascontiguousarray(stored[name]))
        for name, ours in names.items()
        if ours is not None
    }
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, checkpoint)


def convert_to_peer(checkpoint: Path, target: Path, *, stages: int) -> None:
    """Writes the weights of a checkpoint under nnU-Net's names (.npz)."""
    weights = read_weights(checkpoint)
    candidates = [name for name in _list_peer_names(stages) if translate(name, stages) in weights]
    np.savez(target, **{name: weights[translate(name, stages) or ""].numpy() for name in candidates})


def translate(name: str, stages: int) -> str | None:
    """The name here; None for the further names that nnU-Net gives to the same weights."""
    found = re.fullmatch(r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(weight|bias)", name)
    if found:
        return f"encoder.stages.{found[1]}.{found[2]}.normalized.{PARTS[found[3]]}.{found[4]}"
    found = re.fullmatch(r"decoder\.(transpconvs|seg_layers)\.(\d+)\.(weight|bias)", name)
    if found:
        level = stages - 2 - int(found[2])
        place = f"levels.{level}.upsampling" if found[1] == "transpconvs" else f"heads.{level}"
        return f"{place}.{found[3]}"
    found = re.fullmatch(r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(weight|bias)", name)
    if found:
        level = stages - 2 - int(found[1])
        return f"levels.{level}.units.{found[2]}.normalized.{PARTS[found[3]]}.{found[4]}"
    return None


def _list_peer_names(stages: int) -> list[str]:
    units = [
        f"{place}.{stage}{between}.convs.{unit}.{part}"
        for place, between in (("encoder.stages", ".0"), ("decoder.stages", ""))
        for stage in range(stages)
        for unit in range(8)
        for part in PARTS
    ]
    others = [f"decoder.{kind}.{index}" for kind in ("transpconvs", "seg_layers") for index in range(stages)]
    return [f"{name}.{kind}" for name in (*units, *others) for kind in ("weight", "bias")]
