"""Random numbers that depend only on the position in the training at which they are used.

A sample is a function of (seed, stream, epoch, iteration, index in the batch). So it does not matter how many workers
there are or whether the training was interrupted, no two samples share their decisions, and no random state has to be
stored in a checkpoint.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np

Choice = TypeVar("Choice")
Stream = Literal["training", "validation"]
STREAM_NUMBERS: Final[dict[Stream, int]] = {"training": 0, "validation": 1}
NETWORK_NUMBER: Final = 2  # of the stream of the numbers that networks draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What holds for the training patches of an epoch, and may end before the training does.

    Attributes:
        is_augmented: Whether they are changed by all transforms; it has no influence on where they are cut.
        takes_synthetic: Whether synthetic cases train, if there are any; it has no influence on the patches of others.
    """

    is_augmented: bool = True
    takes_synthetic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchKey:
    """The place of a batch in a training."""

    stream: Stream
    epoch: int
    iteration: int
    phase: Phase = Phase()

    def select(self, *, training: Choice, plain: Choice, validation: Choice) -> Choice:
        """Returns what belongs to the batch: of training with all transforms, with those alone that last, or of
        validation."""
        if self.stream == "validation":
            return validation
        return training if self.phase.is_augmented else plain

    def find_plane(self, count: int) -> int:
        """Finds which of several planes, each of which has a network, the batch shows: one after the other.

        Every epoch begins with the next one, so that all have their turn however few batches an epoch has.
        """
        return (self.epoch + self.iteration) % count


def derive_seeds(seed: int, key: BatchKey, index: int) -> np.random.SeedSequence:
    """Derives the seeds of all randomness of sample `index` of a batch."""
    return np.random.SeedSequence((seed, STREAM_NUMBERS[key.stream], key.epoch, key.iteration, index))


def derive_network_seed(seed: int, *, epoch: int, iteration: int, rank: int) -> int:
    """Derives the seed of the numbers that a network draws in an iteration of training (dropout, stochastic depth).

    Args:
        seed: Seed of the training.
        epoch: Epoch of the iteration.
        iteration: Its index in the epoch.
        rank: Index of the process among those that train together, each of which has other samples.
    """
    seeds = np.random.SeedSequence((seed, NETWORK_NUMBER, epoch, iteration, rank))
    return int(seeds.generate_state(1, np.uint64)[0])


@contextmanager
def seeded_global_generators(seeds: np.random.SeedSequence) -> Iterator[None]:
    """Seeds the global generators of numpy and `random`, which batchgenerators draws from, and restores them."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    words = seeds.generate_state(8)
    np.random.seed(words)
    random.seed(words.tobytes())
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
