"""What to do where a program could not look up labels: one-hot vectors and embeddings take whole numbers below K."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from pyrovae.data import Batch

# Of one-hot vectors, of embeddings, of compiled look-ups; and of tensors that are indexed, with the number.
_BEYOND = ("Class values must be", "index out of range in self", "index out of bounds: ")
_BEYOND_A_TENSOR = re.compile(r"index (-?\d+) is out of bounds")


@contextmanager
def labels_explained(which: str, batch: Batch) -> Iterator[None]:
    """Say which program, such as "the model", could not look up labels of these rows, and what to do."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if not (advice := label_advice(error, batch)):
            raise
        said = str(error).split("\n")[0].rstrip(".") + "."
        raise ValueError(f"{which} failed on some rows: {type(error).__name__}: {said}{advice}") from error


def label_advice(error: Exception, batch: Batch) -> str:
    """In words; "" where a failure is about something else."""
    text = str(error)
    if "index tensor of type LongTensor" in text or "'indices' to have one of" in text:
        return " Labels are whole numbers of 64 bits here: give them as y.long(), or let the program do so."
    if not isinstance(error, RuntimeError | IndexError):
        return ""
    labels = {
        f"context {place}": values
        for place, values in enumerate(batch.arguments)
        if place and isinstance(values, Tensor) and values.numel() and _is_whole(values)
    }
    if indexed := _BEYOND_A_TENSOR.search(text):
        # Programs index tensors by much else.
        labels = {name: y for name, y in labels.items() if bool((y.long() == int(indexed[1])).any())}
        if not labels:
            return ""
    elif not any(words in text for words in _BEYOND):
        return ""
    if absent := [name for name, y in labels.items() if bool(y.isnan().any())]:
        return (
            f" Of these rows {' and '.join(absent)} lack labels (NaN), which are no places to look up: a guide looks "
            "up y.nan_to_num().long(), and is told beside it which are there, ~y.isnan(); a model looks up what "
            "pyro.sample(..., obs=y, obs_mask=~y.isnan()) returns."
        )
    here = ", ".join(f"{name} goes from {int(y.min())} to {int(y.max())}" for name, y in labels.items())
    return " Labels go from 0 to K - 1, with K the number of classes or embeddings" + (
        f" ({here} in these rows)." if here else "."
    )


def _is_whole(values: Tensor) -> bool:
    """Whether they are whole numbers, those that are absent aside."""
    if not values.is_floating_point():
        return True
    known = values[~values.isnan()]
    return bool((known == known.round()).all())
