"""What became of a function that was to be traced, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How calls are computed, each kind faster than the one before."""

    PLAIN = "plain Pyro"
    TRACED = "traced"
    COMPILED = "traced and compiled"


@dataclass(frozen=True)
class Outcome:
    """How calls are computed, and why not faster.

    Args:
        plain_because: why nothing is traced; None where it is, or is to be.
        compiled: whether the traced operations are; None until the first trace decides.
        not_compiled_because: why not, where that was no choice.
        graphed: whether a GPU runs them as one CUDA graph.
        not_graphed_because: why not, where it was tried.

    Example:
        >>> outcome = Outcome(compiled=False, not_compiled_because="no compiler", graphed=True)
        >>> outcome.kind.name, str(outcome)
        ('TRACED', 'traced, in a CUDA graph (not compiled: no compiler)')

    """

    plain_because: str | None = None
    compiled: bool | None = None
    not_compiled_because: str | None = None
    graphed: bool = False
    not_graphed_because: str | None = None

    @property
    def kind(self) -> Kind:
        """Plain, traced or compiled."""
        if self.plain_because is not None:
            return Kind.PLAIN
        return Kind.COMPILED if self.compiled else Kind.TRACED

    def __str__(self) -> str:
        """All of it in words, as histories tell it."""
        if self.kind is Kind.PLAIN:
            return f"{self.kind.value} ({self.plain_because})"
        words = self.kind.value + (", in a CUDA graph" if self.graphed else "")
        reasons = {"not compiled": self.not_compiled_because, "no CUDA graph": self.not_graphed_because}
        notes = "; ".join(f"{what}: {why}" for what, why in reasons.items() if why is not None)
        return f"{words} ({notes})" if notes else words
