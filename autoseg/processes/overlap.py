"""Overlaps reading, processing and writing: while one case is processed, the next is read and the last written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlap_steps(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], None],
) -> Iterator[tuple[Item, Exception | None]]:
    """Processes every item in three steps; yields it when it is written, or with the error that stopped it.

    `work` runs in the caller's thread, `read` and `write` in a thread each. At any time at most one item is read or
    waiting, one is processed, and one is written, so memory does not grow with the number of items. An interruption
    (Ctrl-C) waits for the items that are being read and written, and starts no others.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            writing: list[tuple[Item, Future[None]]] = []
            for item, future in _read_ahead(reader, items, read):
                try:
                    made = work(item, future.result())
                except Exception as error:
                    yield item, error
                    continue
                yield from _finish(writing)
                writing = [(item, writer.submit(write, item, made))]
            yield from _finish(writing)
        finally:
            reader.shutdown(cancel_futures=True)


def _finish(writing: Sequence[tuple[Item, "Future[None]"]]) -> Iterator[tuple[Item, Exception | None]]:
    for item, future in writing:
        error = future.exception()
        assert error is None or isinstance(error, Exception), "interruptions reach the main thread only"
        yield item, error


def _read_ahead(
    reader: ThreadPoolExecutor, items: Sequence[Item], read: Callable[[Item], Read]
) -> Iterator[tuple[Item, "Future[Read]"]]:
    """Yields every item with the future of its content; the next item is read while the caller uses this one."""
    following = reader.submit(read, items[0]) if items else None
    for index, item in enumerate(items):
        assert following is not None
        current = following
        current.exception()  # waits, so that no more than one is read ahead
        following = reader.submit(read, items[index + 1]) if index + 1 < len(items) else None
        yield item, current
