import multiprocessing
import threading
from dataclasses import replace
from itertools import islice

import numpy as np
import psutil
import pytest
import torch

from autoseg.errors import RunError
from autoseg.preprocessing.cache import open_case
from autoseg.run_folder import FoldFolder
from autoseg.training.augmentation.spatial import crop_centre
from autoseg.training.data import case_store
from autoseg.training.data.batches import build_batch_source, list_batch_keys
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source, paste, stream_device_batches
from autoseg.training.data.randomness import BatchKey, Phase, derive_seeds
from autoseg.training.data.sampling import cut_out
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train

PLACES = ["device", "host", "disk"]
ALWAYS = {"rotation_probability": 1.0}
FIRST = BatchKey(stream="training", epoch=0, iteration=0)


@pytest.fixture
def build(plan_configuration, channels, data_folder, *, fold, device):
    """Prepares the batches of the tiny configuration, on the device and as worker processes would make them."""

    def make(where="host", *, seed=7, folder=data_folder, previous=None, border="zeros", **changes):
        plan = plan_configuration(**changes).model_copy(update={"border": border})
        source = build_batch_source(plan, channels, data_folder=folder, fold=fold, seed=seed, previous=previous)
        placement = where and DataPlacement(where=where, because="the test says so")
        return build_device_batch_source(source, plan, channels, device=device, placement=placement), source

    return make


def are_equal(first, second):
    return torch.equal(first.image.cpu(), second.image.cpu()) and torch.equal(
        first.label_map.cpu(), second.label_map.cpu()
    )


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_augmentation_batches_are_those_of_the_cpu(build, device, where, dimensions):
    ours, theirs = build(where, dimensions=dimensions, transforms=(), batch_size=5)
    for stream in ("training", "validation"):
        for iteration in range(4):
            key = BatchKey(stream=stream, epoch=1, iteration=iteration)
            batch = ours.make_batch(key)
            assert are_equal(batch, theirs.make_batch(key))
            assert batch.image.device.type == batch.label_map.device.type == device.type


@pytest.mark.parametrize("border", ["zeros", "mirror", "replicate"])
def test_what_lies_beyond_a_case_is_that_of_worker_processes(border):
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    for start, extent in (((-3, 2, -2), (9, 3, 14)), ((1, 1, 1), (2, 2, 2))):
        expected = cut_out(image, start, extent, fill=0, border=border)
        pasted = np.zeros((2, *extent), dtype=np.float32)
        paste(pasted, image, start, border=border)
        assert np.array_equal(pasted, expected)


def test_the_border_of_a_plan_is_that_of_its_patches(build):
    for border in ("zeros", "mirror"):
        ours, theirs = build(border=border)
        assert {part.sampler.border for part in (ours.training, ours.plain, ours.validation)} == {border}
        assert {part.sampler.border for part in (theirs.training, theirs.plain, theirs.validation)} == {border}


def test_after_the_end_of_augmentation_patches_are_those_of_the_cpu(build, plan_transforms):
    ours, theirs = build(transforms=plan_transforms(spatial=ALWAYS, noise={}))
    key = replace(FIRST, phase=Phase(is_augmented=False))
    assert are_equal(ours.make_batch(key), theirs.make_batch(key))
    assert not are_equal(ours.make_batch(key), ours.make_batch(FIRST))


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_without_augmentation_a_cascade_has_the_masks_of_the_cpu(build, previous, where, dimensions):
    ours, theirs = build(where, previous=previous, dimensions=dimensions, transforms=(), batch_size=5)
    for stream in ("training", "validation"):
        key = BatchKey(stream=stream, epoch=1, iteration=0)
        batch = ours.make_batch(key)
        assert are_equal(batch, theirs.make_batch(key))
        assert batch.image.shape[1] == 2
        assert batch.image[:, 1].any()


