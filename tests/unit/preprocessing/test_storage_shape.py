import math

import pytest

from autoseg.preprocessing.storage_shape import BLOCK_LIMIT_BYTES, CHUNK_LIMIT_BYTES, compute_storage_shape


@pytest.mark.parametrize(
    ("shape", "patch", "item_bytes", "expected"),
    [
        ((1, 300, 400, 400), (128, 128, 128), 4, ((1, 32, 32, 32), (1, 96, 128, 128))),
        ((300, 400, 400), (128, 128, 128), 2, ((64, 32, 32), (128, 192, 128))),
        ((1, 20, 512, 512), (16, 320, 320), 4, ((1, 4, 128, 64), (1, 12, 384, 320))),
        ((3, 120, 512, 512), (512, 512), 4, ((1, 1, 256, 128), (1, 6, 512, 512))),
        ((1, 35, 51, 35), (56, 40), 4, ((1, 1, 51, 35), (1, 35, 51, 35))),
        ((1, 35, 51, 35), (40, 56, 40), 4, ((1, 32, 32, 32), (1, 35, 51, 35))),
    ],
)
def test_blocks_and_chunks_follow_the_patch(
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    item_bytes: int,
    expected: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    assert compute_storage_shape(shape, patch, item_bytes) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 900, 3), (1, 600, 512, 512)])
@pytest.mark.parametrize("patch", [(16, 16, 16), (8, 512, 512), (1024, 768), (3, 5, 700)])
def test_blocks_and_chunks_stay_within_their_limits_and_the_array(
    shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    blocks, chunks = compute_storage_shape(shape, patch, 4)

    assert math.prod(blocks) * 4 <= BLOCK_LIMIT_BYTES
    assert math.prod(chunks) * 4 <= CHUNK_LIMIT_BYTES
    for block, chunk, extent in zip(blocks, chunks, shape, strict=True):
        assert 1 <= block <= chunk <= extent
