"""Noise of each row's own: what a program draws for a row depends on the row's key, and not on the rows beside it.

Programs run on many rows at once, and a generator of random numbers gives each of them what comes next. Here every
draw of a statement is made of noise that comes from a row's key (`pyrovae.pair.row_keys`), a counter of the draws and
nothing else: a few numbers a row by a hash of key and place, many by a generator for each row, which is as fast as one
for all. What a program draws outside its sample statements, or in statements that do not stand in the row plate, is no
row's own and comes from torch's random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.pair.handlers import Message, subsampling
from pyrovae.pair.row_keys import GOLDEN, mixed, numbered
from pyrovae.random_state import set_seed

# Numbers of a row from which on a generator of its own is faster than hashing, on a CPU.
MANY = 256


def _made(keys: Tensor, outer: int, inner: int, dtype: torch.dtype, normal: bool) -> Tensor:
    """Standard normal or uniform numbers, [outer, B, inner]."""
    with torch._C.DisableTorchFunction():
        if keys.device.type == "cpu" and outer * inner > MANY:
            return _by_generators(keys, outer, inner, dtype, normal=normal)
        return _hashed(keys, outer, inner, dtype, normal=normal)


def _of_its_shape(keys: Tensor, outer: int, inner: int, dtype: torch.dtype, normal: bool) -> Tensor:
    return keys.new_empty((outer, len(keys), inner), dtype=dtype)


# An operation of torch's, so that traces can hold it.
_LIBRARY = torch.library.Library("pyrovae", "FRAGMENT")
_LIBRARY.define("noise_by_row(Tensor keys, int outer, int inner, ScalarType dtype, bool normal) -> Tensor")
_LIBRARY.impl("noise_by_row", _made, "CompositeExplicitAutograd")
torch.library.register_fake("pyrovae::noise_by_row", _of_its_shape, lib=_LIBRARY)
_noise = torch.ops.pyrovae.noise_by_row


def _by_generators(keys: Tensor, outer: int, inner: int, dtype: torch.dtype, *, normal: bool) -> Tensor:
    noise = torch.empty(outer, len(keys), inner, dtype=dtype)
    of_row = torch.empty(outer, inner, dtype=dtype)
    generator = torch.Generator()
    draw = of_row.normal_ if normal else of_row.uniform_
    for place, key in enumerate(keys.tolist()):
        generator.manual_seed(key)
        noise[:, place] = draw(generator=generator)
    return noise


def _hashed(keys: Tensor, outer: int, inner: int, dtype: torch.dtype, *, normal: bool) -> Tensor:
    count = outer * inner
    bits, exact = (24, torch.float32) if torch.finfo(dtype).bits <= 32 else (32, torch.float64)
    places = torch.arange((count + 1) // 2, device=keys.device)
    words = mixed(keys.unsqueeze(-1) + GOLDEN * places)
    halves = [((words >> shift) & (2**bits - 1)).to(exact) for shift in (32, 0)]
    if normal:  # Box and Muller
        radius = (-2 * ((halves[0] + 1) / 2**bits).log()).sqrt()
        angle = halves[1] * (2 * math.pi / 2**bits)
        halves = [radius * angle.cos(), radius * angle.sin()]
    else:
        halves = [half / 2**bits for half in halves]
    noise = torch.cat(halves, 1)[:, :count].to(dtype)
    return noise.reshape(len(keys), outer, inner).movedim(0, 1).contiguous()


def normal_noise(keys: Tensor, num_samples: int, size: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, [S, B, size].

    Example:
        >>> both = normal_noise(torch.tensor([1, 2]), 3, 4, torch.float32)
        >>> torch.equal(both[:, 1:], normal_noise(torch.tensor([2]), 3, 4, torch.float32))
        True

    """
    noise: Tensor = _noise(keys, num_samples, size, dtype, True)
    return noise


def uniform_noise(keys: Tensor, num_samples: int, size: int, dtype: torch.dtype) -> Tensor:
    """Uniform numbers from 0 to below 1, [S, B, size]."""
    noise: Tensor = _noise(keys, num_samples, size, dtype, False)
    return noise