@pytest.mark.parametrize("where", PLACES)
def test_masks_are_moved_and_mirrored_with_their_patch(build, plan_transforms, previous, where):
    plan = plan_transforms(
        spatial={"rotation_probability": 0.5, "scaling_probability": 0.5}, mirror={"axes": (0, 1, 2)}
    )
    ours, _ = build(where, previous=previous, transforms=plan, dimensions=3)
    overlaps = []
    for iteration in range(12):
        batch = ours.make_batch(BatchKey(stream="training", epoch=0, iteration=iteration))
        lesion, mask = batch.label_map == 1, batch.image[:, 1] == 1
        overlaps.append(((lesion & mask).sum() / (lesion | mask).sum().clamp_min(1)).item())
    # The prediction is the lesion, moved by 2 of 8 voxels: 6 of 10 are common.
    assert np.median([overlap for overlap in overlaps if overlap > 0]) > 0.35


def test_masks_have_mistakes_in_training_patches_alone(build, plan_transforms, previous):
    always = plan_transforms(mask_morphology={"label_probability": 1.0, "radius_range_voxels": (6.0, 6.0)})
    changed, plain = (build(previous=previous, transforms=plan)[0] for plan in (always, ()))
    for stream, is_equal in (("training", False), ("validation", True)):
        keys = [BatchKey(stream=stream, epoch=0, iteration=iteration) for iteration in range(4)]
        batches = [(changed.make_batch(key), plain.make_batch(key)) for key in keys]
        assert all(torch.equal(one.image[:, :1], other.image[:, :1]) for one, other in batches)
        assert all(torch.equal(one.image[:, 1], other.image[:, 1]) for one, other in batches) is is_equal


@pytest.mark.parametrize("where", PLACES)
def test_unwarped_patches_show_the_same_place_as_on_the_cpu(build, plan_transforms, where):
    plan = plan_transforms(spatial={"rotation_probability": 0.5})
    ours, theirs = build(where, transforms=plan, batch_size=8, dimensions=3)
    assert ours.training.sampler.cut_voxels != ours.training.sampler.patch_voxels
    whole = build_with_whole_cuts(theirs)
    for iteration in range(3):
        key = BatchKey(stream="training", epoch=0, iteration=iteration)
        batch = ours.make_batch(key)
        same = [index for index in range(8) if torch.equal(batch.image[index].cpu(), whole(key, index))]
        assert 1 <= len(same) <= 7


def build_with_whole_cuts(source):
    """The middle of the whole cut that the CPU would make."""

    def cut(key, index):
        seeds = derive_seeds(source.seed, key, index)
        image, _ = source.training.sampler.draw(index, np.random.default_rng(seeds))
        return torch.from_numpy(crop_centre(image, source.training.sampler.patch_voxels))

    return cut


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_batch_depends_on_its_key_and_the_seed_alone(build, dimensions):
    key = BatchKey(stream="training", epoch=3, iteration=5)
    first, again, other = (build(seed=seed, dimensions=dimensions)[0] for seed in (7, 7, 8))
    batch = first.make_batch(key)
    first.make_batch(FIRST)
    torch.manual_seed(99)
    np.random.seed(99)
    assert are_equal(first.make_batch(key), batch)
    assert are_equal(again.make_batch(key), batch)
    assert not are_equal(other.make_batch(key), batch)
    assert not are_equal(first.make_batch(FIRST), batch)


def test_where_the_cases_lie_changes_no_batch(build):
    batches = [build(where)[0].make_batch(FIRST) for where in PLACES]
    assert are_equal(batches[0], batches[1])
    assert are_equal(batches[1], batches[2])


def test_a_sample_does_not_depend_on_the_size_of_its_batch(build):
    small, large = (build(batch_size=size, foreground_fraction=0.0)[0].make_batch(FIRST) for size in (2, 5))
    assert torch.allclose(small.image, large.image[:2], atol=1e-4)
    assert torch.equal(small.label_map, large.label_map[:2])


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("threads", [0, 3])
def test_threads_make_the_batches_in_order_without_any_worker_process(build, plan_configuration, where, threads):
    source, _ = build(where)
    keys = list(islice(list_batch_keys(3, 2, first_epoch=0), 10))
    alone = [source.make_batch(key) for key in keys]
    children = len(psutil.Process().children(recursive=True))
    together = []
    for batch in stream_device_batches(source, iter(keys), threads=threads):
        together.append(batch)
        assert len(psutil.Process().children(recursive=True)) == children
        assert not multiprocessing.active_children()
    assert len(together) == len(keys)
    assert all(map(are_equal, alone, together))


