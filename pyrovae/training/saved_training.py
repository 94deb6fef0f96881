"""What the file of a training says, and how it is compared with the training that is to go on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

import torch
from torch import Tensor

from pyrovae.schema import MalformedError, check_like, checked, described, shown
from pyrovae.traced.traced import State
from pyrovae.vae import VAE

# Of an optimizer's group: they choose how steps are computed, and on which device.
HOW = ("foreach", "fused", "capturable")


class SavedTraining(TypedDict):
    """The state of a training."""

    weights: dict[str, Tensor]
    parameters: list[list[str]]
    """Their names, by group of the optimizer."""
    frozen: list[str]
    evaluating: list[str]
    """Parameters without gradients and modules in evaluation mode, by name."""
    optimizer: dict[str, object]
    scheduler: dict[str, object] | None
    scaler: dict[str, object] | None
    gradient_norms: tuple[int, Tensor]
    callbacks: list[dict[str, object]]
    epoch: int
    step: int
    batch_number: int
    totals: tuple[list[float], int]
    skipped: int
    stopped: bool
    seconds: float
    engine: State
    history: dict[str, list[float | None]]
    """By column; None where a row has no such number."""
    seed: int
    noises: list[Tensor]


class _OptimizerState(TypedDict):
    """What torch's optimizers give."""

    state: dict[int, dict[str, object]]
    param_groups: list[dict[str, object]]


