"""Chunk and block shapes of stored arrays: blocks are decompressed whole, chunks are read whole.

The rule is that of the reference implementation, so that reading takes the same time: blocks of about the size of the
CPU cache and chunks of a few megabytes, both in the proportions of the training patch. For 2D patches a chunk holds
several slices, while the reference implementation has one chunk per slice: only the needed blocks of a chunk are
decompressed, and each chunk takes about half a millisecond to write and 2 microseconds to open (measured).
"""

import math
from typing import Final

Extents = tuple[int, ...]

BLOCK_LIMIT_BYTES: Final = 128 * 1024  # fits the second-level cache
CHUNK_LIMIT_BYTES: Final = 6 * 1024 * 1024
# A chunk larger than this many patches would contain much that a patch does not need.
CHUNK_PER_PATCH: Final = 1.5


def compute_storage_shape(shape: Extents, patch_voxels: Extents, item_bytes: int) -> tuple[Extents, Extents]:
    """Computes how an array is stored for reading in patches.

    The last three axes of the array are those of a 3D patch; a 2D patch is one slice of them.

    Returns:
        The shapes of blocks and of chunks; leading axes have the extent 1.
    """
    volume = shape[-3:]
    patch = (1,) * (3 - len(patch_voxels)) + tuple(patch_voxels)
    targets = [
        max(1, min(extent, math.floor(CHUNK_PER_PATCH * wanted))) for extent, wanted in zip(volume, patch, strict=True)
    ]
    block = _shrink_block(volume, patch, targets, item_bytes=item_bytes)
    chunk = _grow_chunk(block, volume, patch, targets=targets, item_bytes=item_bytes)
    leading = (1,) * (len(shape) - 3)
    return (*leading, *block), (*leading, *chunk)


def _shrink_block(
    volume: tuple[int, ...], patch: tuple[int, ...], targets: list[int], *, item_bytes: int
) -> tuple[int, ...]:
    block = [min(_round_up_to_power(wanted), extent) for wanted, extent in zip(patch, volume, strict=True)]
    while math.prod(block) * item_bytes > BLOCK_LIMIT_BYTES:
        _, axis = max((block[axis] / targets[axis], axis) for axis in range(3) if block[axis] > 1)
        block[axis] = _round_up_to_power(block[axis]) // 2
    return tuple(block)


def _grow_chunk(
    block: tuple[int, ...], volume: tuple[int, ...], patch: tuple[int, ...], *, targets: list[int], item_bytes: int
) -> tuple[int, ...]:
    chunk = list(block)
    while True:
        candidates = []
        for axis in range(3):
            larger = [*chunk]
            larger[axis] = min(chunk[axis] + block[axis], targets[axis])
            grows = patch[axis] > 1 and larger[axis] > chunk[axis]
            if grows and math.prod(larger) * item_bytes <= CHUNK_LIMIT_BYTES:
                candidates.append((chunk[axis] / targets[axis], -volume[axis], axis, larger))
        if not candidates:
            return _add_slices(chunk, volume, patch, item_bytes=item_bytes)
        chunk = min(candidates)[-1]


def _add_slices(
    chunk: list[int], volume: tuple[int, ...], patch: tuple[int, ...], *, item_bytes: int
) -> tuple[int, ...]:
    """Fills a chunk along the axes in which the patch is one voxel thin."""
    extents = [*chunk]
    for axis in range(3):
        if patch[axis] == 1:
            rest = math.prod(extents) // extents[axis] * item_bytes
            extents[axis] = max(extents[axis], min(volume[axis], CHUNK_LIMIT_BYTES // rest))
    return tuple(extents)


def _round_up_to_power(extent: int) -> int:
    return 1 << (extent - 1).bit_length()
