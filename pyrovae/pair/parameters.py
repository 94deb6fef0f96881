"""The parameters of a pair: those of its modules, and those that its programs make in Pyro's global store.

A pair runs inside `PairParameters.scope()`: there `pyro.param` and `pyro.module` meet this pair's parameters
and no others, and what they make is kept here instead of in the global store. Everything is an ordinary
parameter of an `nn.Module`, so devices, optimizers and files see one kind.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Self, cast

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params.param_store import StateDict
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.checks import level_of_caller
from pyrovae.pair.handlers import Constrained, ParameterMessage
from pyrovae.pair.keys import as_key, name_of
from pyrovae.pair.programs import Pair, Program
from pyrovae.pair.reachable import bound_modules, reachable_modules
from pyrovae.pair.saved_values import all_names, differences_between, each_once, named_tensors
from pyrovae.turn import TURN


class PairParameters(Pair, nn.Module):
    """A pair with all its parameters and buffers.

    Raises:
        ValueError: model and guide both name one PyroParam.

    """

    def __init__(self, model: Program, guide: Program) -> None:
        nn.Module.__init__(self)
        _refuse_shared_pyro_params(model, guide)
        Pair.__init__(self, model, guide)
        # Modules that functions and methods reach from outside: those whose methods they are at once,
        # the others as soon as their parameters pass through pyro.module.
        self.reached = nn.ModuleDict(bound_modules(model, guide))
        # Unconstrained parameters of pyro.param that no module holds.
        self.store = nn.ParameterDict()
        self._reachable = reachable_modules(model, guide)
        self._constraints: dict[str, constraints.Constraint] = {}
        self._of_modules: set[str] = set()
        self._loaded: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        """The modules, without the places for parameters of `pyro.param` and modules outside that hold none."""
        empty = ("  (reached): ModuleDict()", "  (store): ParameterDict()")
        return "\n".join(line for line in super().__repr__().splitlines() if line not in empty)

    def extra_repr(self) -> str:
        """The programs that are no modules, by their names."""
        programs = {"model": self.model, "guide": self.guide}
        names = (
            f"({which}): {getattr(program, '__qualname__', program)}"
            for which, program in programs.items()
            if not isinstance(program, nn.Module)
        )
        return "\n".join(names)

    @property
    def device(self) -> torch.device:
        """The device of the parameters (the CPU if there are none)."""
        tensor = next((t for t in (*self.parameters(), *self.buffers())), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Run programs inside: `pyro.param` and `pyro.module` meet this pair's parameters only.

        Tensors that a program makes, such as `torch.zeros(3)` or the 0 of `Normal(0.0, 1.0)`, are made where its
        parameters are. Other threads that would run programs wait until this one is outside again.
        """
        with TURN, self._scope():
            yield

    @contextmanager
    def _scope(self) -> Iterator[None]:
        state: StateDict = {
            "params": {name_of(name): parameter for name, parameter in self.store.items()},
            "constraints": dict(self._constraints),
        }
        outside = pyro.get_param_store().named_parameters()
        trained = {name: value for name, value in outside if as_key(name) not in self.store}
        given = _GiveValues(self._loaded, trained) if self._loaded or trained else None
        # On the CPU torch makes them by itself, unless told otherwise outside.
        here = nullcontext() if self.device.type == "cpu" else self.device
        with pyro.get_param_store().scope(state) as state, given or nullcontext(), here:
            yield
        self._adopt(state)
        if given is not None and given.taken:
            warnings.warn(
                f"{', '.join(map(repr, sorted(given.taken)))} start from the values that Pyro's global store holds "
                "under these names. If they are left from something else, call pyro.clear_param_store() first.",
                stacklevel=level_of_caller(),
            )

    def warn_of_untrained_modules(self) -> None:
        """Warn of modules that a plain function reaches and does not hand to `pyro.module`."""
        held = {id(p) for p in self.parameters()}
        idle = [
            n
            for n, m in self._reachable.items()
            if any(p.requires_grad and id(p) not in held for p in m.parameters())
        ]
        if idle and not isinstance(self.model, nn.Module):
            names = ", ".join(f"'{name.split('_', 1)[1]}'" for name in idle)
            warnings.warn(
                f"model or guide can reach the module {names} and does not hand it to pyro.module: it will not be "
                "trained or saved. Call pyro.module(name, module) there, or freeze it with requires_grad_(False).",
                stacklevel=level_of_caller(),
            )

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """A copy with parameters of its own."""
        self._refuse_held_modules()
        memo[id(self)] = twin = type(self).__new__(type(self))
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in self.__dict__.items()})
        return twin

    def __getstate__(self) -> dict[str, object]:
        """What is pickled, as torch.save and joblib do too."""
        self._refuse_held_modules()
        return dict(self.__dict__)

    def _refuse_held_modules(self) -> None:
        """Functions cannot be copied, and a pickle has their names alone: they hold on to their modules."""
        if any(name in self.reached for name in self._reachable):
            raise TypeError(
                "a VAE of plain functions cannot be copied: the functions would go on using the modules of this one. "
                "Build a second one and load() what this one saves."
            )

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and saved buffers by name, each tensor once."""
        return named_tensors(self)

    def differences(self, saved: Mapping[str, Tensor]) -> str:
        """In words, what keeps `take_values` from taking these; "" where it would."""
        own, _, unmade = self._places(saved)
        return differences_between(own, {n: t for n, t in saved.items() if n not in unmade})

    def take_values(self, saved: Mapping[str, Tensor]) -> str:
        """Copy saved tensors in and return ""; or change nothing and return what differs.

        Parameters that `pyro.param` has not made yet take their values when it does.
        """
        if differences := self.differences(saved):
            return differences
        own, reached, unmade = self._places(saved)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        self.reached.update(reached)
        self._loaded = {name_of(name.removeprefix("store.")): saved[name].clone() for name in unmade}
        return ""

    def _places(
        self, saved: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, nn.Module], set[str]]:
        """Where saved tensors go: own ones by name, modules that become own, and what `pyro.param` has yet to make."""
        reached = {
            n: m for n, m in self._reachable.items() if any(k.startswith(f"reached.{n}.") for k in saved)
        }
        named = all_names(self)
        for name, module in reached.items():
            named |= all_names(module, f"reached.{name}.")
        own = each_once(named, saved)
        unmade = {n for n in saved if n.startswith("store.") and n not in own} if not self._has_run else set()
        return own, reached, unmade

    def share_store(self, other: PairParameters) -> None:
        """Use the parameters that another pair's programs made in the store: for a pair of the same programs."""
        self.store, self.reached = other.store, other.reached
        self._reachable = {**self._reachable, **other._reachable}
        self._constraints, self._of_modules, self._loaded = (
            other._constraints,
            other._of_modules,
            other._loaded,
        )

    @property
    def _has_run(self) -> bool:
        return bool(self.store) or bool(self._of_modules)

    def _adopt(self, state: StateDict) -> None:
        """Take over what a run left in the scope: parameters of modules by their module, others here."""
        new = state["params"].keys() - self._of_modules - {name_of(name) for name in self.store}
        if not new:
            return
        for name, module in self._reachable.items():
            members = {id(parameter) for parameter in module.parameters()}
            if name not in self.reached and any(id(state["params"][n]) in members for n in new):
                self.reached[name] = module
        held = {id(parameter) for parameter in self.parameters()}
        for name in sorted(new):
            parameter = state["params"][name]
            if id(parameter) in held:
                self._of_modules.add(name)
                continue
            if not isinstance(parameter, nn.Parameter):
                parameter = nn.Parameter(parameter.detach())
            self.store[as_key(name)] = parameter
            self._constraints[name] = state["constraints"][name]
            self._loaded.pop(name, None)


