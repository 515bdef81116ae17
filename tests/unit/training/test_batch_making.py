from collections import deque
from itertools import islice

import pytest
import torch

from autoseg.training.data import batch_making
from autoseg.training.data.batch_making import build_source, keep_phase_current, make_batches
from autoseg.training.data.batches import BatchSource, build_batch_source, list_batch_keys
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import DeviceBatchSource, build_device_batch_source
from autoseg.training.data.randomness import BatchKey, Phase

CPU = torch.device("cpu")
KEYS = [BatchKey(stream="training", epoch=0, iteration=number) for number in range(3)]


@pytest.fixture
def dataset(data_folder, fold):
    return {"data_folder": data_folder, "fold": fold, "seed": 0}


def are_equal(first, second):
    return torch.equal(first.image, second.image) and torch.equal(first.label_map, second.label_map)


@pytest.mark.parametrize("device", [CPU, torch.device("mps")])
def test_other_devices_than_cuda_take_worker_processes(plan_configuration, channels, dataset, device):
    source = build_source(plan_configuration(), channels, **dataset, device=device, announce=pytest.fail)
    assert isinstance(source, BatchSource)
    made = list(make_batches(source, KEYS, workers=0, device=CPU))
    assert all(map(are_equal, made, map(source.make_batch, KEYS)))


@pytest.mark.parametrize("is_cascade", [False, True])
def test_a_cuda_device_makes_its_own_batches_and_says_where_the_cases_are(
    plan_configuration, channels, dataset, *, monkeypatch, previous, is_cascade
):
    previous = previous if is_cascade else None
    asked, told = [], []

    def build_on_processor(source, plan, channels, *, device):
        asked.append(device)
        placement = DataPlacement(where="host", because="there is room")
        return build_device_batch_source(source, plan, channels, device=CPU, placement=placement)

    monkeypatch.setattr(batch_making, "build_device_batch_source", build_on_processor)
    cuda = torch.device("cuda", 1)
    source = build_source(
        plan_configuration(), channels, **dataset, device=cuda, announce=told.append, previous=previous
    )
    assert isinstance(source, DeviceBatchSource)
    assert asked == [cuda]
    assert told == ["patches are made on cuda:1; RAM holds all cases (there is room)"]
    made = list(make_batches(source, KEYS, workers=2, device=cuda))
    assert all(map(are_equal, made, map(source.make_batch, KEYS)))
    assert {batch.image.shape[1] for batch in made} == {2 if is_cascade else 1}
    workers = build_batch_source(plan_configuration(), channels, **dataset, previous=previous)
    assert not all(map(are_equal, made, map(workers.make_batch, KEYS)))


@pytest.mark.parametrize("ahead", [1, 4])
def test_batches_that_were_made_before_the_end_of_augmentation_moved_are_made_again(
    plan_configuration, channels, dataset, ahead
):
    source = build_source(plan_configuration(), channels, **dataset, device=CPU, announce=pytest.fail)
    ended = Phase(is_augmented=False)
    phases, made_again = [Phase(), Phase(), ended], []

    def make_ahead(keys):
        made = deque(map(source.make_batch, islice(keys, ahead)))
        for key in keys:
            yield made.popleft()
            made.append(source.make_batch(key))

    def make_again(key):
        made_again.append(key.iteration)
        return source.make_batch(key)

    batches = keep_phase_current(
        list_batch_keys(2, 1, first_epoch=0, find_phase=phases.__getitem__),
        stream=make_ahead,
        make_batch=make_again,
        find_phase=phases.__getitem__,
    )
    found = [next(batches)]
    phases[1] = ended
    found += islice(batches, 4)
    keys = islice(list_batch_keys(2, 1, first_epoch=0, find_phase=phases.__getitem__), 5)
    assert all(map(are_equal, found, map(source.make_batch, keys)))
    assert made_again == ([0, 1] if ahead == 4 else [])
