"""Adapts the number of threads of networks on the CPU to the CPU time that the process really receives.

OpenMP's threads synchronize by busy waiting, many times in a forward pass. That is fastest while each has a core of its
own. As soon as another program takes a core, all wait for the thread without one, and a step takes 3 to 20 times as
long (measured). The wait policy of OpenMP is fixed when it is loaded, and passive waiting is slower on an idle machine
by a factor of 1.2 to 1.9; the number of threads can be changed between any two operations. So the number is adapted to
the CPU time: it is chosen when computing begins and checked about twice a second.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

from autoseg.runtime.cpu_time import CpuClock, CpuReading, CpuUsage, compare_readings, count_usable_cpus

SECONDS_BETWEEN_LOOKS: Final = 0.5
TOLERATED_LOSS_CORES: Final = 0.25
"""Threads are removed if more than this is missing, and added if all but this of a core is unused."""
SHORTEST_FIRST_LOOK_SECONDS: Final = 0.2
LONGEST_FIRST_LOOK_SECONDS: Final = 60.0  # older measurements are outdated
FIRST_PATIENCE_SECONDS: Final = 1.0
LONGEST_PATIENCE_SECONDS: Final = 60.0
"""After threads were added without benefit, the next attempt waits twice as long, up to this."""
SETTINGS_OF_THE_USER: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

logger = logging.getLogger(__name__)


def adapt_thread_count(use: CpuUsage, *, threads: int, most: int) -> int:
    """Computes the next number of threads from the CPU usage with the present number."""
    if use.missed > TOLERATED_LOSS_CORES:
        return max(1, min(threads, math.floor(use.received + TOLERATED_LOSS_CORES)))
    return min(most, threads + math.floor(use.unused + TOLERATED_LOSS_CORES))


def compute_initial_thread_count(use: CpuUsage, *, most: int) -> int:
    """Computes the initial number of threads, which leaves the cores that other programs use."""
    return max(1, min(most, math.floor(use.cores - use.foreign + TOLERATED_LOSS_CORES)))


class CpuThreads:
    """Adapts a number of threads to the CPU time that this process receives.

    Attributes:
        most: Upper limit.
        threads: Present number.
    """

    def __init__(
        self,
        *,
        most: int,
        read: Callable[[], CpuReading],
        since: CpuReading,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.most = most
        self.threads = most
        self._read, self._now, self._sleep = read, now, sleep
        self._last = since
        self._is_new = True
        self._added_at = -math.inf
        self._patience_seconds = FIRST_PATIENCE_SECONDS

    def begin(self) -> CpuUsage | None:
        """Sets the initial number; returns the CPU usage it is based on, None if that has just been done."""
        seconds = self._now() - self._last.wall_seconds
        if seconds < SHORTEST_FIRST_LOOK_SECONDS and not self._is_new:
            return None
        if seconds > LONGEST_FIRST_LOOK_SECONDS:
            self._last, seconds = self._read(), 0.0
        self._sleep(max(0.0, SHORTEST_FIRST_LOOK_SECONDS - seconds))
        use = self._take_use()
        self._is_new = False
        self.threads = compute_initial_thread_count(use, most=self.most)
        return use

    def look(self) -> CpuUsage | None:
        """Adapts the number if necessary; returns the CPU usage that a change is based on."""
        if self._now() - self._last.wall_seconds < SECONDS_BETWEEN_LOOKS:
            return None
        use = self._take_use()
        chosen = adapt_thread_count(use, threads=self.threads, most=self.most)
        if chosen == self.threads or not self._may_change(chosen, self._last.wall_seconds):
            return None
        self.threads = chosen
        return use

    def _take_use(self) -> CpuUsage:
        now = self._read()
        use, self._last = compare_readings(self._last, now), now
        return use

    def _may_change(self, chosen: int, now: float) -> bool:
        """Returns whether to change the number: threads are removed at once, and added ever less often if in vain."""
        since_added = now - self._added_at
        if chosen > self.threads:
            if since_added < self._patience_seconds:
                return False
            self._added_at = now
            return True
        is_in_vain = since_added < 2 * self._patience_seconds
        longer = min(LONGEST_PATIENCE_SECONDS, 2 * self._patience_seconds)
        self._patience_seconds = longer if is_in_vain else FIRST_PATIENCE_SECONDS
        return True


@dataclass(slots=True, kw_only=True)
class ComputingThread:
    """A thread that computes within `adaptive_cpu_threads`.

    Attributes:
        announce: Called with the first decision only, as later ones vary with the other programs.
        before: Number of threads outside of the block.
        most: Upper limit.
        threads: Present number.
        is_adapting: Whether the number may change.
    """

    announce: Callable[[str], None]
    before: int
    most: int
    threads: int
    is_adapting: bool = False
    thread: int = field(default_factory=threading.get_ident)

    def tell(self, text: str) -> None:
        """Announces the first decision."""
        self.announce(text)
        self.announce = _say_nothing


class LibraryThreads:
    """The thread counts of the libraries of this process; there is one object per process.

    Several threads of a program may compute at once. PyTorch and OpenMP have a thread count for each of them, so each
    sets its own; the number is determined for all of them together, as they share the CPU time.
    """

    def __init__(self) -> None:
        self._clock = CpuClock()
        self._since = self._clock.read()
        self._chosen: CpuThreads | None = None
        self._holders: dict[int, ComputingThread] = {}
        self._others: OtherLibraries | None = None
        self._lock = threading.RLock()  # an abandoned generator may be closed within it, by the garbage collector

    @contextmanager
    def hold(self, announce: Callable[[str], None], *, is_fixed: bool) -> Iterator[None]:
        """See `adaptive_cpu_threads`."""
        if threading.get_ident() in self._holders:  # an enclosing block has decided already
            yield
            return
        holder = self._build_holder(announce)
        try:
            with self._lock:
                self._begin(holder, is_fixed=is_fixed)
            yield
        finally:
            with self._lock:
                self._end(holder)

    def adapt(self) -> None:
        """Checks the CPU usage if it is time, and adapts the number of threads."""
        holder = self._holders.get(threading.get_ident())
        if holder is None or not holder.is_adapting or self._chosen is None:
            return
        with self._lock:
            self._apply(holder, self._chosen, self._chosen.look())

    def _build_holder(self, announce: Callable[[str], None]) -> ComputingThread:
        own = torch.get_num_threads()
        with self._lock:
            # A thread that never computed before inherits the present number of another one.
            before = next((other.before for other in self._holders.values() if other.threads == own), own)
        most = before if _find_setting() else min(before, count_usable_cpus())
        return ComputingThread(announce=announce, before=before, most=most, threads=own)

    def _begin(self, holder: ComputingThread, *, is_fixed: bool) -> None:
        is_alone = not any(other.is_adapting for other in self._holders.values())
        if self._others is None:
            self._others = OtherLibraries()
        self._holders[holder.thread] = holder
        setting, most = _find_setting(), holder.most
        if setting or is_fixed:
            _set_threads_of(holder, most)
            reason = f", as {setting} says" if setting else " throughout, whatever else runs"
            holder.tell(f"computing with {most} thread{'' if most == 1 else 's'}{reason}")
            return
        if self._chosen is None or (is_alone and self._chosen.most != most):
            self._chosen = CpuThreads(most=most, read=self._clock.read, since=self._since)
        holder.is_adapting = True
        _set_threads_of(holder, min(self._chosen.threads, most))
        if is_alone:
            self._apply(holder, self._chosen, self._chosen.begin())

    def _end(self, holder: ComputingThread) -> None:
        if self._holders.pop(holder.thread, None) is None:
            return
        torch.set_num_threads(holder.before)
        if not self._holders and self._others is not None:
            self._others.restore()
            self._others = None

    def _apply(self, holder: ComputingThread, chosen: CpuThreads, use: CpuUsage | None) -> None:
        """Applies the number, also if another thread has changed it."""
        if holder.threads != min(chosen.threads, holder.most):
            _set_threads_of(holder, min(chosen.threads, holder.most))
        if use is None:
            return
        logger.debug("%d threads: %s", chosen.threads, use)
        if chosen.threads < chosen.most:
            holder.tell(
                f"other programs use {use.foreign:.1f} of {use.cores} cores: computing with {chosen.threads} of "
                f"{chosen.most} threads, and with more or fewer as that changes"
            )


class OtherLibraries:
    """Original thread counts of BLAS and SimpleITK, which have one for the whole process."""

    def __init__(self) -> None:
        self._blas = ThreadpoolController().select(user_api="blas").limit(limits=None)
        simpleitk = sys.modules.get("SimpleITK")
        self._simpleitk = None if simpleitk is None else simpleitk.ProcessObject.GetGlobalDefaultNumberOfThreads()

    def restore(self) -> None:
        """Restores them; SimpleITK, if it was loaded meanwhile, gets all cores."""
        self._blas.restore_original_limits()
        simpleitk = sys.modules.get("SimpleITK")
        if simpleitk is not None:
            simpleitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self._simpleitk or count_usable_cpus())


def _set_threads_of(holder: ComputingThread, count: int) -> None:
    """Sets the number in the computing thread itself."""
    set_threads(count)
    holder.threads = count


def _find_setting() -> str | None:
    return next((name for name in SETTINGS_OF_THE_USER if os.environ.get(name)), None)


def _say_nothing(text: str) -> None:
    del text


_LIBRARY_THREADS: Final = LibraryThreads()


@contextmanager
def adaptive_cpu_threads(
    device: torch.device, *, announce: Callable[[str], None] = logger.info, is_fixed: bool = False
) -> Iterator[None]:
    """Adapts the number of threads of networks on the CPU to the CPU time of this process within the block.

    The limits are the previous number of PyTorch and the quota of a container. A number that the user has set in the
    environment (OMP_NUM_THREADS) is used exactly. Nothing happens for other devices, nor within another call of the
    same thread.

    Args:
        announce: Called once with the decision, if it is not simply all cores.
        is_fixed: Whether to keep the number, for results that are equal bit for bit whatever else runs.
    """
    if device.type != "cpu":
        yield
        return
    with _LIBRARY_THREADS.hold(announce, is_fixed=is_fixed):
        yield


def adapt_threads() -> None:
    """Adapts the number of threads; to be called between two operations of a network, in the computing thread."""
    _LIBRARY_THREADS.adapt()


def set_threads(count: int) -> None:
    """Sets the number of threads of PyTorch (of OpenMP, which oneDNN uses too), BLAS, and SimpleITK if it is loaded."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    simpleitk = sys.modules.get("SimpleITK")
    if simpleitk is not None:
        simpleitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
