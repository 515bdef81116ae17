"""Reading, working and writing at the same time: while one case is worked on, the next is read and the last written."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlap_stages(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], None],
) -> Iterator[tuple[Item, Exception | None]]:
    """Takes every item through three stages; yields it when it is written, or with the error that stopped it.

    `work` runs in the caller's thread, `read` and `write` in a thread each. At any time at most one item is read or
    waits to be worked on, one is worked on, and one is written: memory does not grow with the number of items. An
    interruption (Ctrl-C) waits for what is being read and written, and begins nothing new.
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
    """Yields every item with what is read of it; reading the next begins when the caller takes this one."""
    following = reader.submit(read, items[0]) if items else None
    for index, item in enumerate(items):
        assert following is not None
        current = following
        current.exception()  # waits, so that no more than one is read ahead
        following = reader.submit(read, items[index + 1]) if index + 1 < len(items) else None
        yield item, current
