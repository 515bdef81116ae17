"""Adapts the number of threads of networks on the CPU to the CPU time that the process really receives.

OpenMP's threads wait for each other actively, many times in a pass of a network. That is fastest while each has a core
to itself. As soon as another program takes one, all wait for the thread that is left without, and a step takes 3 to 20
times as long (measured). How OpenMP waits is fixed when it is loaded, and passive waiting costs a machine of its own a
factor of 1.2 to 1.9; the number of threads can be changed between any two operations. So that number follows the CPU
time: it is chosen when computing begins and looked at again about twice a second.
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

from autoseg.cpu_time import CpuClock, CpuReading, CpuUsage, compare_readings, count_usable_cores

SECONDS_BETWEEN_LOOKS: Final = 0.5
TOLERATED_LOSS_CORES: Final = 0.25
"""Threads are given up where more than this is missing, and added where all but this of a core is unused."""
SHORTEST_FIRST_LOOK_SECONDS: Final = 0.2
LONGEST_FIRST_LOOK_SECONDS: Final = 60.0  # what happened earlier says little of now
FIRST_PATIENCE_SECONDS: Final = 1.0
LONGEST_PATIENCE_SECONDS: Final = 60.0
"""After threads were added in vain, the next attempt waits twice as long, up to this."""
SETTINGS_OF_THE_USER: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

logger = logging.getLogger(__name__)


def choose_threads(use: CpuUsage, *, threads: int, most: int) -> int:
    """Threads for the time to come, judged by what became of the cores while there were `threads`."""
    if use.missed > TOLERATED_LOSS_CORES:
        return max(1, min(threads, math.floor(use.received + TOLERATED_LOSS_CORES)))
    return min(most, threads + math.floor(use.unused + TOLERATED_LOSS_CORES))


def compute_initial_thread_count(use: CpuUsage, *, most: int) -> int:
    """Threads to begin with: what other programs took before is taken to be theirs."""
    return max(1, min(most, math.floor(use.cores - use.foreign + TOLERATED_LOSS_CORES)))


class CpuThreads:
    """The number of threads that fits the CPU time which this process receives.

    Attributes:
        most: Never more than these.
        threads: Now.
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
        """Chooses the number to begin with; returns what it was judged by, None where that has just been done."""
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
        """Changes the number if the time since the last look demands it; returns what it was judged by if it does."""
        if self._now() - self._last.wall_seconds < SECONDS_BETWEEN_LOOKS:
            return None
        use = self._take_use()
        chosen = choose_threads(use, threads=self.threads, most=self.most)
        if chosen == self.threads or not self._may_change(chosen, self._last.wall_seconds):
            return None
        self.threads = chosen
        return use

    def _take_use(self) -> CpuUsage:
        now = self._read()
        use, self._last = compare_readings(self._last, now), now
        return use

    def _may_change(self, chosen: int, now: float) -> bool:
        """Threads are given up at once, and added more and more seldom while that is in vain."""
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
class Holder:
    """A thread that computes within `follow_cpu_time`.

    Attributes:
        announce: Told of the first decision alone: what follows comes and goes with the other programs.
        before: Threads that it computed with outside.
        most: Never more than these.
        threads: Now.
        is_adapting: Whether the number may change.
    """

    announce: Callable[[str], None]
    before: int
    most: int
    threads: int
    is_adapting: bool = False
    thread: int = field(default_factory=threading.get_ident)

    def tell(self, text: str) -> None:
        """Says what was decided, once."""
        self.announce(text)
        self.announce = _say_nothing


