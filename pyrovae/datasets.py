"""torch Datasets as tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pyrovae.block_sizes import ROWS_AT_ONCE, slices


def stacked(dataset: Dataset[object]) -> tuple[Tensor, ...]:
    """All items of a torch Dataset in memory: of items (x, label), tensors (x, label) of N rows.

    Images and labels of a torchvision Dataset are taken apart by it; `fit` then needs no DataLoader, and what
    evaluates takes the tensors. Numbers and arrays become tensors, floating-point ones of torch's default dtype;
    tensors are taken as they are.

    Args:
        dataset: with a length, whose items are a tensor, array or number, or a tuple of these.

    Raises:
        TypeError: a Dataset without a length; items of anything else, such as PIL's images.
        ValueError: no items, or items of different shapes.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> import pyrovae as pv
        >>> x, label = pv.stacked(TensorDataset(torch.zeros(5, 1, 8, 8), torch.arange(5)))
        >>> x.shape, label
        (torch.Size([5, 1, 8, 8]), tensor([0, 1, 2, 3, 4]))

    """
    if not isinstance(dataset, Sized) or isinstance(dataset, DataLoader):
        raise TypeError(
            f"the data are a {type(dataset).__name__}: expected a Dataset with a length and items by place."
        )
    if len(dataset) == 0:
        raise ValueError("the data have no rows: the Dataset is empty.")
    whole: list[Tensor] = []
    for some in slices(len(dataset), ROWS_AT_ONCE):
        items = [dataset[place] for place in range(some.start, min(some.stop, len(dataset)))]
        parts = _columns_of_items(items)
        whole = whole or [part.new_empty((len(dataset), *part.shape[1:])) for part in parts]
        for filled, part in zip(whole, parts, strict=True):
            if part.shape[1:] != filled.shape[1:]:
                raise ValueError(
                    f"items have shapes {list(filled.shape[1:])} and {list(part.shape[1:])}: expected one."
                )
            filled[some] = part
    return tuple(whole)


def _columns_of_items(items: list[object]) -> list[Tensor]:
    with collated():
        batch = default_collate(items)
    parts = batch if isinstance(batch, list | tuple) else [batch]
    of_first = items[0] if isinstance(items[0], list | tuple) else [items[0]]
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"the items hold {', '.join(type(part).__name__ for part in of_first)}: expected tensors, arrays or "
            "numbers. Take these out of each item in a Dataset of your own."
        )
    default = torch.get_default_dtype()
    return [
        part.to(default) if part.is_floating_point() and not isinstance(given, Tensor) else part
        for part, given in zip(parts, of_first, strict=True)
    ]


@contextmanager
def collated() -> Iterator[None]:
    """Say of items that torch cannot put into a batch what to make of them.

    Raises:
        TypeError: what they are, and the remedy.
        ValueError: items of different shapes.

    """
    try:
        yield
    except TypeError as error:
        if "default_collate" not in str(error):
            raise
        raise TypeError(
            f"the items of the Dataset make no batch: {error}. Make tensors of them: images by the Dataset's "
            "transform=torchvision.transforms.ToTensor(), others by a DataLoader's collate_fn."
        ) from error
    except RuntimeError as error:
        if "stack expects each tensor to be equal size" not in str(error):
            raise
        raise ValueError(
            f"the items of the Dataset have different shapes, and make no batch: {error}."
        ) from error
