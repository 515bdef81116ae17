import os
import random
import signal
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from autoseg.errors import RunError, TrainingError
from autoseg.preprocessing.cache import open_case
from autoseg.training.data.batches import (
    build_batch_source,
    list_batch_keys,
    stream_batches,
    translate_worker_crashes,
)
from autoseg.training.data.randomness import BatchKey, Phase

CPU = torch.device("cpu")


@pytest.fixture
def build_source(plan_configuration, channels, data_folder, fold):
    """Prepares batches of the tiny configuration."""

    def build(*, seed=7, folder=data_folder, previous=None, **changes):
        return build_batch_source(
            plan_configuration(**changes), channels, data_folder=folder, fold=fold, seed=seed, previous=previous
        )

    return build


@pytest.fixture
def source(build_source):
    return build_source()


def are_equal(first, second):
    return torch.equal(first.image, second.image) and torch.equal(first.label_map, second.label_map)


def test_the_batches_of_an_epoch_are_followed_by_its_validation_and_the_next_epoch():
    keys = [(key.stream[0], key.epoch, key.iteration) for key in islice(list_batch_keys(3, 2, first_epoch=1), 10)]
    assert keys == [
        *[("t", 1, 0), ("t", 1, 1), ("t", 1, 2), ("v", 1, 0), ("v", 1, 1)],
        *[("t", 2, 0), ("t", 2, 1), ("t", 2, 2), ("v", 2, 0), ("v", 2, 1)],
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("foreground_fraction", 1.0), ("foreground_placement", "uniform"), ("foreground_choice", "component")],
)
def test_the_plan_decides_how_patches_are_chosen(source, build_source, field, value):
    chosen = build_source(**{field: value})
    for ours, usual in ((chosen.training, source.training), (chosen.validation, source.validation)):
        assert getattr(ours.sampler, field) == value != getattr(usual.sampler, field)


def test_a_2d_batch_has_two_axes_and_labels_without_the_outside(source):
    batch = source[BatchKey(stream="training", epoch=0, iteration=0)]
    assert (batch.image.shape, batch.image.dtype) == ((2, 1, 16, 16), torch.float32)
    assert (batch.label_map.shape, batch.label_map.dtype) == ((2, 16, 16), torch.int16)
    assert batch.label_map.min() == 0


def test_a_3d_batch_has_three_axes(build_source):
    source = build_source(dimensions=3)
    assert source[BatchKey(stream="training", epoch=0, iteration=0)].image.shape == (2, 1, 16, 16, 16)
    assert source[BatchKey(stream="validation", epoch=0, iteration=0)].label_map.shape == (2, 16, 16, 16)


def test_a_batch_depends_on_its_key_and_the_seed_alone(source, build_source):
    key = BatchKey(stream="training", epoch=3, iteration=5)
    batch = source[key]
    np.random.seed(99)
    random.seed(99)
    other = source[BatchKey(stream="training", epoch=3, iteration=6)]
    assert are_equal(source[key], batch)
    assert not are_equal(other, batch)
    assert not are_equal(build_source(seed=8)[key], batch)


def test_making_batches_leaves_the_global_generators_alone(source):
    np.random.seed(3)
    expected = np.random.uniform()
    np.random.seed(3)
    source[BatchKey(stream="training", epoch=0, iteration=0)]
    assert np.random.uniform() == expected


def test_validation_patches_come_from_the_held_out_case_without_augmentation(source, data_folder):
    volume = open_case(data_folder, "case_3").image[:]
    windows = np.lib.stride_tricks.sliding_window_view(volume[0], (16, 16), axis=(1, 2)).reshape(-1, 16, 16)
    batch = source[BatchKey(stream="validation", epoch=0, iteration=0)]
    assert (windows == batch.image[0, 0].numpy()).all(axis=(1, 2)).any()


def test_after_the_end_of_augmentation_patches_are_mirrored_alone(build_source, data_folder):
    source = build_source(foreground_fraction=1.0)
    volumes = [open_case(data_folder, name).image[0] for name in source.training.sampler.case_names]
    windows = np.concatenate(
        [
            np.lib.stride_tricks.sliding_window_view(volume, (16, 16), axis=(1, 2)).reshape(-1, 16, 16)
            for volume in volumes
        ]
    )
    is_mirrored = set()
    for iteration in range(6):
        key = BatchKey(stream="training", epoch=0, iteration=iteration, phase=Phase(is_augmented=False))
        patch = source[key].image[1, 0].numpy()
        flips = [axes for axes in ((), (0,), (1,), (0, 1)) if (windows == np.flip(patch, axes)).all(axis=(1, 2)).any()]
        assert flips
        is_mirrored.add(bool(flips[0]))
    assert True in is_mirrored


