"""Watches how much of a GPU a fold uses, and proposes to train several folds on it where much is idle."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import torch

from autoseg.runtime.device_use import describe_sharing, measure_device_use
from autoseg.workflows.folds.status import FoldStatus

SAMPLES: Final = 15  # of a second each; the first ones are of a training that begins
IDLE_SHARE: Final = 0.3
"""A GPU that is idle for more of the time is worth another fold (guess)."""
MOST_FOLDS: Final = 4


def describe_shared_devices(devices: Sequence[str]) -> list[str]:
    """Describes, one line each, the GPUs that train several folds at once."""
    counts = Counter(name for name in devices if name.startswith("cuda"))
    return [f"{count} folds at once on {name}: {describe_sharing()}" for name, count in counts.items() if count > 1]


@dataclass(slots=True, kw_only=True)
class DeviceWatch:
    """Watches the GPUs of a queue while each trains a fold.

    Attributes:
        announce: Called with a proposal, once for each GPU.
        measure: Measures the fraction of time in which a GPU computes; None: it is not known.
    """

    announce: Callable[[str], None]
    measure: Callable[[int], float | None] = measure_device_use
    _samples: dict[str, list[float | None]] = field(default_factory=dict)

    def follow(self, snapshots: Iterable[tuple[FoldStatus, ...]]) -> Iterator[tuple[FoldStatus, ...]]:
        """Yields the statuses of a queue, about one a second, unchanged, and watches meanwhile."""
        for statuses in snapshots:
            yield statuses
            names = [status.device for status in statuses if status.state == "training" and status.device]
            is_waiting = any(status.state == "waiting" for status in statuses)
            for name, count in Counter(names).items():
                if is_waiting and count == 1 and name.startswith("cuda") and "+" not in name:
                    self._look(name)

    def _look(self, name: str) -> None:
        samples = self._samples.setdefault(name, [])
        if len(samples) == SAMPLES:
            return
        samples.append(self.measure(torch.device(name).index or 0))
        known = [use for use in samples[SAMPLES // 3 :] if use is not None]
        if len(samples) == SAMPLES and known:
            self._propose(name, median(known))

    def _propose(self, name: str, use: float) -> None:
        if use > 1 - IDLE_SHARE:
            return
        count = min(MOST_FOLDS, max(2, round(1 / max(use, 1 / MOST_FOLDS))))
        index = torch.device(name).index or 0
        self.announce(
            f"hint: {name} computes {use:.0%} of the time while it trains this fold; {count} folds at once use more of "
            f"it: interrupt, and give the command again with --devices {','.join([str(index)] * count)} (what is "
            f"trained is kept); {describe_sharing()}"
        )
