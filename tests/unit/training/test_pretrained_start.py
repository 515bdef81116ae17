"""Training begins with the weights of the file in the plan; nothing else reads it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan

from autoseg.errors import PlanError
from autoseg.networks.parts.encoders import build_encoder
from autoseg.networks.pretrained import describe_pretrained
from autoseg.plan import ConfigurationPlan
from autoseg.plan.network import EncoderUPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.monitoring.events import EpochDone, Event
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner
from autoseg.training.trainer import train

CPU = torch.device("cpu")
FIRST = "encoder.stages.0.1.0.convolution.weight"


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny training."""
    monkeypatch.setattr("autoseg.training.monitoring.history_files.write_progress_picture", lambda *_, **__: None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the encoder of the plan below, all 0.25."""
    plan = build_small_network_plan(
        "encoder_u", 2, input_channels=3, layers={"normalization": "none", "activation": "relu"}
    )
    assert isinstance(plan, EncoderUPlan)
    encoder = build_encoder(plan)
    path = tmp_path / "weights.pth"
    torch.save(
        {
            encoder.find_published_name(name): torch.full_like(tensor, 0.25)
            for name, tensor in encoder.state_dict().items()
        },
        path,
    )
    return path


@pytest.fixture
def configuration(plan_configuration: Callable[..., ConfigurationPlan], weights: Path) -> ConfigurationPlan:
    """A tiny configuration whose encoder begins with them."""
    layers = {"normalization": "none", "activation": "relu"}
    fields = {"output_channels": 2, "layers": layers, "kernel_sizes": ((3, 3),) * 3}
    colour = build_small_network_plan("encoder_u", 2, input_channels=3, **fields)
    assert isinstance(colour, EncoderUPlan)
    network = build_small_network_plan("encoder_u", 2, input_channels=1, **fields)
    network = network.model_copy(update={"pretrained": describe_pretrained(weights, colour)})
    plan = plan_configuration(weight_average_decay=0.5, epochs=2)
    return plan.model_copy(update={"network": network})


def test_a_learner_begins_with_the_file_only_if_it_is_told_so(configuration: ConfigurationPlan) -> None:
    labels = build_labels({"lesion": (1,)})
    drawn, given = (
        build_learner(configuration, labels, device=CPU, seed=0, with_pretrained=choice) for choice in (False, True)
    )
    found, other = given.network.state_dict(), drawn.network.state_dict()
    assert torch.equal(found[FIRST], torch.full((4, 1, 3, 3), 0.75))  # the sum of three equal colours
    assert not torch.equal(other[FIRST], found[FIRST])
    decoder = [name for name in found if not name.startswith("encoder.")]
    assert decoder
    assert all(torch.equal(found[name], other[name]) for name in decoder)
    assert given.average is not None
    assert any(torch.equal(value, found[FIRST]) for value in given.average.values)


def test_a_training_reads_the_file_at_its_start_and_not_when_it_is_resumed(
    configuration: ConfigurationPlan, training_data, weights: Path, tmp_path: Path
) -> None:
    def start() -> Iterator[Event]:
        options = TrainingOptions(
            device=CPU, seed=0, workers=0, seconds_between_checkpoints=0.0, largest_saving_share=1.0
        )
        return train(configuration, training_data, output=FoldFolder(tmp_path / "fold"), options=options)

    events = start()
    next(event for event in events if isinstance(event, EpochDone))
    events.close()
    weights.unlink()
    assert [event.record.epoch for event in start() if isinstance(event, EpochDone)] == [1]


def test_a_training_without_its_file_is_refused_before_anything_is_measured(
    configuration: ConfigurationPlan, training_data, weights: Path, tmp_path: Path
) -> None:
    weights.unlink()
    options = TrainingOptions(device=CPU, seed=0, workers=0)
    with pytest.raises(PlanError, match="cannot be read"):
        next(train(configuration, training_data, output=FoldFolder(tmp_path / "fold"), options=options))
