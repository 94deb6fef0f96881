"""Where minibatches come from: rows at hand, gathered by index, or a torch DataLoader's.

Whatever the source, an epoch shows each row once. With several processes each takes its part of every batch,
so that together they take the same steps as one process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

from pyrovae.arrays import ARRAYS, OnDemand
from pyrovae.checks import said_of
from pyrovae.data import Batch, Rows, blocks
from pyrovae.datasets import collated
from pyrovae.pair.inspected import ROWS_TO_BUILD_FROM
from pyrovae.pair.observed import observations_of
from pyrovae.pair.programs import argument_names
from pyrovae.pair.support import check_support
from pyrovae.random_state import fixed_seed, same_random_state
from pyrovae.training.course import Transform
from pyrovae.training.described import without_addresses
from pyrovae.vae import VAE

DEFAULT_BATCH_SIZE = 128
_ROWS_IN_FINGERPRINT = 4096


@dataclass(frozen=True)
class Share:
    """Which part of each batch is this process's: every `of`-th row from `rank` on."""

    rank: int = 0
    of: int = 1


@dataclass(frozen=True)
class Minibatch:
    """What one step is taken on: this process's rows of it on the VAE's device, None where it has none.

    `places` are its rows' places in the data, if known; `num_rows` counts all processes' rows.
    """

    batch: Batch | None
    places: Tensor | None
    num_rows: int


class Batches(Protocol):
    """A source of minibatches."""

    batch_size: int
    transform: Transform | None

    @property
    def steps(self) -> int | None:
        """Batches an epoch; None if the source does not know."""

    def epoch(self, seed: int, first: int = 0) -> Iterator[Minibatch]:
        """An epoch's batches from number `first` on, in an order that `seed` decides."""

    def few(self, number: int) -> Batch:
        """The first rows, of these the first so many."""

    def fingerprint(self) -> str:
        """The same for the same data."""


def batches_of(
    vae: VAE, data: object, batch_size: int | None, transform: Transform | None, share: Share
) -> Batches:
    """The batches that `data` give, checked against the pair.

    Raises:
        ValueError, TypeError: data that do not fit the pair; an empty loader; a batch size beside a loader's.

    """
    if isinstance(data, DataLoader) and batch_size is not None:
        raise ValueError(
            f"batch_size is {batch_size}, but the data are a DataLoader, which makes its own batches: leave it out."
        )
    size = batch_size or DEFAULT_BATCH_SIZE
    source = as_source(data, size)
    if isinstance(source, DataLoader):
        return LoadedBatches(vae, source, transform, share)
    checked = checked_rows(vae, source, transform)
    return GatheredBatches(vae, checked, min(size, len(checked)), transform, share)


def as_source(data: object, batch_size: int) -> object:
    """A Dataset as the tensors that it holds, or as a DataLoader; other data as they are.

    Raises:
        ValueError: a Dataset without items.

    """
    if isinstance(data, TensorDataset):
        return data.tensors
    if not isinstance(data, Dataset):
        return data
    shuffled = not isinstance(data, IterableDataset)
    if shuffled and isinstance(data, Sized) and len(data) == 0:
        raise ValueError("the data have no rows: the Dataset is empty.")
    return DataLoader(data, batch_size=batch_size, shuffle=shuffled)


