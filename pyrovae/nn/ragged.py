"""Sequences of different lengths, padded at their ends to one number of steps T."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


def step_mask(lengths: Tensor, num_steps: int) -> Tensor:
    """True at the real steps of each row: [..., T] for lengths [...].

    The lengths are looked at only while validation of distributions' arguments is on
    (`pyro.enable_validation`), for looking costs a synchronisation on a GPU.

    Raises:
        TypeError: lengths that are not whole numbers.
        ValueError: a length below 1 or beyond T, with its row.

    Example:
        >>> step_mask(torch.tensor([1, 3]), 3).int()
        tensor([[1, 0, 0],
                [1, 1, 1]], dtype=torch.int32)

    """
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths are {lengths.dtype}: expected whole numbers, e.g. lengths.long().")
    if Distribution._validate_args:
        _check_lengths(lengths, num_steps)
    return torch.arange(num_steps, device=lengths.device) < lengths.unsqueeze(-1)


def _check_lengths(lengths: Tensor, num_steps: int) -> None:
    bad = (lengths < 1) | (lengths > num_steps)
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0, -1]) if bad.dim() else 0
    raise ValueError(
        f"row {row} of the batch has length {int(lengths[bad][0])}: expected 1 to {num_steps}, the number of steps "
        "that the rows are padded to. Drop rows without a single step; pad the rows to the longest."
    )
