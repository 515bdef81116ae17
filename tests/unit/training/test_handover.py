import pytest
import torch
from torch.utils.data import Dataset

from autoseg.errors import TrainingError
from autoseg.training.data import batches, handover
from autoseg.training.data.batch import Batch
from autoseg.training.data.batches import stream_batches
from autoseg.training.data.handover import (
    LeftToCaller,
    SharedBatches,
    WorkerLoad,
    describe_reduction,
    fit_into_shared_memory,
    measure_free_shared_memory,
)
from autoseg.training.data.randomness import BatchKey

CPU = torch.device("cpu")
KEYS = [BatchKey(stream="training", epoch=0, iteration=number) for number in range(4)]
MEGABYTE = 10**6


class BatchWithoutRoom(Batch):
    """A batch for which there is no shared memory."""

    def share_memory(self) -> None:
        msg = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        raise RuntimeError(msg)


class NumberedSource(Dataset):
    """Makes batches that hold the number of their iteration; for odd ones there is no room."""

    def __getitem__(self, key: BatchKey) -> Batch:
        kind = BatchWithoutRoom if key.iteration % 2 else Batch
        return kind(image=torch.full((1, 1, 2, 2), float(key.iteration)), label_map=torch.zeros(1, 2, 2).short())


class UnsendableSource(Dataset):
    """What it makes raises in the thread that sends it."""

    def __getitem__(self, key: BatchKey) -> object:
        return lambda: key


class HungrySource(Dataset):
    def __getitem__(self, key: BatchKey) -> Batch:
        msg = "54 TiB"
        raise MemoryError(msg)


@pytest.mark.parametrize(
    ("free_megabytes", "expected"),
    [
        (None, (3, 3)),
        (1000, (3, 3)),
        (264, (3, 3)),
        (240, (3, 2)),
        (106, (3, 1)),
        (79, (2, 1)),
        (64, (1, 1)),
        (52, (0, 0)),
        (0, (0, 0)),
    ],
)
def test_no_more_batches_are_made_ahead_than_shared_memory_holds(free_megabytes, expected):
    free_bytes = None if free_megabytes is None else free_megabytes * MEGABYTE
    load = fit_into_shared_memory(WorkerLoad(3, 3), batch_bytes=25 * MEGABYTE, free_bytes=free_bytes)
    assert (load.workers, load.batches_ahead) == expected


def test_a_batch_of_unknown_size_or_without_workers_changes_nothing():
    assert fit_into_shared_memory(WorkerLoad(3, 3), batch_bytes=0, free_bytes=1) == WorkerLoad(3, 3)
    assert fit_into_shared_memory(WorkerLoad(0, 3), batch_bytes=5, free_bytes=1) == WorkerLoad(0, 3)


def test_a_reduction_says_what_is_short_and_what_helps():
    text = describe_reduction(WorkerLoad(3, 3), WorkerLoad(1, 1), batch_bytes=25 * MEGABYTE, free_bytes=64 * MEGABYTE)
    assert "has 64 MB free and a batch takes 25 MB: 1 worker process, 1 batch ahead each, instead of 3 worker" in text
    assert "--shm-size" in text
    assert "between the steps" in WorkerLoad(0, 0).describe()


def test_shared_memory_is_limited_only_where_the_system_has_a_file_system_of_it(tmp_path):
    assert measure_free_shared_memory(tmp_path) > 0
    assert measure_free_shared_memory(tmp_path / "none") is None


def test_little_shared_memory_is_announced_and_changes_no_batch(monkeypatch):
    monkeypatch.setattr(batches, "measure_free_shared_memory", lambda: 10)
    told = []
    made = list(stream_batches(NumberedSource(), KEYS, workers=2, device=CPU, batch_bytes=20, announce=told.append))
    assert [batch.image[0, 0, 0, 0].item() for batch in made] == [0, 1, 2, 3]
    assert [text for text in told if "no worker process" in text] == told
    assert len(told) == 1


def test_batches_that_find_no_room_are_made_in_the_training_process_in_their_order():
    told = []
    made = list(stream_batches(NumberedSource(), KEYS, workers=1, device=CPU, announce=told.append))
    assert [batch.image[0, 0, 0, 0].item() for batch in made] == [0, 1, 2, 3]
    assert [type(batch) for batch in made] == [Batch, BatchWithoutRoom] * 2
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert "--shm-size=8g" in told[0]


def test_a_batch_is_shared_where_it_is_made():
    shared = SharedBatches(NumberedSource())
    assert shared[KEYS[0]].image.is_shared()
    assert shared[KEYS[0]].label_map.is_shared()
    assert isinstance(shared[KEYS[1]], LeftToCaller)


def test_a_worker_without_memory_says_so():
    outcome = SharedBatches(HungrySource())[KEYS[0]]
    assert isinstance(outcome, TrainingError)
    assert "54 TiB" in str(outcome)
    assert handover.MEMORY_ADVICE in str(outcome)


def test_a_thread_of_a_worker_that_fails_ends_the_training_instead_of_letting_it_wait(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    with (
        pytest.raises(TrainingError, match=r"has died .*exited unexpectedly.*shm-size"),
        batches.translate_worker_crashes(),
    ):
        next(stream_batches(UnsendableSource(), KEYS, workers=1, device=CPU))


def test_workers_for_whose_locks_there_is_no_room_are_announced_and_change_no_batch(monkeypatch):
    build = batches._build_loader

    def build_without_room(source, keys, load, *, device):
        if load.workers:
            raise OSError(28, "No space left on device")
        return build(source, keys, load, device=device)

    monkeypatch.setattr(batches, "_build_loader", build_without_room)
    told = []
    made = list(stream_batches(NumberedSource(), KEYS, workers=2, device=CPU, announce=told.append))
    assert [batch.image[0, 0, 0, 0].item() for batch in made] == [0, 1, 2, 3]
    assert "cannot be started ([Errno 28] No space left on device)" in told[0]
