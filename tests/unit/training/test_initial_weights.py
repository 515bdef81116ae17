"""A training begins with the weights of another model, whose kernels may be smaller."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.networks import build_small_network_plan
from torch.nn import functional

from autoseg.errors import RunError, TrainingError
from autoseg.networks import build_network
from autoseg.networks.initialization import INTERPOLATIONS
from autoseg.networks.pretrained import fit_initial_weights
from autoseg.networks.weights import hash_weights, read_weights, write_weights
from autoseg.plan import ConfigurationPlan
from autoseg.plan.network.additive_u import MedNeXtUnitPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.checkpoint import read_description
from autoseg.training.monitoring.events import EpochDone, Event
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train

CPU = torch.device("cpu")
SMALL = ((3, 3),) * 3
LARGE = ((5, 5),) * 3


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny training."""
    monkeypatch.setattr("autoseg.training.monitoring.history_files.write_progress_picture", lambda *_, **__: None)


def build_mednext(kernel_sizes: tuple[tuple[int, int], ...], **changes: Any):
    unit = MedNeXtUnitPlan(expansion_ratios=(2, 2, 2), response_normalization=False)
    fields = {"output_channels": 2, "input_channels": 1, "kernel_sizes": kernel_sizes, "unit": unit, **changes}
    return build_small_network_plan("additive_u", 2, **fields)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a network with kernels of 3."""
    network = build_network(build_mednext(SMALL), torch.Generator().manual_seed(3))
    write_weights(tmp_path / "small.safetensors", network.state_dict())
    return tmp_path / "small.safetensors"


@pytest.fixture
def configuration(plan_configuration: Callable[..., ConfigurationPlan]) -> ConfigurationPlan:
    """A tiny configuration with kernels of 5, whose weights hardly change."""
    plan = plan_configuration(epochs=2, initial_learning_rate=1e-12)
    return plan.model_copy(update={"network": build_mednext(LARGE)})


@pytest.fixture
def start(configuration: ConfigurationPlan, training_data, tmp_path: Path) -> Callable[..., list[Event]]:
    """Trains in one folder, as far as the first event of a kind."""

    def begin(
        weights: Path | None, digest: str | None, *, epochs: int | None = None, announced: list[str] | None = None
    ):
        options = TrainingOptions(
            device=CPU,
            seed=0,
            workers=0,
            initial_weights=weights,
            initial_digest=digest,
            announce=[].append if announced is None else announced.append,
            seconds_between_checkpoints=0.0,
            largest_saving_share=1.0,
        )
        seen: list[Event] = []
        events = train(configuration, training_data, output=FoldFolder(tmp_path / "fold"), options=options)
        for event in events:
            seen += [event] if isinstance(event, EpochDone) else []
            if len(seen) == epochs:
                break
        events.close()
        return seen

    return begin


def test_kernels_of_5_begin_as_the_interpolated_ones_of_3(start, weights: Path, tmp_path: Path) -> None:
    announced: list[str] = []
    start(weights, hash_weights(weights), announced=announced)
    found, small = read_weights(tmp_path / "fold" / "checkpoint_final.safetensors"), read_weights(weights)
    enlarged = {name for name in small if found[name].shape != small[name].shape}
    assert enlarged == {name for name in small if name.endswith("depthwise.weight")}
    for name, tensor in small.items():
        mode = INTERPOLATIONS.get(tensor.ndim)
        expected = (
            functional.interpolate(tensor, found[name].shape[2:], mode=mode) if name in enlarged and mode else tensor
        )
        torch.testing.assert_close(found[name], expected, atol=1e-6, rtol=0)
    (told,) = [line for line in announced if "begins with the weights" in line]
    assert str(weights) in told
    assert f"{len(enlarged)} of {len(small)} tensors are kernels that were interpolated: 3x3 to 5x5 voxels" in told


def test_a_resumed_training_needs_the_checkpoint_no_more_but_remembers_it(start, weights: Path, tmp_path: Path) -> None:
    digest = hash_weights(weights)
    assert [event.record.epoch for event in start(weights, digest, epochs=1)] == [0]
    weights.unlink()
    with pytest.raises(TrainingError, match=r"the weights to begin with \(--init\) changed"):
        start(None, "another")
    assert [event.record.epoch for event in start(None, digest)] == [1]
    final = tmp_path / "fold" / "checkpoint_final.safetensors"
    assert read_description(final).identity.initial_digest == digest


def test_weights_of_another_network_are_refused_before_anything_is_measured(start, tmp_path: Path) -> None:
    wider = build_network(build_mednext(SMALL, features_per_stage=(6, 8, 8)), torch.Generator())
    path = tmp_path / "wider.safetensors"
    write_weights(path, wider.state_dict())
    with pytest.raises(RunError, match=rf"{path} do not fit the planned network: .*expected \(2, 4.*found \(2, 6"):
        start(path, hash_weights(path))
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in wider.state_dict().items()}
    write_weights(path, broken)
    with pytest.raises(RunError, match=rf"{path} cannot be begun with: .*NaN"):
        start(path, hash_weights(path))


@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
def test_further_input_channels_count_for_nothing_at_first(family: str, tmp_path: Path) -> None:
    networks = [
        build_network(build_small_network_plan(family, 2, input_channels=count), torch.Generator().manual_seed(count))
        for count in (1, 3)
    ]
    path = tmp_path / "one.safetensors"
    write_weights(path, networks[0].state_dict())
    with pytest.raises(RunError, match="do not fit the planned network"):
        fit_initial_weights(path, networks[1].state_dict())
    weights, _ = fit_initial_weights(path, networks[1].state_dict(), adds_channels=True)
    networks[1].load_state_dict(weights)
    image = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    outputs = [network.eval()(part) for network, part in zip(networks, (image[:, :1], image), strict=True)]
    for found, expected in zip(outputs[1], outputs[0], strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", ["diffusion_unet", "latent_diffusion"])
def test_noise_is_repeated_to_the_grid_of_another_patch_not_interpolated(family: str, tmp_path: Path) -> None:
    networks = [
        build_network(build_small_network_plan(family, 2, noise_grid=grid), torch.Generator().manual_seed(0))
        for grid in ((8, 8), (12, 4))
    ]
    path = tmp_path / "noise.safetensors"
    write_weights(path, networks[0].state_dict())
    weights, description = fit_initial_weights(path, networks[1].state_dict())
    noise = networks[0].get_buffer("noise")
    assert torch.equal(weights["noise"], torch.cat((noise, noise[:, :, :4]), dim=2)[..., :4])
    assert description == f"begins with the weights of {path}"
    networks[1].load_state_dict(weights)


def test_a_wider_network_is_no_network_with_further_channels(weights: Path) -> None:
    wider = build_network(build_mednext(SMALL, features_per_stage=(6, 8, 8)), torch.Generator())
    with pytest.raises(RunError, match="do not fit the planned network"):
        fit_initial_weights(weights, wider.state_dict(), adds_channels=True)
