"""How a training proceeds: what of `fit`'s arguments its loop reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pyrovae.checks import check_count, check_seed, is_number

OnNonFinite: TypeAlias = Literal["stop", "skip"]
# From (x, *context) to a new x, or to all arguments anew.
Transform: TypeAlias = Callable[..., object]


@dataclass(frozen=True)
class Course:
    """Epochs, batches and steps of a training; `pyrovae.fit` says what each means.

    Raises:
        ValueError: a count below 1, a norm that is not positive, a seed that is no whole number, another choice.
        TypeError: a transform that is no function.

    """

    epochs: int = 100
    batch_size: int | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    schedule_steps: bool = False
    on_nonfinite: OnNonFinite = "stop"
    transform: Transform | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "batch_size": self.batch_size, "accumulate": self.accumulate}
        for name, count in counts.items():
            if count is not None:
                check_count(name, count)
        check_seed(self.seed)
        for name, number in {**counts, "seed": self.seed}.items():
            if number is not None:  # checkpoints keep them as JSON, which knows none of NumPy's
                object.__setattr__(self, name, int(number))
        if self.transform is not None and not callable(self.transform):
            raise TypeError(f"transform is {self.transform!r}: expected a function transform(x, *context).")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite is {self.on_nonfinite!r}: expected 'stop' or 'skip'.")
        if self.clip_norm is not None and not (is_number(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm is {self.clip_norm!r}: expected a norm above 0, or None.")