class DrawnByRow(Messenger):
    """Every draw of a program in its row plate comes from noise of the row's own.

    Stands outside the plate of samples. One run after another inside draws on.

    Args:
        keys: of the rows, [B].

    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys, self.count = keys, 0

    def next_keys(self) -> Tensor:
        """For one operation that draws."""
        self.count += 1
        return numbered(self.keys, self.count)

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None or subsampling(msg):
            return
        batch = msg["fn"].batch_shape
        if batch and batch[-1] and batch[-1] % len(self.keys) == 0:
            with _Operations(self, batch):
                msg["value"] = cast("Callable[..., Tensor]", msg["fn"])(*msg["args"], **msg["kwargs"])
            msg["done"] = True


class _Operations(TorchDispatchMode):
    """Operations that draw, inside a statement whose batch has rows last, or rows repeated for each sample."""

    def __init__(self, source: DrawnByRow, batch: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source, self.batch = source, batch

    def __torch_dispatch__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run one operation; those that draw, from the rows' keys."""
        given = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **given)
        name = str(func).split(".")[1]
        drawn = _DRAWS[name](self, *args, **given) if name in _DRAWS else self.row_by_row(func, args, given)
        return func(*args, **given) if drawn is None else drawn

    def noise(self, shape: Sequence[int], dtype: torch.dtype | None, *, normal: bool) -> Tensor | None:
        """Of a shape that begins with the batch; None for others."""
        nb, B = len(self.batch), len(self.source.keys)
        if torch.Size(shape[:nb]) != self.batch:
            return None
        outer, inner = math.prod(self.batch) // B, math.prod(shape[nb:])
        floats = torch.get_default_dtype() if dtype is None else dtype
        noise: Tensor = _noise(self.source.next_keys(), outer, inner, floats, normal)
        return noise.reshape(tuple(shape))

    def row_by_row(
        self, func: Callable[..., Tensor], args: tuple[object, ...], given: dict[str, object]
    ) -> object:
        """Any other draw, for one row after the other, from torch's random state as its key sets it."""
        if not any(isinstance(arg, Tensor) and self._rows_of(arg) is not None for arg in args):
            return None
        keys, parts = self.source.next_keys(), []
        for place, key in enumerate(keys.tolist()):
            set_seed(key, keys.device)
            parts.append(func(*(self._of_row(arg, place) for arg in args), **given))
        if str(func).split(".")[1].endswith("_"):
            return args[0]
        nb = len(self.batch) - 1
        return torch.stack(parts, nb + 1).flatten(nb, nb + 1)

    def _rows_of(self, tensor: Tensor) -> Tensor | None:
        """With the last dimension of the batch taken apart, into samples and rows; None where it has no such batch."""
        nb, B = len(self.batch), len(self.source.keys)
        if tensor.shape[:nb] != self.batch:
            return None
        return tensor.unflatten(nb - 1, (self.batch[-1] // B, B))

    def _of_row(self, argument: object, place: int) -> object:
        rows = self._rows_of(argument) if isinstance(argument, Tensor) else None
        return argument if rows is None else rows.select(len(self.batch), place)


# Operations that draw, from uniform or standard normal noise; each gives None for shapes that have no rows.


def _normal(
    mode: _Operations,
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    size: Sequence[int] = (),
    **given: object,
) -> Tensor | None:
    tensors = [a for a in (mean, std) if isinstance(a, Tensor)]
    shape = torch.broadcast_shapes(*(a.shape for a in tensors)) if tensors else size
    dtype = tensors[0].dtype if tensors else given.get("dtype")
    assert dtype is None or isinstance(dtype, torch.dtype)
    noise = mode.noise(shape, dtype, normal=True)
    return None if noise is None else noise * std + mean


def _normal_(
    mode: _Operations, to: Tensor, mean: float = 0.0, std: float = 1.0, **_: object
) -> Tensor | None:
    noise = mode.noise(to.shape, to.dtype, normal=True)
    if noise is None:
        return None
    return to.copy_(noise if (mean, std) == (0, 1) else noise * std + mean)


def _uniform_(
    mode: _Operations, to: Tensor, low: float = 0.0, high: float = 1.0, **_: object
) -> Tensor | None:
    noise = mode.noise(to.shape, to.dtype, normal=False)
    return None if noise is None else to.copy_(low + (high - low) * noise)


def _exponential_(mode: _Operations, to: Tensor, rate: float = 1.0, **_: object) -> Tensor | None:
    noise = mode.noise(to.shape, to.dtype, normal=False)
    return None if noise is None else to.copy_(-(-noise).log1p() / rate)


def _bernoulli(mode: _Operations, probs: Tensor, *others: object, **_: object) -> Tensor | None:
    noise = None if others else mode.noise(probs.shape, probs.dtype, normal=False)
    return None if noise is None else (noise < probs).to(probs.dtype)


def _multinomial(
    mode: _Operations, weights: Tensor, count: int, replacement: bool = False, **_: object
) -> Tensor | None:
    """One place of each [*batch, n], which comes as [batch, n]."""
    if count != 1 or weights.dim() != 2 or len(weights) != math.prod(mode.batch):
        return None
    noise = mode.noise(mode.batch, weights.dtype, normal=False)
    assert noise is not None
    sums = weights.cumsum(1)
    places = (sums <= noise.reshape(-1, 1) * sums[:, -1:]).sum(1, keepdim=True)
    return places.clamp(max=weights.shape[1] - 1)


def _sized(normal: bool) -> Callable[..., Tensor | None]:
    def draw(
        mode: _Operations, size: Sequence[int], *, dtype: torch.dtype | None = None, **_: object
    ) -> Tensor | None:
        return mode.noise(size, dtype, normal=normal)

    return draw


def _like(normal: bool) -> Callable[..., Tensor | None]:
    def draw(
        mode: _Operations, like: Tensor, *, dtype: torch.dtype | None = None, **_: object
    ) -> Tensor | None:
        return mode.noise(like.shape, dtype or like.dtype, normal=normal)

    return draw


_DRAWS: dict[str, Callable[..., Tensor | None]] = {
    "normal": _normal,
    "normal_": _normal_,
    "uniform_": _uniform_,
    "exponential_": _exponential_,
    "bernoulli": _bernoulli,
    "multinomial": _multinomial,
    "randn": _sized(normal=True),
    "rand": _sized(normal=False),
    "randn_like": _like(normal=True),
    "rand_like": _like(normal=False),
}
