"""Training of networks whose output is smaller than their input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_training_plan

from autoseg.preprocessing.cache import open_case
from autoseg.run_folder import FoldFolder
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.monitoring.pseudo_dice import count_overlaps
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train

PATCHES = {2: (44, 28), 3: (20, 48, 36)}
each_dimension = pytest.mark.parametrize("dimensions", PATCHES)


def plan_valid(dimensions, **training):
    network = build_small_network_plan("valid convolutions", dimensions, input_channels=1, output_channels=2)
    return build_configuration(PATCHES[dimensions], network=network, border="mirror", data_of="tiny", training=training)


@pytest.fixture
def build(data_folder, channels, fold):
    """Prepares batches as worker processes make them."""

    def make(plan):
        return build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=7)

    return make


@each_dimension
def test_a_training_runs_through_loss_and_pseudo_dice(training_data, tmp_path, dimensions):
    plan = plan_valid(dimensions, iterations_per_epoch=2, validation_iterations_per_epoch=2, foreground_fraction=1.0)
    options = TrainingOptions(device=torch.device("cpu"), seed=0, workers=0)
    events = list(train(plan, training_data, output=FoldFolder(tmp_path / "fold"), options=options))
    (record,) = [event.record for event in events if isinstance(event, EpochDone)]
    assert np.isfinite([record.train_loss, record.validation_loss]).all()
    assert record.mean_pseudo_dice is not None


def test_loss_and_pseudo_dice_compare_the_middle_of_the_label_map(labels):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 4, 6), generator=generator)
    label_map = torch.randint(2, (2, 10, 8), generator=generator, dtype=torch.int16)
    loss = WeightedLoss(terms=build_training_plan().losses, labels=labels, spacing_mm=(1.0, 1.0))
    middle = label_map[:, 3:7, 1:7]
    assert torch.equal(loss([logits], label_map, (1.0,)), loss([logits], middle, (1.0,)))
    counts, expected = (count_overlaps(logits, each, labels) for each in (label_map, middle))
    assert torch.equal(counts.true_positive, expected.true_positive)
    assert torch.equal(counts.false_negative, expected.false_negative)


def list_outputs(source, dimensions, count=150):
    """First and last voxels of what the network computes of free patches, and the shape of the case."""
    sampler = source.training.sampler
    generator = np.random.default_rng(0)
    cuts = [sampler.place(0, generator) for _ in range(count)]
    first = np.asarray([cut.start for cut in cuts]) + sampler.margin_voxels
    return first[:, 3 - dimensions :], sampler.output_voxels[3 - dimensions :], cuts[0].case.label_map.shape


@each_dimension
def test_patches_hang_over_the_case_by_the_margin_so_that_border_voxels_are_trained(build, dimensions):
    first, extents, shape = list_outputs(build(plan_valid(dimensions)), dimensions)
    shape = shape[3 - dimensions :]
    covered = [min(extent, size) for extent, size in zip(extents, shape, strict=True)]
    assert extents == {2: (6, 6), 3: (4, 10, 6)}[dimensions]
    assert first.min(axis=0).tolist() == [0] * dimensions
    assert (first.max(axis=0) + covered).tolist() == list(shape)


def test_a_chosen_voxel_lies_anywhere_of_the_output_with_equal_probability(build):
    sampler = replace(build(plan_valid(2)).training.sampler, foreground_placement="uniform")
    generator = np.random.default_rng(0)
    positions = set()
    for _ in range(300):
        cut = sampler.place(1, generator)
        inside = cut.case.label_map[:][cut.start[0]]
        first = np.asarray(cut.start[1:]) + sampler.margin_voxels[1:]
        assert inside[first[0] : first[0] + 6, first[1] : first[1] + 6].any()
        positions.add(tuple(first.tolist()))
    assert len(positions) > 100


@pytest.mark.parametrize("where", ["device", "host", "disk"])
@each_dimension
def test_batches_of_a_device_are_those_of_worker_processes(build, channels, device, *, dimensions, where):
    plan = plan_valid(dimensions, batch_size=4)
    source = build(plan)
    placement = DataPlacement(where=where, because="the test says so")
    on_device = build_device_batch_source(source, plan, channels, device=device, placement=placement)
    for stream in ("training", "validation"):
        key = BatchKey(stream=stream, epoch=0, iteration=0)
        batch, expected = on_device.make_batch(key), source.make_batch(key)
        assert torch.equal(batch.image.cpu(), expected.image)
        assert torch.equal(batch.label_map.cpu(), expected.label_map)


def test_surroundings_beyond_the_case_are_mirrored_with_their_labels(build, data_folder):
    sampler = build(plan_valid(2)).validation.sampler
    generator = np.random.default_rng(0)
    case = open_case(data_folder, "case_3")
    for _ in range(5):
        state = generator.bit_generator.state
        z, y, x = sampler.place(0, generator).start
        generator.bit_generator.state = state
        image, label_map = sampler.draw(0, generator)
        around = ((60, 60), (60, 60))
        mirrored = np.pad(case.image[0, z], around, mode="reflect"), np.pad(case.label_map[z], around, mode="reflect")
        inside = (slice(60 + y, 104 + y), slice(60 + x, 88 + x))
        assert np.array_equal(image[0, 0], mirrored[0][inside])
        assert np.array_equal(label_map[0], mirrored[1][inside])
