"""Rows that are known by what they hold: which row of a table is this?

Evaluation hands a guide rows in blocks, in slices, a few first ones to inspect a pair, or repeated for many
samples. What a row holds stays the same in all of these, where its place does not. So a posterior that belongs
to certain rows finds them by content, x and every tensor of context bit for bit: it stays a function q(z|x, c)
like any other, and a row that it does not know is noticed instead of being given another row's posterior.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrovae.block_sizes import ROWS_OF_A_PASS
from pyrovae.data import Batch


class KnownRows(nn.Module):
    """The different rows among some data, U of them, in an order of its own.

    Rows are looked up by a hash of their bytes and then compared, so that the hash decides nothing but speed.
    A copy of the rows is kept, as a buffer, and so in every file of a VAE that holds it.

    Args:
        batch: N rows; what is no tensor has to stay the same.

    Attributes:
        first: where in the data each known row comes first, [U].
        place: which known row each row of the data is, [N].

    Example:
        >>> known = KnownRows(Batch((torch.tensor([[1.0], [2.0], [1.0]]),)))
        >>> len(known), bool((known.find(Batch((torch.tensor([[1.0], [1.0]]),))) == known.place[[0, 2]]).all())
        (2, True)

    """

    rows: Tensor
    keys: Tensor
    factors: Tensor

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.others = tuple(a for a in batch.arguments if not isinstance(a, Tensor))
        data = _bytes_of(batch)
        generator = torch.Generator().manual_seed(0)
        while True:  # until no two different rows have one key: hardly ever more than once
            factors = torch.randint(2**62, data.shape[1:], generator=generator, device="cpu").to(data.device)
            keys, place = _keys(data, factors).unique(return_inverse=True)
            count = torch.arange(len(data), device=data.device)
            first = torch.full_like(keys, len(data)).scatter_reduce(0, place, count, "amin")
            if torch.equal(data[first][place], data):
                break
        self._hold(factors, keys, data[first])
        self.first, self.place = first, place

    def _hold(self, factors: Tensor, keys: Tensor, rows: Tensor) -> None:
        self.register_buffer("factors", factors)
        self.register_buffer("keys", keys)
        self.register_buffer("rows", rows)

    def __len__(self) -> int:
        """U."""
        return len(self.keys)

    def parts(self, size: int) -> Iterator[KnownRows]:
        """These rows in parts of at most `size`, each in the same order."""
        for first, keys, rows in zip(
            self.first.split(size), self.keys.split(size), self.rows.split(size), strict=True
        ):
            part = KnownRows.__new__(KnownRows)
            nn.Module.__init__(part)
            part._hold(self.factors, keys, rows)
            part.others, part.first, part.place = self.others, first, torch.arange(len(first))
            yield part

    def find(self, batch: Batch) -> Tensor:
        """Which known row each row of `(x, *context)` is, [B].

        Raises:
            ValueError: a row that is not known (says which), or another value where there is no tensor.

        """
        others = tuple(a for a in batch.arguments if not isinstance(a, Tensor))
        if len(others) != len(self.others) or any(
            given is not known and given != known for given, known in zip(others, self.others, strict=True)
        ):
            raise ValueError(
                f"these rows come with {others}: their posteriors were refined with {self.others}. Give the same, "
                "or refine the rows anew."
            )
        data = _bytes_of(batch)
        if data.shape[1:] != self.rows.shape[1:]:
            raise ValueError(
                f"a row of these data takes {data.shape[1]} bytes: the rows that this posterior was refined for take "
                f"{self.rows.shape[1]}. Give x and context of the same shapes and dtypes."
            )
        place = torch.searchsorted(self.keys, _keys(data, self.factors)).clamp(max=len(self) - 1)
        unknown = (self.rows[place] != data).any(1)
        if bool(unknown.any()):
            raise ValueError(
                f"row {int(unknown.nonzero()[0, 0])} of these {len(data)} is none of the {len(self)} different rows "
                f"that this posterior was refined for ({int(unknown.sum())} such rows in all). It belongs to those "
                "rows alone, context included, bit for bit: refine the others too, or use the VAE that was refined."
            )
        return place


def _bytes_of(batch: Batch) -> Tensor:
    """Each row's content, [B, bytes]."""
    tensors = [tensor.detach() for tensor in batch.tensors]
    # A view of another size of number needs a last dimension.
    flat = [t.reshape(len(t), t[0].numel()).contiguous() for t in tensors]
    return torch.cat([t.view(torch.uint8) for t in flat], 1)


def _keys(data: Tensor, factors: Tensor) -> Tensor:
    """A random linear hash modulo 2^64, [B]."""
    parts = [(some.long() * factors).sum(1) for some in data.split(ROWS_OF_A_PASS)]
    return torch.cat(parts)
