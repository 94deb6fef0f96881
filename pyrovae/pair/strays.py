"""Tensors that want gradients and get none: no module of the pair holds them, or what depends on them is detached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from pyrovae.checks import level_of_caller
from pyrovae.data import Batch
from pyrovae.pair.inspected import InspectedPair
from pyrovae.pair.reachable import modules_of, reachable_modules, variables_of
from pyrovae.pair.running import row_terms
from pyrovae.random_state import same_random_state

_DETACHING = (torch.detach, Tensor.detach, Tensor.detach_, vars(torch._C.TensorBase)["data"].__get__)


def warn_of_strays(pair: InspectedPair, batch: Batch) -> None:
    """Warn of tensors that want gradients and are not trained.

    Those on which the densities of these few rows depend and that no module of the pair holds: free ones, those of
    modules in lists. And parameters on which no density depends because what does is detached.
    """
    held = {id(p) for p in pair.parameters()}
    known = {id(p) for m in reachable_modules(pair.model, pair.guide).values() for p in m.parameters()}
    if not isinstance(pair.model, nn.Module):
        held |= known  # of which `InspectedPair` warns
    with same_random_state(pair.device), pair.evaluating(), torch.enable_grad(), _Detached() as detached:
        terms = row_terms(pair, batch, 1)
        total = terms.log_weights.sum() + terms.log_guide.sum() + terms.added_loss.sum()
        if terms.shared is not None:
            total = total + terms.shared.log_prior + terms.shared.log_guide
        leaves = _leaves(total)
    strays = [leaf for leaf in leaves if id(leaf) not in held]
    if strays:
        names = _names(pair)
        shown = [names.get(id(s), f"a tensor of shape {list(s.shape)}") for s in strays[:3]]
        more = f" and {len(strays) - 3} more" * (len(strays) > 3)
        warnings.warn(
            f"model or guide use {', '.join(shown)}{more}, which want gradients and are no parameters of theirs: they "
            "will not be trained, saved or moved to a device. Hold tensors as nn.Parameter and modules as attributes, "
            "several in nn.ModuleList or nn.ModuleDict; or freeze them with requires_grad_(False).",
            stacklevel=level_of_caller(),
        )
    reached = {id(leaf) for leaf in leaves}
    cut = {id(leaf) for tensor in detached.tensors for leaf in _leaves(tensor)} - reached
    names_cut = [name for name, parameter in pair.named_parameters() if id(parameter) in cut]
    if names_cut:
        more = f" and {len(names_cut) - 3} more" * (len(names_cut) > 3)
        warnings.warn(
            f"what depends on {', '.join(map(repr, names_cut[:3]))}{more} is detached, so that no density does: they "
            "will not be trained. If that is meant, freeze them with requires_grad_(False).",
            stacklevel=level_of_caller(),
        )


class _Detached(TorchFunctionMode):
    """Keeps the tensors that are detached from their graph inside."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func in _DETACHING and isinstance(args[0], Tensor):
            self.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


def _leaves(root: Tensor) -> list[Tensor]:
    """The tensors at which gradients of this one would end."""
    found: dict[int, Tensor] = {}
    seen: set[Node] = set()
    left = [] if root.grad_fn is None else [root.grad_fn]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and leaf.is_leaf:
            found[id(leaf)] = leaf
        left += [following for following, _ in node.next_functions if following is not None]
    return list(found.values())


def _names(pair: InspectedPair) -> dict[int, str]:
    """What modules hold beside their parameters, and those that functions reach by name."""
    found: dict[int, str] = {}
    for module in modules_of(pair.model, pair.guide):
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                where = ".".join(filter(None, (type(module).__name__, path, name)))
                if not name.startswith("_"):
                    _add(found, where, value)
            forward = type(part).forward
            if isinstance(forward, FunctionType):
                for name, value in variables_of(forward).items():
                    _add(found, name, value)
    for name, module in reachable_modules(pair.model, pair.guide).items():
        _add(found, name.split("_", 1)[1], module)
    return found


def _add(found: dict[int, str], name: str, value: object) -> None:
    if isinstance(value, Tensor):
        found[id(value)] = f"'{name}'"
    elif isinstance(value, nn.Module):
        for inner, parameter in value.named_parameters():
            found[id(parameter)] = f"'{name}.{inner}'"
    elif isinstance(value, list | tuple | dict):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(item, Tensor | nn.Module):
                _add(found, f"{name}[{key!r}]", item)