def columns_of(history: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """A history by column."""
    names = dict.fromkeys(name for row in history for name in row)
    return {name: [row.get(name) for row in history] for name in names}


def rows_of(columns: Mapping[str, Sequence[float | None]]) -> list[dict[str, float]]:
    """The inverse of `columns_of`."""
    length = max(map(len, columns.values()), default=0)
    rows: list[dict[str, float]] = [{} for _ in range(length)]
    for name, column in columns.items():
        for row, number in zip(rows, column, strict=True):
            if number is not None:
                row[name] = number
    return rows


def parameter_names(vae: VAE, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """By the optimizer's groups."""
    names = {id(p): name for name, p in vae.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]


def check_counts(saved: SavedTraining) -> None:
    """Raise MalformedError where numbers contradict each other."""
    for name in ("epoch", "step", "batch_number", "skipped"):
        if saved[name] < 0:
            raise MalformedError(name, f"is {saved[name]}: expected at least 0")
    for name, column in saved["history"].items():
        if len(column) != saved["epoch"]:
            raise MalformedError(
                f"history.{shown(name)}", f"has {len(column)} rows for {saved['epoch']} finished epochs"
            )


def check_weights(vae: VAE, weights: Mapping[str, Tensor]) -> None:
    """Raise MalformedError where weights are not finite that are finite here; of the same names and shapes."""
    own = vae.tensors()
    for name, tensor in weights.items():
        if name in own and bool(own[name].isfinite().all()) and not bool(tensor.isfinite().all()):
            raise MalformedError(f"weights.{name}", "has entries that are NaN or infinite")


def check_optimizer(vae: VAE, optimizer: torch.optim.Optimizer, saved: SavedTraining) -> None:
    """Compare an optimizer's saved state with what it keeps itself: parameters by name, moments by shape and dtype.

    Torch takes any state, and steps that are computed in one kernel write beyond moments that are too small.

    Raises:
        MalformedError: parameters of other names or in another order, another setting that is no number, moments
            of other names, shapes or dtypes.

    """
    names = parameter_names(vae, optimizer)
    if saved["parameters"] != names:
        raise MalformedError("parameters", _first_difference(saved["parameters"], names))
    for key in ("state", "param_groups"):
        if key not in saved["optimizer"]:
            raise MalformedError(f"optimizer.{key}", "is missing")
    own = cast(_OptimizerState, optimizer.state_dict())
    groups = checked(saved["optimizer"]["param_groups"], list[dict[str, object]], "optimizer.param_groups")
    if len(groups) != len(own["param_groups"]):
        raise MalformedError(
            "optimizer.param_groups", f"are {len(groups)}: expected {len(own['param_groups'])}"
        )
    for place, (group, mine) in enumerate(zip(groups, own["param_groups"], strict=True)):
        _check_group(group, mine, f"optimizer.param_groups.{place}")
    states = saved["optimizer"]["state"]
    if not isinstance(states, dict):
        raise MalformedError("optimizer.state", f"is {described(states)}: expected a dict")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    flat, expected = [name for group in names for name in group], _tried_on_shapes(optimizer)
    for index, state in states.items():
        if type(index) is not int or not 0 <= index < len(flat):
            raise MalformedError("optimizer.state", f"has {described(index)}, which is no parameter's number")
        _check_moments(state, parameters[index], expected.get(index), f"optimizer.state.{flat[index]}")


def check_part(name: str, part: object, own: Mapping[str, object], saved: Mapping[str, object]) -> None:
    """Raise MalformedError unless a scheduler's or a scaler's saved state is of the kind of its own."""
    check_like(saved, own, name)
    for key in saved:
        if key not in own and hasattr(type(part), key):
            raise MalformedError(name, f"has {shown(key)}, which is no part of its state")


def _first_difference(saved: list[list[str]], own: list[list[str]]) -> str:
    there, here = ([name for group in names for name in group] for names in (saved, own))
    for place, (was, now) in enumerate(zip(there, here, strict=False)):
        if was != now:
            return f"has {shown(was)} in place {place} of the optimizer, where {shown(now)} is now"
    return f"has {len(there)} in {len(saved)} groups: expected {len(here)} in {len(own)}"


def _check_group(group: Mapping[str, object], own: Mapping[str, object], field: str) -> None:
    check_like(group, own, field)
    for name, mine in own.items():
        value = group[name]
        if name in HOW:
            continue  # which are given their own values
        if name == "params" or isinstance(mine, bool | str | None):
            if value != mine or type(value) is not type(mine):
                raise MalformedError(f"{field}.{name}", f"is {described(value)}: expected {shown(mine)}")
        elif isinstance(value, int | float) and not math.isfinite(value):
            raise MalformedError(f"{field}.{name}", f"is {value}: expected a finite number")


def _check_moments(
    state: object, parameter: Tensor, expected: Mapping[str, object] | None, field: str
) -> None:
    found = checked(state, dict[str, object], field)
    if expected is not None and found and found.keys() != expected.keys():
        raise MalformedError(field, f"has {shown(sorted(found))}: expected {shown(sorted(expected))}")
    for name, value in found.items():
        like = parameter if expected is None else expected[name]
        if not isinstance(value, Tensor):
            if expected is not None:
                check_like(value, like, f"{field}.{name}")
            continue
        single = value.dim() == 0 and (expected is None or isinstance(like, int | float | Tensor))
        if single and (not isinstance(like, Tensor) or like.dim() == 0 or expected is None):
            if not value.is_floating_point() or not bool(value.isfinite()):
                raise MalformedError(f"{field}.{name}", f"is {described(value)}: expected one finite number")
        elif not isinstance(like, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
            raise MalformedError(f"{field}.{name}", f"is {described(value)}: expected {described(like)}")


def _tried_on_shapes(optimizer: torch.optim.Optimizer) -> dict[int, Mapping[str, object]]:
    """The state that a step would leave, by the number of the parameter, of tensors without memory.

    Empty for parameters that an optimizer, such as one of the user's own, does not step without numbers.
    """
    twin = type(optimizer).__new__(type(optimizer))
    groups = []
    for group in optimizer.param_groups:
        shapes = [torch.nn.Parameter(torch.empty_like(p, device="meta")) for p in group["params"]]
        for shape in shapes:
            shape.grad = torch.empty_like(shape)
        groups.append({**group, "params": shapes, **{name: False for name in HOW if name in group}})
    try:
        twin.__setstate__({"defaults": dict(optimizer.defaults), "state": {}, "param_groups": groups})
        twin.state = type(optimizer.state)(dict)
        twin.step()
    except Exception:  # after its first lines at the latest, which make the state
        pass
    parameters = [p for group in groups for p in group["params"]]
    return {index: twin.state[p] for index, p in enumerate(parameters) if twin.state.get(p)}
