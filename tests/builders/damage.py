"""Damage to files, such as disks and transfers do."""

from pathlib import Path


def flip_bit(path: Path, place: float) -> None:
    """Changes one bit of a file.

    Args:
        path: The file.
        place: Part of the file that lies before the bit.
    """
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
