"""How much memory a run of a pair takes, measured on a few rows; and runs cut so as to fit.

What a program holds at once (activations, their gradients, temporaries of a density) grows with the number
of draws it scores together. `Footprint` measures by how much, and `Pieces` cuts work accordingly.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyrovae.block_sizes import ROWS_AT_ONCE, bytes_at_once, power_of_two, slices
from pyrovae.traced.compilation import Compile

# Few samples, and more.
PROBE_SAMPLES = (4, 16)


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are alive at once: `peak` is the most there were.

    Example:
        >>> with PeakMemory() as memory:
        ...     for _ in range(10):
        ...         y = torch.zeros(1000) + 1.0
        >>> memory.peak
        12000

    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run one operation and count what it made."""
        for leaf in tree_leaves((args, kwargs)):
            self._hold(leaf, given=True)
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            self._hold(leaf, given=False)
        self.peak = max(self.peak, self.now)
        return made

    def _hold(self, value: object, *, given: bool) -> None:
        """Note a tensor's storage: what an operation is given and none made was there before, a parameter say."""
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = 0 if given else storage.nbytes()
            self.now += self.alive[key]
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key)


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run holds at once for each row and, beside them, for each draw of each row."""

    by_row: int
    by_draw: int

    @staticmethod
    def of(run: Callable[[int], object], num_rows: int) -> Footprint:
        """Measure `run(num_samples)` on some rows, once with few samples and once with more.

        What a run takes whatever the rows counts as theirs, so that a footprint errs on the large side.
        """
        peaks = []
        for num_samples in PROBE_SAMPLES:
            with PeakMemory() as memory:
                run(num_samples)
            peaks.append(memory.peak)
        few, more = PROBE_SAMPLES
        by_draw = max(1, math.ceil((peaks[1] - peaks[0]) / ((more - few) * num_rows)))
        return Footprint(max(0, math.ceil(peaks[0] / num_rows) - few * by_draw), by_draw)

    def of_run(self, num_rows: int, num_samples: int) -> int:
        """Bytes that such a run takes."""
        return num_rows * (self.by_row + num_samples * self.by_draw)


@dataclass(frozen=True)
class Pieces:
    """How S samples of B rows are cut into pieces that are scored at once: `rows` by `samples`."""

    rows: int
    samples: int

    def __call__(self, num_samples: int, num_rows: int) -> Iterator[tuple[slice, slice]]:
        """Slices of samples and rows that together are all of them."""
        for rows in slices(num_rows, self.rows):
            for samples in slices(num_samples, self.samples):
                yield samples, rows


@dataclass(frozen=True)
class Limits:
    """How densities may be computed; never changes a figure but for rounding.

    At most `batch_size` rows and `chunk_size` samples are scored at once, and never more than memory holds. All of them
    are so many times, `repeats`, at one draw of shared latents after the other.
    """

    memory: int
    batch_size: int | None = None
    chunk_size: int | None = None
    compile: Compile = "auto"
    repeats: int = 1

    def calls(self, draws: int, at_once: int) -> int:
        """How many calls so many draws take in all."""
        each = draws // at_once
        return each if self.repeats == 1 else self.repeats * max(1, each)

    def pieces(self, footprint: Footprint, taken: int, num_rows: int, device: torch.device) -> Pieces:
        """How to cut a block of rows whose draws have taken some bytes already.

        Raises:
            ValueError: too little is left to score a single draw.

        """
        taken += footprint.by_row * num_rows
        fitting = (self.memory - taken) // footprint.by_draw
        if fitting < 1:
            raise ValueError(
                f"memory_budget is {self.memory} bytes: the draws of one block of rows, whose size decides the "
                f"figures, and scoring them one by one take about {taken + footprint.by_draw}. Allow at least that."
            )
        wanted = min(fitting, max(1, bytes_at_once(device) // footprint.by_draw))
        rows = min(self.batch_size or wanted, ROWS_AT_ONCE, fitting)
        samples = min(self.chunk_size or power_of_two(wanted // rows), fitting // rows)
        return Pieces(rows, samples)

    def check_whole(self, num_rows: int, num_samples: int) -> None:
        """Raise where draws of the prior, which are scored as they are drawn, would exceed what may be at once."""
        for name, given, taken in (
            ("batch_size", self.batch_size, num_rows),
            ("chunk_size", self.chunk_size, num_samples),
        ):
            if given is not None and given < taken:
                raise ValueError(
                    f"{name} is {given}: draws of the prior are scored as they are drawn, {num_samples} samples of "
                    f"{num_rows} rows at once, and the figures depend on it. Leave {name} out here."
                )
