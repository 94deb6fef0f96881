"""The optimizer and the scheduler of a training, checked before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from pyrovae.training.steps import can_train
from pyrovae.vae import VAE

Scheduler: TypeAlias = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau
OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory: TypeAlias = Callable[[torch.optim.Optimizer], Scheduler]


def optimizer_of(vae: VAE, given: OptimizerFactory | torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """The optimizer given or made, over this VAE's parameters; Adam where there is none.

    Raises:
        ValueError: nothing to train; parameters of others; parameters that it lacks.
        TypeError: no optimizer, or one that evaluates a loss several times.

    """
    # Frozen ones too: a callback may free them, and without gradients they stay as they are.
    parameters = [p for p in vae.parameters() if can_train(p)]
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            "the VAE has no parameters to train: model and guide hold none that require gradients."
        )
    if given is None:
        return torch.optim.Adam(parameters, lr=1e-3, fused=_has_fused(parameters))
    if not (isinstance(given, torch.optim.Optimizer) or callable(given)):
        raise TypeError(
            f"optimizer is {given!r}: expected a torch optimizer, or a function of parameters that makes one."
        )
    made = given if isinstance(given, torch.optim.Optimizer) else given(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer gave {type(made).__name__}: expected a torch optimizer, e.g. "
            "optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)."
        )
    if isinstance(made, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates each loss several times: take an optimizer that steps once, such as Adam."
        )
    own = {id(p) for p in vae.parameters()}
    foreign = [p for group in made.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        raise ValueError(
            f"the optimizer holds {len(foreign)} parameters that are not this VAE's. Make it from vae.parameters(), "
            "or give a function of parameters, optimizer=lambda parameters: ..."
        )
    held = {id(p) for group in made.param_groups for p in group["params"]}
    lacking = [name for name, p in vae.store.items() if p.requires_grad and id(p) not in held]
    if lacking and given is made:
        raise ValueError(
            f"the optimizer lacks {', '.join(map(repr, lacking))}, which pyro.param made at the first batch. Make it "
            "after vae.rows(x), or give a function of parameters, optimizer=lambda parameters: ..."
        )
    return made


def _has_fused(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether torch has Adam in one kernel for these."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def scheduler_of(
    optimizer: torch.optim.Optimizer, given: SchedulerFactory | Scheduler | None, each_step: bool
) -> Scheduler | None:
    """The scheduler given or made, on this optimizer.

    Raises:
        ValueError: it is on another optimizer, watches epochs but is stepped by steps, or makes a rate negative.
        TypeError: no scheduler.

    """
    kinds = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if given is None:
        if each_step:
            raise ValueError("schedule_steps=True needs scheduler=, the scheduler that it steps.")
        return None
    if not (isinstance(given, kinds) or callable(given)):
        raise TypeError(
            f"scheduler is {given!r}: expected a torch scheduler, or a function of the optimizer that makes one."
        )
    made = given if isinstance(given, kinds) else given(optimizer)
    if not isinstance(made, kinds):
        raise TypeError(
            f"scheduler gave {type(made).__name__}: expected a torch scheduler, e.g. "
            "scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)."
        )
    if made.optimizer is not optimizer:
        raise ValueError("the scheduler is on another optimizer than the one given: make it from that one.")
    if each_step and isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "ReduceLROnPlateau watches the loss of epochs: leave schedule_steps=True out, or take another."
        )
    check_learning_rates(optimizer, 0)
    return made


def check_learning_rates(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raise where a scheduler has made a learning rate that climbs the loss, or NaN."""
    for group in optimizer.param_groups:
        if not group["lr"] >= 0:
            raise ValueError(
                f"the scheduler gives the learning rate {float(group['lr']):g} after step {step}: expected a number of "
                "at least 0."
            )
