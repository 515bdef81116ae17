"""Normal random fields from a counter-based generator, in plain tensor operations.

A number depends on its key and its place alone: not on the device's generator, on what was drawn before, or on which
other samples share the batch. The integers are the same on every device; the normal numbers made of them agree but for
the rounding of the device's logarithm and cosine.
"""

from typing import Final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

# Philox-4x32-10 of Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
ROUNDS: Final = 10
WORD_BITS: Final = 32
WORD: Final = 2**WORD_BITS - 1
WORDS_PER_BLOCK: Final = 4
KEY_WORDS: Final = 4  # two are the generator's key, two a part of its counter

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def draw_normal(keys: Int64[Tensor, "sample 4"], count: int) -> Float32[Tensor, "sample number"]:
    """Draws independent numbers of the standard normal distribution, `count` for each key of four 32-bit words."""
    blocks = torch.arange(-(-count // WORDS_PER_BLOCK), dtype=torch.int64, device=keys.device)[None]
    key_0, key_1, high_0, high_1 = (keys[:, word : word + 1] for word in range(KEY_WORDS))
    words = compute_philox((blocks & WORD, blocks >> WORD_BITS, high_0, high_1), (key_0, key_1))
    first, second, third, fourth = map(_to_unit_interval, words)
    return torch.cat([*_box_muller(first, second), *_box_muller(third, fourth)], dim=1)[:, :count]


def compute_philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Computes four random 32-bit words for each counter of four words; all are int64 tensors that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for number in range(ROUNDS):
        if number:
            k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
        # The 64 bits of a product are right although the signed type overflows: it wraps.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = _high(second) ^ c1 ^ k0, second & WORD, _high(first) ^ c3 ^ k1, first & WORD
    return c0, c1, c2, c3


def _high(product: Tensor) -> Tensor:
    return (product >> WORD_BITS) & WORD


def _to_unit_interval(words: Tensor) -> Tensor:
    """Maps words to numbers above 0, at most 1: each to the middle of its share of the interval."""
    return (words.to(torch.float32) + 0.5) * 2.0**-WORD_BITS


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    radius, angle = (-2 * first.log()).sqrt(), second * (2 * torch.pi)
    return radius * angle.cos(), radius * angle.sin()
