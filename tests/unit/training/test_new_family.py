"""A family of this file's own: one row among the plans, one among the networks, and all else takes it as it is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from autoseg.errors import ExchangeError, TrainingError
from autoseg.exchange.nnunet_networks import describe_network
from autoseg.exchange.nnunet_weights import convert_to_nnunet
from autoseg.inference.execution.preparation import prepare_network
from autoseg.networks import FAMILIES, SegmentationNetwork
from autoseg.networks.cost import measure_cost
from autoseg.plan import NETWORK_PLANS, ConfigurationPlan, NetworkPlan
from autoseg.training.checkpoint import (
    identify_training,
    read_checkpoint,
    restore_learner,
    write_network_checkpoint,
    write_resumable_checkpoint,
)
from autoseg.training.execution import TrainingExecution
from autoseg.training.loop_state import LoopState
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.step import Batch, build_learner, run_training_step, run_validation_step

CPU = torch.device("cpu")
SCHEDULE = Schedule(iterations_per_epoch=3, validation_iterations_per_epoch=2, end_epoch=4)


class PyramidPlan(NetworkPlan):
    family: Literal["pyramid"] = "pyramid"
    width: int

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        return (2,) * self.dimensions

    def describe(self) -> Mapping[str, str]:
        return {"width": str(self.width)}


class Gate(nn.Module):
    """Squeezes and excites, with a weight that is no kernel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, width)
        self.offset = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled = self.pooling(features)[:, :, 0] + self.offset
        gate: torch.Tensor = self.linear(pooled[..., 0]).sigmoid()
        return features * gate[..., None, None]


