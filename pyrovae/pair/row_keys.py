"""A key for each row, from which its draws come: the same whatever rows are beside it, and in whatever order.

A key is made of what a row holds (x and every tensor of context, bit for bit), of how many rows that hold the same came
before it, and of a seed. So equal rows draw independently of each other, and rows that differ have the same draws at
any place. `pyrovae.pair.row_noise` makes noise of keys. What lies beyond a sequence's length counts as what a row
holds, for nothing but a program's run tells padding from steps, and noise has a place for each number of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import slices
from pyrovae.checks import check_seed
from pyrovae.data import Batch, Rows
from pyrovae.random_state import drawn_seed, seeds_from

# SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
# Numbers of rows that are hashed together.
WORDS_AT_ONCE = 2**14


def mixed(numbers: Tensor) -> Tensor:
    """SplitMix64's mixing of whole numbers of 64 bits: from any that differ to some that look random."""
    z = numbers + GOLDEN
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _FACTORS[0]
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _FACTORS[1]
    return z ^ ((z >> 31) & (2**33 - 1))


def numbered(keys: Tensor, number: int) -> Tensor:
    """Other keys, for one of many things that each of these decides."""
    return mixed(keys + ((GOLDEN * number + 2**63) % 2**64 - 2**63))


@dataclass(frozen=True)
class Draws:
    """What one block of draws of B rows comes from: a key for each row, [B], and a seed for what is no row's own,
    another one for each block of rows.
    """

    keys: Tensor
    seed: int


class RowKeys:
    """Keys of N rows, for any number of blocks of draws.

    Args:
        data: the rows.
        seed: of all draws; None takes one from torch's random state.

    Raises:
        ValueError: `seed` is no whole number.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [1.0]])
        >>> keys, turned = (next(RowKeys(Rows(rows), 0).of(slice(None))).keys for rows in (x, x.flip(0)))
        >>> (keys == turned.flip(0)).tolist(), bool(keys[0] == turned[0])
        ([False, True, False], True)

    """

    def __init__(self, data: Rows, seed: int | None) -> None:
        check_seed(seed)
        self._seed = drawn_seed() if seed is None else int(seed)
        self._seeds = seeds_from(self._seed)
        hashes = torch.cat([_hashes(batch) for batch in _few_at_once(data)])
        self._rows = mixed(hashes + mixed(_number_among_equals(hashes)))

    def of(
        self, rows: slice | Tensor, device: torch.device | None = None, purpose: int = 0
    ) -> Iterator[Draws]:
        """For one block of draws after another of these rows; other draws for each purpose."""
        keys = numbered(self._rows[rows].to(device), purpose)
        for seed in seeds_from(self._seed):
            yield Draws(mixed(keys ^ seed), next(self._seeds))


def _few_at_once(data: Rows) -> Iterator[Batch]:
    numbers = sum(a.numel() for a in data.take(slice(0, 1)).tensors if a.dim() > 0)
    for some in slices(len(data), max(1, WORDS_AT_ONCE // max(1, numbers))):
        yield data.take(some)


def _hashes(batch: Batch) -> Tensor:
    """Of what each row holds, [B], on the CPU."""
    found = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
    for tensor in batch.tensors:
        if tensor.dim() == 0:
            continue
        words = _words(tensor.detach().reshape(len(batch), -1))
        places = mixed(torch.arange(words.shape[1], device=words.device)) | 1
        # The high bits come down first: those that numbers differ by are often high, and products carry up alone.
        words = words * places
        words = (words ^ ((words >> 32) & (2**32 - 1))) * _FACTORS[0]
        found = mixed(found) + (words ^ ((words >> 29) & (2**35 - 1))).sum(1)
    return found.cpu()


def _words(values: Tensor) -> Tensor:
    """Rows of numbers as whole numbers of 64 bits, of the same bits, or of as few as numbers have."""
    if values.is_complex():
        values = torch.view_as_real(values).flatten(1)
    if values.is_floating_point():
        values = values.where(~values.isnan(), torch.nan)  # whatever the bits of what is absent
        of_its_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
        values = values.contiguous().view(of_its_size)
    return values.long()


def _number_among_equals(values: Tensor) -> Tensor:
    """How many of the same value come before each, [N]."""
    ordered, place = values.sort(stable=True)
    count = torch.arange(len(values))
    begins = torch.ones(len(values), dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    number = torch.empty_like(count)
    number[place] = count - count.where(begins, 0).cummax(0).values
    return number