class LibraryThreads:
    """The threads of the libraries of this process; one object a process.

    Several threads of a program may compute at once. PyTorch and OpenMP keep a number for each of them, so each sets
    its own; what it should be is decided for all of them together, as they share the CPU time.
    """

    def __init__(self) -> None:
        self._clock = CpuClock()
        self._since = self._clock.read()
        self._chosen: CpuThreads | None = None
        self._holders: dict[int, Holder] = {}
        self._others: OtherLibraries | None = None
        self._lock = threading.RLock()  # an abandoned generator may be closed within it, by the garbage collector

    @contextmanager
    def hold(self, announce: Callable[[str], None], *, is_fixed: bool) -> Iterator[None]:
        """See `follow_cpu_time`."""
        if threading.get_ident() in self._holders:  # something around this has decided already
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
        """Changes the number of threads if it is time to look, and what is seen demands it."""
        holder = self._holders.get(threading.get_ident())
        if holder is None or not holder.is_adapting or self._chosen is None:
            return
        with self._lock:
            self._apply(holder, self._chosen, self._chosen.look())

    def _build_holder(self, announce: Callable[[str], None]) -> Holder:
        own = torch.get_num_threads()
        with self._lock:
            # A thread that never computed before takes over the number that another one has just now.
            before = next((other.before for other in self._holders.values() if other.threads == own), own)
        most = before if _find_setting() else min(before, count_usable_cores())
        return Holder(announce=announce, before=before, most=most, threads=own)

    def _begin(self, holder: Holder, *, is_fixed: bool) -> None:
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

    def _end(self, holder: Holder) -> None:
        if self._holders.pop(holder.thread, None) is None:
            return
        torch.set_num_threads(holder.before)
        if not self._holders and self._others is not None:
            self._others.restore()
            self._others = None

    def _apply(self, holder: Holder, chosen: CpuThreads, use: CpuUsage | None) -> None:
        """Also where another thread has looked."""
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
    """Numbers of threads that BLAS and SimpleITK had before; these have one for the whole process."""

    def __init__(self) -> None:
        self._blas = ThreadpoolController().select(user_api="blas").limit(limits=None)
        simpleitk = sys.modules.get("SimpleITK")
        self._simpleitk = None if simpleitk is None else simpleitk.ProcessObject.GetGlobalDefaultNumberOfThreads()

    def restore(self) -> None:
        """Gives them back; SimpleITK, if it was loaded since, gets all cores."""
        self._blas.restore_original_limits()
        simpleitk = sys.modules.get("SimpleITK")
        if simpleitk is not None:
            simpleitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self._simpleitk or count_usable_cores())


def _set_threads_of(holder: Holder, count: int) -> None:
    """In the thread that holds."""
    set_threads(count)
    holder.threads = count


def _find_setting() -> str | None:
    return next((name for name in SETTINGS_OF_THE_USER if os.environ.get(name)), None)


def _say_nothing(text: str) -> None:
    del text


_LIBRARY_THREADS: Final = LibraryThreads()


@contextmanager
def follow_cpu_time(
    device: torch.device, *, announce: Callable[[str], None] = logger.info, is_fixed: bool = False
) -> Iterator[None]:
    """Within it, networks on the CPU compute with as many threads as this process receives cores for.

    Not with more than PyTorch was set to before, nor than a container grants. Where the user has set a number in the
    environment (OMP_NUM_THREADS), exactly that is used. Nothing happens for other devices, nor within another call
    of the same thread.

    Args:
        announce: Told once what was decided, where it is not simply all cores.
        is_fixed: Keep the number, for results that are equal to the last bit whatever else runs.
    """
    if device.type != "cpu":
        yield
        return
    with _LIBRARY_THREADS.hold(announce, is_fixed=is_fixed):
        yield


def adapt_threads() -> None:
    """To be called between two operations of a network, in the thread that computes; changes nothing but the speed."""
    _LIBRARY_THREADS.adapt()


def set_threads(count: int) -> None:
    """Sets the number of threads of PyTorch (of OpenMP, which oneDNN uses too), BLAS, and SimpleITK if it is loaded."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    simpleitk = sys.modules.get("SimpleITK")
    if simpleitk is not None:
        simpleitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
