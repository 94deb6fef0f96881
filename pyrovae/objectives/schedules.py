"""Schedules: how a coefficient of an objective changes while training goes on.

A schedule is a callable of the optimizer steps taken so far and of the epochs passed so far (a fraction; None
where nobody counts epochs), which gives the coefficient of the step about to be taken. Any function
`f(step, epoch)` is one.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor


class Schedule(Protocol):
    """A coefficient by the time of training: any callable like this one, at least 0 at every step.

    Example:
        >>> def late(step: int, epoch: float | None) -> float:
        ...     return 0.0 if step < 1000 else 1.0
        >>> import pyrovae as pv
        >>> objective = pv.objectives.ELBO(beta=late)
        >>> objective.advance(step=1000, epoch=None)
        >>> objective.coefficients
        (tensor(1., dtype=torch.float64),)

    """

    def __call__(self, step: int, epoch: float | None) -> float:
        """The coefficient for the step about to be taken: `step` steps and `epoch` epochs are behind it."""


Coefficient: TypeAlias = float | Schedule


@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Args:
        value: at least 0.

    Raises:
        ValueError: a negative or NaN value.

    Example:
        >>> Constant(4.0)(step=100, epoch=None)
        4.0

    """

    value: float

    def __post_init__(self) -> None:
        check_coefficient("value", self.value)

    def __call__(self, step: int, epoch: float | None) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True)
class LinearWarmUp:
    """From `start` to `end` in equal steps, then `end`: start + (end - start) min(1, t / T).

    Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio, "Generating Sentences from a Continuous Space" (2016),
    https://arxiv.org/abs/1511.06349; Sønderby, Raiko, Maaløe, Sønderby, Winther, "Ladder Variational
    Autoencoders" (2016), https://arxiv.org/abs/1602.02282.

    Args:
        steps: T in optimizer steps; give this or `epochs`.
        epochs: T in epochs, inside `pyrovae.fit` only.
        start: at t = 0.
        end: from t = T on.

    Raises:
        ValueError: both or neither of `steps` and `epochs`, or one that is not above 0; a schedule that is
            below 0 anywhere. At a call, epochs where nobody counts them.

    Example:
        >>> warm_up = LinearWarmUp(steps=1000)
        >>> warm_up(0, None), warm_up(250, None), warm_up(5000, None)
        (0.0, 0.25, 1.0)

    """

    _: KW_ONLY
    steps: int | None = None
    epochs: float | None = None
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_duration(self, self.steps, self.epochs)
        check_coefficient("start", self.start)
        check_coefficient("end", self.end)

    def __call__(self, step: int, epoch: float | None) -> float:
        """The coefficient."""
        share = min(1.0, _elapsed(self, self.steps, self.epochs, step, epoch))
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Cyclical:
    """Several warm-ups, one after another: each cycle rises from `start` to `end`, then stays there.

    With tau = (t mod T/M) / (T/M) in M cycles over T it is start + (end - start) min(1, tau / R), and `end`
    from T on. Fu, Li, Liu, Gao, Celikyilmaz, Carin, "Cyclical Annealing Schedule: A Simple Approach to
    Mitigating KL Vanishing" (2019), https://arxiv.org/abs/1903.10145; M = 4 and R = 0.5 there.

    Args:
        steps: T in optimizer steps; give this or `epochs`.
        epochs: T in epochs, inside `pyrovae.fit` only.
        num_cycles: M.
        rising: R, the share of each cycle that rises, in (0, 1].
        start: of each cycle.
        end: of each cycle, and from T on.

    Raises:
        ValueError: as `LinearWarmUp`; `num_cycles` below 1, `rising` outside (0, 1].

    Example:
        >>> cyclical = Cyclical(steps=400)
        >>> [cyclical(step, None) for step in (0, 25, 75, 100, 400)]
        [0.0, 0.5, 1.0, 0.0, 1.0]

    """

    _: KW_ONLY
    steps: int | None = None
    epochs: float | None = None
    num_cycles: int = 4
    rising: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_duration(self, self.steps, self.epochs)
        check_coefficient("start", self.start)
        check_coefficient("end", self.end)
        if self.num_cycles < 1:
            raise ValueError(f"num_cycles is {self.num_cycles}: expected at least 1.")
        if not 0 < self.rising <= 1:
            raise ValueError(f"rising is {self.rising}: expected a share in (0, 1].")

    def __call__(self, step: int, epoch: float | None) -> float:
        """The coefficient."""
        passed = _elapsed(self, self.steps, self.epochs, step, epoch)
        if passed >= 1:
            return self.end
        share = min(1.0, (passed * self.num_cycles) % 1.0 / self.rising)
        return self.start + (self.end - self.start) * share


class Scheduled:
    """A coefficient as a tensor of no dimensions that `advance` changes in place.

    In place, for a traced step reads the tensor: a new value needs no new trace.
    """

    def __init__(self, name: str, coefficient: Coefficient) -> None:
        self.name = name
        if not callable(coefficient):
            check_coefficient(name, coefficient)
            coefficient = Constant(float(coefficient))
        self.schedule: Schedule = coefficient
        self.tensor: Tensor = torch.tensor(self._value(0, 0.0), dtype=torch.float64)

    def advance(self, step: int, epoch: float | None) -> None:
        """Set the tensor for the step about to be taken."""
        self.tensor.fill_(self._value(step, epoch))

    def to(self, device: torch.device) -> None:
        """Keep the tensor on a device, once for a training: it is another tensor then."""
        self.tensor = self.tensor.to(device, torch.float32 if device.type == "mps" else torch.float64)

    def _value(self, step: int, epoch: float | None) -> float:
        value = self.schedule(step, epoch)
        if not (isinstance(value, float | int) and 0 <= value < math.inf):
            raise ValueError(
                f"the schedule of {self.name} gives {value!r} at step {step}: expected a number of at least 0."
            )
        return float(value)


def check_coefficient(name: str, value: object) -> None:
    """Raise unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise TypeError(
            f"{name} is {value!r}: expected a number of at least 0, or a schedule where one is taken."
        )
    if not 0 <= value < math.inf:  # NaN too
        raise ValueError(f"{name} is {value}: expected a finite number of at least 0.")


def _check_duration(schedule: object, steps: float | None, epochs: float | None) -> None:
    name = type(schedule).__name__
    if (steps is None) == (epochs is None):
        raise ValueError(f"{name} got steps={steps} and epochs={epochs}: give one of the two.")
    given = epochs if steps is None else steps
    assert given is not None
    if not 0 < given < math.inf:
        raise ValueError(f"{name} over {given}: expected a number of steps or epochs above 0.")


def _elapsed(
    schedule: object, steps: float | None, epochs: float | None, step: int, epoch: float | None
) -> float:
    """The share of the schedule's duration that has passed."""
    if steps is not None:
        return step / steps
    assert epochs is not None
    if epoch is None:
        raise ValueError(
            f"{schedule} counts epochs, and pyro.infer.SVI knows none: give it in steps, "
            f"{type(schedule).__name__}(steps=...), or train with pyrovae.fit."
        )
    return epoch / epochs
