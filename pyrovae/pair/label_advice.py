"""What to do where a program could not look up labels: one-hot vectors and embeddings take whole numbers below K."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from pyrovae.data import Batch


@contextmanager
def labels_explained(where: str, batch: Batch) -> Iterator[None]:
    """Say where a program could not look up labels, and what to do."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if not (advice := label_advice(error, batch)):
            raise
        said = str(error).split("\n")[0]
        raise ValueError(f"the model failed on {where}: {type(error).__name__}: {said}{advice}") from error


def label_advice(error: Exception, batch: Batch) -> str:
    """In words; "" where a failure is about something else."""
    text = str(error)
    if "index tensor of type LongTensor" in text or "'indices' to have one of" in text:
        return " Labels are whole numbers of 64 bits here: give them as y.long(), or let the program do so."
    beyond = ("Class values must be", "index out of range in self")
    if not isinstance(error, RuntimeError | IndexError) or not any(words in text for words in beyond):
        return ""
    found = (
        f"context {place} goes from {int(values.min())} to {int(values.max())}"
        for place, values in enumerate(batch.arguments)
        if place and isinstance(values, Tensor) and values.numel() and not values.isnan().any()
        if not values.is_floating_point() or bool((values == values.round()).all())
    )
    here = ", ".join(found)
    return " Labels go from 0 to K - 1, with K the number of classes or embeddings" + (
        f" ({here} in these rows)." if here else "."
    )
