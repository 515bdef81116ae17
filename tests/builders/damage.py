"""Damage to files, such as disks and transfers do, and disks without room."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limit_file_size(size_bytes: int) -> Iterator[None]:
    """Lets files grow no further than this, which fails at the same places as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip_bit(path: Path, place: float) -> None:
    """Changes one bit of a file.

    Args:
        path: The file.
        place: Part of the file that lies before the bit.
    """
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
