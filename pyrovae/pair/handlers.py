"""Pyro's handlers and the messages that they see: what stands between a program's statements and their effects."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias, TypedDict, cast

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import InferDict
from torch import Tensor
from torch.distributions import Distribution

Frame: TypeAlias = CondIndepStackFrame
"""A plate as a site stands in it: its name, dim, size and, where it is subsampled, its full size."""

Mask: TypeAlias = Tensor | bool | None


class Message(TypedDict):
    """A sample statement as Pyro hands it from handler to handler, and as its traces keep it.

    `value` is None before it is drawn.
    """

    type: str
    name: str
    fn: Distribution
    is_observed: bool
    value: Tensor | None
    mask: Mask
    scale: Tensor | float
    cond_indep_stack: tuple[Frame, ...]
    infer: InferDict
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    done: bool


class Constrained(Protocol):
    """A parameter's value, which knows the unconstrained tensor that it comes from."""

    def unconstrained(self) -> Tensor:
        """That tensor."""


class ParameterMessage(TypedDict):
    """A `pyro.param` statement as Pyro hands it from handler to handler."""

    name: str
    value: Constrained


class _Subsample(Protocol):
    """What draws the indices of a plate."""

    size: int
    subsample_size: int | None
    device: torch.device | None


def subsampling(message: Message) -> bool:
    """Whether it is a plate's draw of its indices, and no statement of the program."""
    return message["type"] == "sample" and type(message["fn"]).__name__ == "_Subsample"


class RowsAsGiven(Messenger):
    """A row plate has the rows at hand, in their order.

    A batch reaches the program already chosen, so the indices that `pyro.plate(..., subsample_size=)`
    would draw mean nothing; drawing them would only make results depend on how the plate is written. And a
    plate without a size, `pyro.plate("data")` as in some of Pyro's examples, gets that of the batch; its frame's
    `full_size` is None.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows

    def _pyro_sample(self, msg: Message) -> None:
        if subsampling(msg) and msg["value"] is None:
            drawn = cast("_Subsample", msg["fn"])
            size = drawn.size if drawn.subsample_size is None else drawn.subsample_size
            msg["value"] = torch.arange(size, device=drawn.device)
            msg["done"] = True
        msg["cond_indep_stack"] = tuple(
            frame._replace(size=self.num_rows, full_size=None)
            if frame.dim == -1 and frame.size == -1
            else frame
            for frame in msg["cond_indep_stack"]
        )


class UndeclaredEventError(Exception):
    """A site whose batch reaches beyond its plates; Pyro would add its shapes to a ValueError."""

    def __init__(self, name: str, batch: torch.Size, missing: int) -> None:
        super().__init__(name)
        self.name, self.batch, self.missing = name, batch, missing


class EventsDeclared(Messenger):
    """What a site's batch has beyond its plates is a row's own, and lacks a `.to_event`: refused where it is drawn.

    Pyro would say so once densities are computed; by then a network may have failed on the odd shape. `numbers` are
    the sites drawn so far of which a row has a single number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[str] = []

    def _pyro_post_sample(self, msg: Message) -> None:
        fn = msg["fn"]
        if subsampling(msg) or type(fn).__name__ == "Unit":
            return
        if not msg["is_observed"] and len(fn.batch_shape) == 1 and not fn.event_shape:
            self.numbers.append(msg["name"])
        within = max((-(frame.dim or 0) for frame in msg["cond_indep_stack"] if frame.vectorized), default=0)
        beyond = fn.batch_shape[: max(0, len(fn.batch_shape) - within)]
        if within and any(size > 1 for size in beyond):
            declared = getattr(fn, "reinterpreted_batch_ndims", 0)
            raise UndeclaredEventError(msg["name"], fn.batch_shape, declared + len(beyond))


class PlateIndices(Messenger):
    """A plate has these indices, whatever it would draw."""

    def __init__(self, plate: str, indices: Tensor) -> None:
        super().__init__()
        self.plate, self.indices = plate, indices

    def _pyro_sample(self, msg: Message) -> None:
        if subsampling(msg) and msg["name"] == self.plate and msg["value"] is None:
            msg["value"] = self.indices
            msg["done"] = True


class RowsCount(Messenger):
    """Rows of a batch count so many times beside the latents that all rows share, where their plate is not subsampled.

    Args:
        shared: statements of the latents above the rows.
        times: N/B.

    """

    def __init__(self, shared: Container[str], times: float) -> None:
        super().__init__()
        self.shared, self.times = shared, times

    def _pyro_sample(self, msg: Message) -> None:
        if subsampling(msg) or msg["name"] in self.shared:
            return
        plate = next((frame for frame in msg["cond_indep_stack"] if frame.dim == -1), None)
        if plate is not None and plate.full_size in (None, plate.size):
            msg["scale"] = msg["scale"] * self.times


class ChangedDraws(Messenger):
    """Every draw of a program, changed: what it is drawn from, before, and the value that goes on, after.

    Observations and the indices of plates stay as they are.

    Args:
        distribution: from a site's name and its distribution to the one that it is drawn from; None for the same.
        value: from a site's name, the distribution that it was drawn from and its value to the one that goes on;
            None for the same.

    """

    def __init__(
        self,
        *,
        distribution: Callable[[str, Distribution], Distribution] | None = None,
        value: Callable[[str, Distribution, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.distribution, self.value = distribution, value

    def _pyro_sample(self, msg: Message) -> None:
        if self.distribution is not None and not (msg["is_observed"] or subsampling(msg)):
            msg["fn"] = self.distribution(msg["name"], msg["fn"])

    def _pyro_post_sample(self, msg: Message) -> None:
        if self.value is not None and not (msg["is_observed"] or subsampling(msg)):
            assert msg["value"] is not None
            msg["value"] = self.value(msg["name"], msg["fn"], msg["value"])


def only_draws(names: Container[str]) -> AbstractContextManager[object]:
    """Hide all other draws of a program from the handlers outside; its plates stay."""

    def others(message: Message) -> bool:
        return message["type"] == "sample" and message["name"] not in names and not subsampling(message)

    hiding: AbstractContextManager[object] = poutine.block(hide_fn=cast("Callable[..., bool]", others))
    return hiding