def test_a_closed_stream_leaves_no_thread(build):
    source, _ = build()
    keys = (BatchKey(stream="training", epoch=0, iteration=number) for number in range(10**9))
    batches = stream_device_batches(source, keys, threads=2)
    next(batches)
    assert any(thread.name.startswith("patches") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("patches") for thread in threading.enumerate())


def test_batches_are_made_ahead_but_not_without_limit(build):
    source, _ = build()
    taken = []

    def count():
        for number in range(100):
            taken.append(number)
            yield BatchKey(stream="training", epoch=0, iteration=number)

    batches = stream_device_batches(source, count(), threads=2)
    next(batches)
    batches.close()
    assert 2 <= len(taken) <= 6


def test_a_missing_case_is_named(build, data_folder):
    source, _ = build("disk")
    for path in data_folder.iterdir():
        path.unlink()
    with pytest.raises(RunError, match="preprocessed case 'case_"):
        next(stream_device_batches(source, [FIRST], threads=1))


def test_validation_patches_are_not_augmented(build, data_folder):
    volume = open_case(data_folder, "case_3").image[:]
    windows = np.lib.stride_tricks.sliding_window_view(volume[0], (16, 16), axis=(1, 2)).reshape(-1, 16, 16)
    batch = build()[0].make_batch(BatchKey(stream="validation", epoch=0, iteration=0))
    assert (windows == batch.image[0, 0].cpu().numpy()).all(axis=(1, 2)).any()


def test_the_device_has_the_cases_before_another_stream_reads_them(build, device, monkeypatch):
    waited, store_case = [], case_store._store_case
    monkeypatch.setattr(case_store, "wait_for_device", lambda device: waited.append(device))
    monkeypatch.setattr(case_store, "_store_case", lambda *part: (waited.append("a case"), store_case(*part))[1])
    ours, _ = build("device")
    assert waited == ["a case"] * len(ours.training.store.cases) + [device]


def test_small_cases_are_placed_as_near_to_the_device_as_possible(build, device):
    source, _ = build(None)
    assert source.placement.where == ("device" if device.type == "cuda" else "host")
    assert "GiB free" in source.placement.because


@pytest.mark.parametrize("where", PLACES)
def test_a_batch_can_be_trained_on(build, where):
    batch = build(where)[0].make_batch(FIRST)
    weight = torch.ones(1, 1, 3, 3, device=batch.image.device, requires_grad=True)
    torch.nn.functional.conv2d(batch.image, weight).square().mean().backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")
@pytest.mark.parametrize("is_cascade", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_training_on_a_gpu_starts_no_process(
    plan_configuration, training_data, *, tmp_path, previous, dimensions, is_cascade
):
    children = len(psutil.Process().children(recursive=True))
    plan = plan_configuration(dimensions=dimensions, epochs=2, network={"input_channels": 1 + is_cascade})
    events = train(
        plan.model_copy(update={"previous_stage": previous.input.plan}) if is_cascade else plan,
        replace(training_data, previous=previous if is_cascade else None),
        output=FoldFolder(tmp_path / "fold"),
        options=TrainingOptions(device=torch.device("cuda"), seed=0, workers=4),
    )
    records = []
    for event in events:
        assert len(psutil.Process().children(recursive=True)) == children
        records += [event.record] if isinstance(event, EpochDone) else []
    assert len(records) == 2
    assert all(np.isfinite(record.train_loss) for record in records)
    assert FoldFolder(tmp_path / "fold").final_checkpoint.exists()
