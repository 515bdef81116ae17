"""Hands batches from worker processes to the training process, in shared memory.

Containers often have little of it (64 MB by default in Docker), and other programs may fill it at any time. A worker
puts a batch there itself, where a failure can be answered: torch would do so in a thread of its queue, which drops a
batch that finds no room, and the training would wait for it forever.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch.utils.data import Dataset

from autoseg.errors import AutosegError, TrainingError
from autoseg.training.data.batch import Batch
from autoseg.training.data.randomness import BatchKey

SHARED_MEMORY: Final = Path("/dev/shm")  # of Linux; elsewhere it is not limited apart from RAM
BATCHES_AHEAD_PER_WORKER: Final = 3
USABLE_SHARE: Final = 0.95  # of the free shared memory; locks of multiprocessing lie there, too (guess)
MEMORY_ADVICE: Final = (
    "close other programs or allow more memory (docker run --shm-size=8g), then give the same command to continue "
    "from the last checkpoint"
)
SHARED_ADVICE: Final = (
    "shared memory (/dev/shm) may be full; with more of it training is faster (docker run --shm-size=8g)"
)


@dataclass(frozen=True, slots=True)
class LeftToCaller:
    """Takes the place of a batch for which there was no shared memory: the training process makes it itself."""

    key: BatchKey
    reason: str

    def describe(self) -> str:
        """Describes for messages what is short, and what to do."""
        return (
            f"warning: shared memory ({SHARED_MEMORY}) is full ({self.reason}): batches that find no room are made "
            f"between the steps, which is slower; close other programs or allow more memory (docker run "
            f"--shm-size=8g); the same command, given again, continues with fewer batches ahead"
        )


class SharedBatches(Dataset[Batch | AutosegError | LeftToCaller]):
    """Makes batches in a worker process, and puts them into shared memory."""

    def __init__(self, source: Dataset[Batch | AutosegError]) -> None:
        self._source = source

    def __getitem__(self, key: BatchKey) -> Batch | AutosegError | LeftToCaller:
        """Makes a batch; returns why it cannot be handed over, or the user's error."""
        try:
            outcome = self._source[key]
        except MemoryError as error:
            msg = f"a process that prepares patches ran out of memory ({error}); {MEMORY_ADVICE}"
            return TrainingError(msg)
        try:
            if isinstance(outcome, Batch):
                outcome.share_memory()
        except (OSError, RuntimeError) as error:
            return LeftToCaller(key, str(error).splitlines()[0])
        return outcome


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """Number of worker processes, and of batches that each makes ahead."""

    workers: int
    batches_ahead: int

    def describe(self) -> str:
        """Describes it for messages."""
        if self.workers == 0:
            return "no worker process (batches are made between the steps)"
        return f"{_count(self.workers, 'worker process', 'es')}, {_count(self.batches_ahead, 'batch', 'es')} ahead each"


def measure_free_shared_memory(folder: Path = SHARED_MEMORY) -> int | None:
    """Measures the free shared memory in bytes; None where it is not limited."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def fit_into_shared_memory(wanted: WorkerLoad, *, batch_bytes: int, free_bytes: int | None) -> WorkerLoad:
    """Reduces batches ahead, then workers, to what shared memory holds beside the batch that is trained on."""
    if free_bytes is None or batch_bytes == 0 or wanted.workers == 0:
        return wanted
    room = int(free_bytes * USABLE_SHARE) // batch_bytes - 1
    if room < 1:
        return WorkerLoad(0, 0)
    workers = min(wanted.workers, room)
    return WorkerLoad(workers, min(wanted.batches_ahead, room // workers))


def describe_reduction(wanted: WorkerLoad, fitting: WorkerLoad, *, batch_bytes: int, free_bytes: int) -> str:
    """Describes why there are fewer workers or batches ahead, and what to do."""
    return (
        f"{SHARED_MEMORY} has {free_bytes / 1e6:.0f} MB free and a batch takes {batch_bytes / 1e6:.3g} MB: "
        f"{fitting.describe()}, instead of {wanted.describe()}; "
        f"with more of it training may be faster (docker run --shm-size=8g)"
    )


def _count(number: int, singular: str, ending: str) -> str:
    return f"{number} {singular}{'' if number == 1 else ending}"