class GatheredBatches:
    """Minibatches of rows at hand: on the VAE's device if they are tensors, on disk if memory-mapped."""

    def __init__(
        self, vae: VAE, data: Rows, batch_size: int, transform: Transform | None, share: Share
    ) -> None:
        self.device, self.transform, self.share = vae.device, transform, share
        self.data, self.batch_size = data.to(vae.device), batch_size
        on_demand = any(isinstance(argument, OnDemand) for argument in data.arguments)
        self._looked_up_on = torch.device("cpu") if on_demand else vae.device

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.data) / self.batch_size)

    def epoch(self, seed: int, first: int = 0) -> Iterator[Minibatch]:
        """See `Batches`."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.data), generator=generator, device="cpu")
        # One copy to the device for the whole epoch.
        there = order.to(self._looked_up_on).split(self.batch_size)
        for places, index in list(zip(order.split(self.batch_size), there, strict=True))[first:]:
            yield self._minibatch(places, index)

    def draw(self) -> Minibatch:
        """A batch of rows drawn at random."""
        places = torch.randperm(len(self.data))[: self.batch_size]
        return self._minibatch(places, places.to(self._looked_up_on))

    def _minibatch(self, places: Tensor, index: Tensor) -> Minibatch:
        """The rows at `places`, which `index` has where they are looked up."""
        num_rows = len(places)
        if self.share.of > 1:
            own = slice(self.share.rank, None, self.share.of)
            places, index = places[own], index[own]
        if len(places) == 0:
            return Minibatch(None, places, num_rows)
        return Minibatch(transformed(self.data.take(index, self.device), self.transform), places, num_rows)

    def few(self, number: int) -> Batch:
        """See `Batches`."""
        return transformed(self.data.take(slice(0, number), self.device), self.transform)

    def fingerprint(self) -> str:
        """Of all rows, or of some thousand spread over them where there are more."""
        return _fingerprint(self.data)


class LoadedBatches:
    """Minibatches that a torch DataLoader makes: `x`, or `(x, *context)`, or a dict by the model's arguments."""

    def __init__(
        self, vae: VAE, loader: DataLoader[object], transform: Transform | None, share: Share
    ) -> None:
        if share.of > 1 and isinstance(loader.sampler, DistributedSampler):
            raise ValueError(
                "the DataLoader has a DistributedSampler: leave it out, for each process takes its share of each "
                "batch here."
            )
        self.vae, self.loader, self.transform, self.share = vae, loader, transform, share
        with collated():
            first = next(self._drawn(0), None)
        if first is None:
            raise ValueError(
                "the DataLoader gives no batches: its data set is empty, or smaller than one batch."
            )
        self._first = checked_rows(vae, first, transform)
        # A data set may be smaller than the loader's batches.
        self.batch_size = len(self._first)

    @property
    def steps(self) -> int | None:
        """Batches an epoch, where the loader knows."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def epoch(self, seed: int, first: int = 0) -> Iterator[Minibatch]:
        """See `Batches`. All that the loader draws from torch, in this process, comes from `seed`."""
        for number, loaded in enumerate(self._drawn(seed)):
            if number >= first:
                yield self._minibatch(loaded, number)

    def _drawn(self, seed: int) -> Iterator[object]:
        """What the loader gives, drawing from a stream of its own: the noise of training is left alone."""
        cpu = torch.device("cpu")
        generators = {id(g): g for g in map(_generator, (self.loader, self.loader.sampler)) if g is not None}
        with fixed_seed(seed, cpu):
            for generator in generators.values():
                generator.manual_seed(seed)
            iterator = iter(self.loader)
            loaded = next(iterator, None)
            state = torch.get_rng_state()
        while loaded is not None:
            yield loaded
            with same_random_state(cpu):
                torch.set_rng_state(state)
                loaded = next(iterator, None)
                state = torch.get_rng_state()

    def _minibatch(self, loaded: object, number: int) -> Minibatch:
        with said_of(f"batch {number} of the DataLoader"):
            whole = Rows(as_arguments(loaded, self.vae), self.vae.floats)
            own = torch.arange(len(whole))[self.share.rank :: self.share.of]
            if len(own) == 0:
                return Minibatch(None, None, len(whole))
            some = whole.take(own if self.share.of > 1 else slice(None), self.vae.device)
            self._check_signature(whole)
            batch = transformed(some, self.transform)
            self.vae.check_rows(batch)
            if batch.absent:
                self.vae.rows_in_support(Rows.of(batch, checked_by=self))
        return Minibatch(batch, None, len(whole))

    def _check_signature(self, rows: Rows) -> None:
        """Batches that lack an argument, such as those without labels among others that have them."""
        came, expected = len(rows.arguments), len(self._first.arguments)
        if came != expected:
            raise ValueError(
                f"got {came} data arguments, and {expected} in the first batch: all batches of a training have one "
                "signature. Where rows lack a label, give them any and say which are known, (x, label, known), and "
                "observe it in the model under poutine.mask(mask=known)."
            )

    def few(self, number: int) -> Batch:
        """See `Batches`."""
        return transformed(self._first.take(slice(0, number), self.vae.device), self.transform)

    def fingerprint(self) -> str:
        """Of the first batch in one order; the rest is not read for it."""
        return f"{_fingerprint(self._first)} of {self.steps} batches"


def _generator(drawing: object) -> torch.Generator | None:
    generator = getattr(drawing, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def _fingerprint(data: Rows) -> str:
    digest = hashlib.sha256(str(len(data)).encode())
    stride = math.ceil(len(data) / _ROWS_IN_FINGERPRINT)
    for argument in data.arguments:
        if not isinstance(argument, ARRAYS):
            digest.update(without_addresses(repr(argument)).encode())
            continue
        digest.update(f"{argument.dtype}{list(argument.shape)}".encode())
        for block in blocks(argument):
            first = -(-block.start // stride) * stride  # the first multiple in it
            some = argument[first : block.stop : stride].cpu().contiguous()
            digest.update(some.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{len(data)} rows, {digest.hexdigest()[:32]}"


def as_arguments(data: object, vae: VAE) -> tuple[object, ...]:
    """Data as the positional arguments of model and guide.

    Raises:
        ValueError: a dict whose keys are not the model's arguments.

    """
    if isinstance(data, Mapping):
        names = argument_names(vae.model)
        if set(data) != set(names):
            raise ValueError(
                f"the data are a dict of {sorted(map(str, data))}: expected the model's arguments, {', '.join(names)}. "
                "Rename them and leave out the others; items of a Dataset by a DataLoader's collate_fn. A model of one "
                "dict is wrapped in a function of its entries that makes the dict."
            )
        return tuple(data[name] for name in names)
    if isinstance(data, PackedSequence) or not isinstance(data, tuple | list):
        return (data,)
    return tuple(data)


def transformed(batch: Batch, transform: Transform | None) -> Batch:
    """What a transform makes of a batch: a new `x`, or all arguments anew.

    Raises:
        ValueError: it changes the number of rows.

    """
    if transform is None:
        return batch
    given = transform(*batch.arguments)
    made = Batch.of(given if isinstance(given, tuple) else (given, *batch.context))
    for place, argument in enumerate(made.arguments):
        if isinstance(argument, Tensor) and (argument.dim() == 0 or len(argument) != len(batch)):
            name = "x" if place == 0 else f"context {place}"
            shape = list(argument.shape)
            raise ValueError(
                f"transform made {name} of shape {shape} out of {len(batch)} rows: expected as many rows, for losses "
                "are means over rows. Repeat or drop rows in the data."
            )
    return made


def checked_rows(vae: VAE, data: object, transform: Transform | None = None) -> Rows:
    """Rows that fit the pair and lie in the likelihood's support, all of them, once transformed."""
    found = data if isinstance(data, Rows) else Rows(as_arguments(data, vae), vae.floats)
    if transform is None:
        vae.rows(found)
        vae.remember_columns(found)
        known = vae.rows_in_support(found)
        if known.absent:
            _refuse_sites_never_observed(vae, known)
        return known
    with fixed_seed(0, vae.device):
        few = found.take(found.places_to_try(ROWS_TO_BUILD_FROM), vae.device)
        vae.rows(*transformed(few, transform).arguments)
    vae.remember_columns(found)
    with fixed_seed(0, vae.device):
        for first, some in found.in_blocks(vae.device):
            batch = transformed(some, transform)  # outside the pair's scope, as in training
            with vae.evaluating():
                check_support(vae.model, batch, range(first, first + len(batch)), found.columns)
    return found


def _refuse_sites_never_observed(vae: VAE, data: Rows) -> None:
    never = set(vae.layout.observed)
    with vae.evaluating(), fixed_seed(0, vae.device):
        for _, batch in data.in_blocks(vae.device):
            found = observations_of(vae, batch)
            never -= {name for name in never if bool(found[name].counted.any())}
            if not never:
                return
    raise ValueError(
        f"no row has anything of {', '.join(repr(name) for name in sorted(never))}: there is nothing to train it on. "
        "Give rows that have it, or leave the site out of the model."
    )
