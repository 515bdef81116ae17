from pathlib import Path
from typing import Any

import pytest
import torch
from builders.nnunet_models import write_foreign_model

from autoseg.errors import ExchangeError
from autoseg.exchange.nnunet_checkpoint import read_nnunet_checkpoint


def spoil(path: Path, **changes: Any) -> Path:
    content = torch.load(path, weights_only=False)
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_foreign_model(tmp_path) / "fold_0" / "checkpoint_final.pth"


def test_a_checkpoint_tells_trainer_configuration_mirrored_axes_and_epochs(checkpoint: Path) -> None:
    found = read_nnunet_checkpoint(checkpoint)
    assert (found.trainer, found.configuration, found.mirror_axes, found.epochs) == (
        "nnUNetTrainer", "3d_fullres", (0, 1), 1000,
    )  # fmt: skip
    assert found.weights["encoder.stages.0.0.convs.0.conv.weight"].shape == (4, 1, 1, 3, 3)


def test_without_mirrored_axes_nothing_is_mirrored(tmp_path: Path) -> None:
    path = write_foreign_model(tmp_path, mirror_axes=None) / "fold_0" / "checkpoint_final.pth"
    assert read_nnunet_checkpoint(path).mirror_axes == ()
    assert read_nnunet_checkpoint(spoil(path, inference_allowed_mirroring_axes=None)).mirror_axes == ()


def test_prefixes_of_wrapped_networks_are_taken_off(checkpoint: Path) -> None:
    names = set(read_nnunet_checkpoint(checkpoint).weights)
    weights = torch.load(checkpoint, weights_only=False)["network_weights"]
    spoil(checkpoint, network_weights={f"module._orig_mod.{name}": value for name, value in weights.items()})
    assert set(read_nnunet_checkpoint(checkpoint).weights) == names


@pytest.mark.parametrize("key", ["network_weights", "trainer_name", "init_args"])
def test_what_is_missing_is_named(key: str, checkpoint: Path) -> None:
    with pytest.raises(ExchangeError, match=rf"no checkpoint of nnU-Net v2: expected '{key}'"):
        read_nnunet_checkpoint(spoil(checkpoint, **{key: None}))


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(ExchangeError, match="expected a dictionary, found list"):
        read_nnunet_checkpoint(tmp_path / "x.pth")


def test_axes_that_are_no_numbers_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ExchangeError, match="must list axes"):
        read_nnunet_checkpoint(spoil(checkpoint, inference_allowed_mirroring_axes="xy"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, checkpoint: Path) -> None:
    weights = torch.load(checkpoint, weights_only=False)["network_weights"]
    weights["decoder.seg_layers.0.bias"][1] = value
    with pytest.raises(ExchangeError, match=r"must be finite, found .* in decoder\.seg_layers\.0\.bias"):
        read_nnunet_checkpoint(spoil(checkpoint, network_weights=weights))
