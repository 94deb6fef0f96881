"""How much is done at once: the sizes of blocks, and work cut into blocks.

Draws come in blocks, of rows and of samples, each from a seed of its own or one after the other from one seed. So the
sizes of these blocks decide figures, and depend on the pair alone, never on how much memory there is. What else is
cut, is cut for memory or speed, and changes figures by rounding at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Rows of a block of draws that has a seed of its own.
ROWS_AT_ONCE = 256
# Rows that go through an encoder or a hash together.
ROWS_OF_A_PASS = 1000
# Rows times draws that are decoded together.
DECODED_AT_ONCE = 10000
# Numbers in the largest tensor of draws: 2**22 floats are 16 MiB.
NUMBERS_AT_ONCE = 2**22
# Numbers of NumPy's in an array of simulated counts.
NUMBERS_SIMULATED_AT_ONCE = 2**18
# Numbers that stay in a core's cache.
NUMBERS_IN_CACHE = 2**17
# Bytes that one pass should take, for speed: beyond it a CPU's caches help less than larger products gain, and a GPU
# wants more work at once.
BYTES_OF_A_PASS = {"cpu": 2**24}
BYTES_OF_A_PASS_ELSEWHERE = 2**29
# What a block of draws may take, whose size no budget changes.
BYTES_OF_A_BLOCK = 2**28
# Bytes of data that are read from disk together.
BYTES_READ_AT_ONCE = 2**22


def slices(total: int, at_once: int) -> Iterator[slice]:
    """All places from 0 to `total`, so many at once.

    Example:
        >>> list(slices(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]

    """
    for first in range(0, total, at_once):
        yield slice(first, min(first + at_once, total))


def counts(total: int, at_once: int) -> Iterator[int]:
    """How many there are in each of these slices.

    Example:
        >>> list(counts(5, 2))
        [2, 2, 1]

    """
    for some in slices(total, at_once):
        yield some.stop - some.start


def draws_at_once(numbers: int, num_rows: int = ROWS_AT_ONCE) -> int:
    """How many draws of each row are made together, if one draw of one row is so many numbers.

    Args:
        numbers: of the largest tensor that one draw of one row takes.
        num_rows: how many rows are drawn for together.

    """
    return max(1, NUMBERS_AT_ONCE // (num_rows * max(1, numbers)))


def power_of_two(number: int) -> int:
    """The largest up to a number, and at least 1: steady where a measurement is not quite."""
    return 1 << max(0, number.bit_length() - 1)


def bytes_at_once(device: torch.device) -> int:
    """What one pass should take of memory, for speed."""
    return BYTES_OF_A_PASS.get(device.type, BYTES_OF_A_PASS_ELSEWHERE)