class _GiveValues(Messenger):
    """Gives parameters that `pyro.param` makes for the first time the values of a loaded file.

    Else those that the user's own store holds, for a pair that was trained by plain Pyro. Parameters of
    modules are left alone there: they are their modules' own.
    """

    def __init__(self, loaded: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.loaded, self.trained = loaded, trained
        self.taken: set[str] = set()

    def _pyro_post_param(self, msg: ParameterMessage) -> None:
        name = msg["name"]
        unconstrained = msg["value"].unconstrained()
        value = self.loaded.get(name)
        if value is None and not isinstance(unconstrained, nn.Parameter):
            value = self.trained.get(name)
        if value is None or name in self.taken:
            return
        source = "the loaded file" if name in self.loaded else "Pyro's global store"
        if unconstrained.shape != value.shape:
            raise ValueError(
                f"{source} belongs to another architecture: parameter '{name}' has shape {list(value.shape)} there and "
                f"{list(unconstrained.shape)} here."
            )
        with torch.no_grad():
            unconstrained.copy_(value)
        if name not in self.loaded:
            self.taken.add(name)
        msg["value"] = cast("Constrained", pyro.get_param_store()[name])


def _refuse_shared_pyro_params(model: Program, guide: Program) -> None:
    if not (isinstance(model, PyroModule) and isinstance(guide, PyroModule)) or model is guide:
        return
    constrained = [
        {n: p for n, p in program.named_pyro_params() if _is_pyro_param(program, n)}
        for program in (model, guide)
    ]
    shared = [n for n in constrained[0] if n in constrained[1] and constrained[0][n] is not constrained[1][n]]
    if shared:
        raise ValueError(
            f"model and guide both have a PyroParam {', '.join(map(repr, shared))}. Pyro knows it by that name and "
            "would silently make the two one. Rename it in the model or in the guide."
        )


def _is_pyro_param(module: nn.Module, name: str) -> bool:
    *path, last = name.split(".")
    owner = module.get_submodule(".".join(path))
    return f"{last}_unconstrained" in owner._parameters
