"""Normal random fields from a counter-based generator, in plain tensor operations.

A number depends on its key and its place alone: not on the device's generator, on what was drawn before, or on which
other samples share the batch. The integers are the same on every device; the normal numbers made of them agree but for
the rounding of the device's inverse error function.
"""

import math
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

# SplitMix64 of Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014): each counter takes
# a fifth of the operations that ten rounds of Philox take. Constants as signed numbers, whose products wrap.
INCREMENT: Final = 0x9E3779B97F4A7C15 - 2**64
MIXING: Final = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
LAST_SHIFT: Final = 31
WORD_BITS: Final = 32
WORD: Final = 2**WORD_BITS - 1
KEY_WORDS: Final = 4
NUMBERS_PER_COUNTER: Final = 2  # of 32 bits
# The largest number below 1 in single precision times 2**-31: integers of 32 bits become numbers within -1 and 1.
TO_UNIT_RANGE: Final = (1 - 2.0**-24) * 2.0**-31
SPREAD: Final = math.sqrt(2)  # a normal number is the inverse error function of a uniform one, times this


def draw_key(generator: np.random.Generator) -> Int64[np.ndarray, "4"]:
    """Draws the key of a field: words of 32 bits."""
    return generator.integers(WORD, size=KEY_WORDS, endpoint=True)


def join_words(keys: Int64[np.ndarray, "sample 4"]) -> Int64[np.ndarray, " sample"]:
    """Joins the words of each key to the 64 bits that the generator is seeded with."""
    low, high = (keys[:, word] ^ keys[:, word + 2] for word in range(2))
    joined: Int64[np.ndarray, " sample"] = low | high << WORD_BITS  # wraps to negative numbers
    return joined


def draw_normal(
    keys: Int64[Tensor, " sample"], count: int, std: Float32[Tensor, " sample"]
) -> Float32[Tensor, "sample number"]:
    """Draws independent numbers of normal distributions about 0, `count` for each key, with a standard deviation for
    each."""
    words = compute_words(keys, -(-count // NUMBERS_PER_COUNTER)).view(torch.int32)
    uniform = words.to(torch.float32).mul_(TO_UNIT_RANGE)
    return torch.erfinv(uniform).mul_(SPREAD * std[:, None])[:, :count]


def compute_words(keys: Int64[Tensor, " sample"], count: int) -> Int64[Tensor, "sample word"]:
    """Computes random words of 64 bits for each key: those of the generator that is seeded with the key."""
    counters = torch.arange(1, count + 1, device=keys.device)
    words = torch.add(keys[:, None], counters, alpha=INCREMENT)
    for shift, factor in MIXING:
        words = words.bitwise_xor_(_shift_right(words, shift)).mul_(factor)
    return words.bitwise_xor_(_shift_right(words, LAST_SHIFT))


def _shift_right(words: Tensor, shift: int) -> Tensor:
    """Shifts words as if they were unsigned."""
    return (words >> shift).bitwise_and_(2 ** (64 - shift) - 1)