class Pyramid(SegmentationNetwork):
    """Batch normalization, a gate, and two outputs of full resolution that count the same."""

    def __init__(self, plan: PyramidPlan) -> None:
        super().__init__(plan)
        self.first = nn.Conv2d(plan.input_channels, plan.width, 3, padding=1)
        self.norm = nn.BatchNorm2d(plan.width)
        self.gate = Gate(plan.width)
        self.lower = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(plan.width, plan.width, 3, padding=1), nn.ReLU())
        self.upsampling = nn.Upsample(scale_factor=2, mode="bilinear")
        self.fine = nn.Conv2d(plan.width, plan.output_channels, 1)
        self.coarse = nn.Conv2d(plan.width, plan.output_channels, 3, padding=1, bias=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.gate(self.norm(self.first(image)).relu())
        below = self.upsampling(self.lower(features))
        logits = (self.fine(features + below), self.coarse(below))
        return logits if self.deep_supervision else logits[:1]

    @property
    def output_weights(self) -> tuple[float, ...]:
        return (0.5, 0.5) if self.deep_supervision else (1.0,)

    @property
    def single_precision_modules(self) -> tuple[str, ...]:
        return ("fine", "coarse")


class UnconvertedPyramid(Pyramid):
    @property
    def single_precision_modules(self) -> None:
        return None


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    monkeypatch.setitem(NETWORK_PLANS, "pyramid", PyramidPlan)
    monkeypatch.setitem(FAMILIES, "pyramid", Pyramid)


@pytest.fixture
def plan(plan_configuration):
    content = plan_configuration(weight_average_decay=0.9).model_dump(mode="json")
    network = {"family": "pyramid", "dimensions": 2, "input_channels": 1, "output_channels": 2, "width": 4}
    return ConfigurationPlan.model_validate(content | {"network": network})


@pytest.fixture
def make_learner(plan, labels):
    return lambda **changes: build_learner(plan, labels, device=CPU, seed=0, **changes)


@pytest.fixture
def identity(plan, training_data):
    return identify_training(plan, training_data, seed=0)


def make_batch(seed=0):
    image = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
    return Batch(image=image, label_map=(image[:, 0] > 0).to(torch.int16))


def train(learner, seeds):
    learner.network.train()
    return [run_training_step(learner, make_batch(seed)) for seed in seeds]


def copy_state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_its_plan_is_read_and_written_as_it_is(plan):
    assert isinstance(plan.network, PyramidPlan)
    assert ConfigurationPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_patch_that_it_cannot_take_is_refused(plan):
    content = plan.model_dump(mode="json") | {"patch_voxels": (16, 15)}
    with pytest.raises(ValueError, match=r"patch_voxels.1 must be a multiple of 2, as the network demands \(got 15\)"):
        ConfigurationPlan.model_validate(content)


def test_it_learns(make_learner):
    learner = make_learner()
    losses = train(learner, [0] * 20)
    assert losses[-1] < losses[0]
    learner.network.eval()
    batch = make_batch()
    outputs = learner.network(batch.image)
    parts = [learner.objective.loss([output], batch.label_map, (1.0,)).item() for output in outputs]
    assert run_validation_step(learner, batch).loss == pytest.approx(sum(parts) / 2)


def test_it_trains_with_channels_last(make_learner):
    learner = make_learner(execution=TrainingExecution(memory_format=torch.channels_last))
    assert learner.network.first.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(train(learner, range(3)), train(make_learner(), range(3)))


@pytest.mark.parametrize("family", [Pyramid, UnconvertedPyramid])
def test_it_predicts_with_fewer_bits(make_learner, monkeypatch, family):
    monkeypatch.setitem(FAMILIES, "pyramid", family)
    learner = make_learner()
    train(learner, range(3))
    network, image = learner.network.eval(), make_batch().image
    with torch.inference_mode():
        expected = network(image)[0]
        (found,) = prepare_network(network, device=CPU, dtype="bfloat16")(image)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.02 * expected.std()
    assert torch.equal(found, found.bfloat16().float()) == (family is UnconvertedPyramid)


@torch.inference_mode()
def test_weights_are_converted_once_but_for_what_needs_single_precision(make_learner):
    prepared = prepare_network(make_learner().network, device=CPU, dtype="bfloat16")
    reduced = {name for name, value in prepared.state_dict().items() if value.dtype == torch.bfloat16}
    kernels = {f"network.{name}.{part}" for name in ("first", "lower.1") for part in ("weight", "bias")}
    assert reduced == kernels


def test_within_the_average_it_has_averaged_weights_and_statistics_and_the_present_count(make_learner):
    learner = make_learner()
    train(learner, range(5))
    own = copy_state(learner.network)
    statistics = ["norm.running_mean", "norm.running_var"]
    names = [*dict(learner.network.named_parameters()), *statistics]
    averaged = dict(zip(names, learner.average.values, strict=True))
    assert not any(torch.equal(averaged[name], own[name]) for name in statistics)
    with learner.averaged_weights():
        found = copy_state(learner.network)
    assert own["norm.num_batches_tracked"] == 5
    assert are_equal(found, own | averaged)
    assert not are_equal(found, own)
    assert are_equal(copy_state(learner.network), own)


def test_a_checkpoint_of_the_average_holds_the_statistics(make_learner, identity, tmp_path):
    learner = make_learner()
    train(learner, range(3))
    path = tmp_path / "checkpoint_final.safetensors"
    write_network_checkpoint(path, LoopState(learner=learner, identity=identity, schedule=SCHEDULE))
    stored = read_checkpoint(path).tensors
    with learner.averaged_weights():
        expected = copy_state(learner.network)
    assert are_equal(expected, {name.removeprefix("network."): value for name, value in stored.items()})


def test_a_resumed_training_equals_an_uninterrupted_one(make_learner, identity, tmp_path):
    learner = make_learner()
    train(learner, range(3))
    path = tmp_path / "checkpoint_latest.safetensors"
    write_resumable_checkpoint(path, LoopState(learner=learner, identity=identity, schedule=SCHEDULE))
    resumed = make_learner()
    restore_learner(read_checkpoint(path), resumed)
    assert train(resumed, range(3, 6)) == train(learner, range(3, 6))
    assert are_equal(copy_state(resumed.network), copy_state(learner.network))
    assert all(map(torch.equal, resumed.average.values, learner.average.values))


def test_a_checkpoint_whose_statistics_were_not_averaged_is_resumed_with_their_present_values(
    make_learner, identity, tmp_path
):
    learner = make_learner()
    train(learner, range(3))
    path = tmp_path / "checkpoint_latest.safetensors"
    write_resumable_checkpoint(path, LoopState(learner=learner, identity=identity, schedule=SCHEDULE))
    checkpoint, count = read_checkpoint(path), len(learner.average.parameters)
    of_buffers = {f"average.{index}" for index in range(count, len(learner.average.values))}
    kept = {name: value for name, value in checkpoint.tensors.items() if name not in of_buffers}
    resumed = make_learner()
    restore_learner(replace(checkpoint, tensors=kept), resumed)
    assert all(map(torch.equal, resumed.average.values[:count], learner.average.values[:count]))
    assert all(map(torch.equal, resumed.average.values[count:], learner.average.buffers))
    assert of_buffers
    kept |= {name: checkpoint.tensors[name] for name in sorted(of_buffers)[:1]}
    with pytest.raises(TrainingError, match="is missing or has another shape"):
        restore_learner(replace(checkpoint, tensors=kept), resumed)


def test_what_holds_for_unets_alone_refuses_it_by_name(plan):
    for refuse in (describe_network, lambda network: convert_to_nnunet({}, network)):
        with pytest.raises(ExchangeError, match="nnU-Net has no network of the family 'pyramid'"):
            refuse(plan.network)


def test_its_cost_is_counted_on_the_network_itself(plan, make_learner):
    cost = measure_cost(plan.network, plan.patch_voxels, 2)
    assert cost.parameter_count == sum(parameter.numel() for parameter in make_learner().network.parameters())
    assert cost.kept_bytes > 0


def test_its_first_weights_come_from_the_seed_alone(make_learner):
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        states.append(copy_state(make_learner().network))
    assert are_equal(*states)
