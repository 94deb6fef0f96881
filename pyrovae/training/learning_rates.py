"""Learning rates of a training that goes on: those that its optimizer is given anew, in place of those saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyrovae.training.optimizers import Scheduler

# Rates that torch's schedulers keep: in the optimizer's groups, and in lists of their own.
_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")
_OF_SCHEDULERS = ("base_lrs", "max_lrs", "_last_lr")


def initial_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """What each group's learning rate was made as, whatever schedulers did since."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def scale_rates(
    optimizer: torch.optim.Optimizer, scheduler: Scheduler | None, rates: Sequence[float]
) -> None:
    """Make `rates` the learning rates that an optimizer was started with; a scheduler goes on in proportion.

    Raises:
        ValueError: it was started with 0, which has no proportion to another.

    """
    factors = []
    for number, (group, old, new) in enumerate(
        zip(optimizer.param_groups, initial_rates(optimizer), rates, strict=True)
    ):
        if old == 0 and new != 0:
            raise ValueError(
                f"resume='new rate': the optimizer's group {number} was started with the learning rate 0, so that "
                f"{new:g} is in no proportion to it. Free parameters by requires_grad_ instead."
            )
        factors.append(1.0 if old == 0 else new / old)
        for name in _OF_GROUPS:
            if name in group:
                group[name] = group[name] * factors[-1]
    if scheduler is not None:
        _scale_scheduler(scheduler, factors)


def _scale_scheduler(scheduler: object, factors: Sequence[float]) -> None:
    for name in _OF_SCHEDULERS:
        held = vars(scheduler).get(name)
        if isinstance(held, list):
            setattr(scheduler, name, [rate * factor for rate, factor in zip(held, factors, strict=True)])
    for part in vars(scheduler).get("_schedulers", ()):  # of a chain or a sequence of them
        _scale_scheduler(part, factors)
