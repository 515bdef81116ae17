"""What holds for the training of the networks of every family, and of every part that families are made of."""

from math import isfinite

import pytest
import torch
from builders.labels import build_labels
from builders.networks import COMBINATIONS, SMALL_NETWORKS, build_small_network_plan
from builders.threads import use_one_thread

from autoseg.training.checkpoint import TrainingIdentity, read_checkpoint, restore_learner, write_resumable_checkpoint
from autoseg.training.data.batch import Batch
from autoseg.training.loop_state import LoopState
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.step import build_learner, run_training_step

REGIONS = build_labels({"all": (1, 2, 3), "two": (2, 3), "three": (3,)}, region_write_values=(1, 2, 3), ignore_value=4)
SCHEDULE = Schedule(iterations_per_epoch=2, validation_iterations_per_epoch=1, end_epoch=1)
IDENTITY = TrainingIdentity(plan_digest="", fold_digest="", seed=0)

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def make_batch(plan):
    """Images of an extent that the network takes, with labels of all regions and ignored voxels."""
    generator = torch.Generator().manual_seed(1)
    margins, divisors = plan.margin_voxels, plan.patch_divisors
    extents = [
        (count + -(-2 * margin // divisor)) * divisor
        for count, margin, divisor in zip((3, 4, 4), margins, divisors, strict=False)
    ]
    label_map = torch.randint(5, (2, *extents), generator=generator).to(torch.int16)
    return Batch(image=torch.randn((2, plan.input_channels, *extents), generator=generator), label_map=label_map)


def take_step(learner, number, batch):
    torch.manual_seed(number)  # as the loop does: dropout draws from the seed of the step
    learner.train()
    return run_training_step(learner, batch)


@pytest.mark.parametrize("name", [*SMALL_NETWORKS, *COMBINATIONS])
def test_a_training_on_regions_with_ignored_voxels_is_resumed_bit_for_bit(plan_configuration, tmp_path, name):
    dimensions = 3 if name == "hybrid_2d_3d" else 2
    network = build_small_network_plan(name, dimensions)
    plan = plan_configuration(dimensions=dimensions).model_copy(update={"network": network})
    learner, resumed = (build_learner(plan, REGIONS, device=torch.device("cpu"), seed=seed) for seed in (0, 1))
    batch = make_batch(network)
    losses = [take_step(learner, 0, batch)]
    path = tmp_path / "checkpoint_latest.safetensors"
    write_resumable_checkpoint(path, LoopState(learner=learner, identity=IDENTITY, schedule=SCHEDULE))
    restore_learner(read_checkpoint(path), resumed)
    losses.append(take_step(learner, 1, batch))
    assert take_step(resumed, 1, batch) == losses[1]
    assert all(map(isfinite, losses))
    found = resumed.network.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in learner.network.state_dict().items())