def test_keys_tell_the_phase_of_every_epoch():
    ended = Phase(is_augmented=False, takes_synthetic=False)
    keys = list_batch_keys(1, 1, first_epoch=3, find_phase=lambda epoch: Phase() if epoch < 4 else ended)
    assert [(key.epoch, key.phase) for key in islice(keys, 4)] == [*[(3, Phase())] * 2, *[(4, ended)] * 2]


def test_workers_make_the_same_batches_in_the_same_order(source):
    keys = list(islice(list_batch_keys(3, 2, first_epoch=0), 10))
    alone = list(stream_batches(source, keys, workers=0, device=CPU))
    together = list(stream_batches(source, keys, workers=2, device=CPU))
    assert len(alone) == len(together) == len(keys)
    assert all(map(are_equal, alone, together))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_case_is_named(build_source, tmp_path, workers):
    source = build_source(folder=tmp_path)
    keys = [BatchKey(stream="training", epoch=0, iteration=0)]
    with pytest.raises(RunError, match="preprocessed case 'case_"):
        next(stream_batches(source, keys, workers=workers, device=CPU))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_is_damaged_inside_is_named_and_kills_no_worker(source, data_folder, workers):
    for path in data_folder.glob("*.image.b2nd"):
        content = bytearray(path.read_bytes())
        content[len(content) // 4 :] = b"\xff" * len(content[len(content) // 4 :])
        path.write_bytes(content)
    keys = [BatchKey(stream="training", epoch=0, iteration=0)]
    with pytest.raises(RunError, match=r"case_\d.* damaged .*autoseg preprocess"):
        next(stream_batches(source, keys, workers=workers, device=CPU))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_in_a_cascade_the_masks_of_the_previous_stage_follow_the_image(build_source, previous, dimensions):
    source, plain = build_source(dimensions=dimensions, previous=previous), build_source(dimensions=dimensions)
    for iteration in range(4):
        key = BatchKey(stream="validation", epoch=0, iteration=iteration)
        batch = source[key]
        assert batch.image.shape == (2, 2, *(16,) * dimensions)
        assert torch.equal(batch.image[:, :1], plain[key].image)
        assert torch.equal(batch.label_map, plain[key].label_map)
        # The prediction is the lesion, moved by two voxels along y; those that come from within the patch are known.
        moved, lesion = batch.image[:, 1].movedim(-2, 0)[2:], (batch.label_map == 1).movedim(-2, 0)[:-2]
        assert torch.equal(moved.bool(), lesion)
        assert lesion.any()


def test_masks_are_augmented_in_training_patches_alone(build_source, previous, plan_transforms):
    always = plan_transforms(mask_morphology={"label_probability": 1.0, "radius_range_voxels": (6.0, 6.0)})
    source = build_source(previous=previous, transforms=always)
    stored = build_source(previous=previous, transforms=())
    for stream, is_equal in (("training", False), ("validation", True)):
        keys = [BatchKey(stream=stream, epoch=0, iteration=iteration) for iteration in range(4)]
        assert all(torch.equal(source[key].image[:, :1], stored[key].image[:, :1]) for key in keys)
        assert all(torch.equal(source[key].image[:, 1], stored[key].image[:, 1]) for key in keys) is is_equal


class KilledSource(Dataset):
    """Does to its process what a system without memory does."""

    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


def consume(batches):
    with translate_worker_crashes():
        list(batches)


def test_a_dead_worker_is_reported_with_what_to_do(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    keys = [BatchKey(stream="training", epoch=0, iteration=0)]
    with pytest.raises(TrainingError, match=r"has died .*exited unexpectedly.*shm-size.*same command"):
        consume(stream_batches(KilledSource(), keys, workers=1, device=CPU))


def test_other_failures_keep_their_type():
    def fail():
        yield 1 / 0

    with pytest.raises(ZeroDivisionError):
        consume(fail())
