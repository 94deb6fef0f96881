"""Several processes that train one VAE together, on lightning-fabric.

Each process takes its part of every batch, and their gradients are added up before each step. Where each row's
loss is its own, the steps are those of one process on whole batches: `batch_size` and learning rates mean the same
on any number of devices. Objectives whose rows' losses depend on each other, such as free bits, are refused.
Modules that look at whole batches see a process's part alone: batch normalization normalizes by it, and all take
the first one's running statistics after each epoch.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyrovae.training.batches import Minibatch, Share

T = TypeVar("T", int, float)
_SHOWN = 300


class Processes:
    """One process among those that train together.

    Args:
        devices: processes on this machine.
        num_nodes: machines.
        strategy: how lightning-fabric starts them: "ddp" or another of its data-parallel strategies.
        device: where they compute; several take one each of its kind.
        timeout: seconds that each waits for the others, once all have started; None leaves torch's own, half an hour
            on CPUs.

    Raises:
        ValueError: a strategy that splits the model itself; a timeout for one process.
        ImportError: lightning-fabric is missing.

    """

    def __init__(
        self,
        devices: int,
        num_nodes: int,
        strategy: str,
        device: torch.device,
        timeout: float | None = None,
    ) -> None:
        self.fabric: Any = None
        self.device, self.share = device, Share()
        self._flags: dict[tuple[bool, ...], Tensor] = {}
        if devices == 1 and num_nodes == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            if strategy != "auto":
                raise ValueError(
                    f"strategy is {strategy!r}, but there is one process: give devices=2 or more."
                )
            if timeout is not None:
                raise ValueError(
                    f"timeout is {timeout}, but there is one process, which waits for no other: leave it out."
                )
            return
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies.ddp import DDPStrategy
        except ImportError as error:
            raise ImportError(
                'several processes need lightning-fabric: pip install "pyrovae[processes]".'
            ) from error
        devices, num_nodes = _started_by_torchrun(devices, num_nodes) or (devices, num_nodes)
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if strategy == "auto" else strategy,
        )
        if not isinstance(fabric.strategy, DDPStrategy):
            raise ValueError(
                f"strategy is {strategy!r}: each process needs the whole model here. Use 'ddp' or a variant of it."
            )
        try:
            fabric.launch()
        except TypeError as error:  # it wants a function for strategies that fork or spawn
            raise ValueError(
                f"strategy is {strategy!r}: processes run the whole script here. Use 'ddp', or torchrun."
            ) from error
        if timeout is not None:
            torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout))
        self.fabric, self.device = fabric, fabric.device
        self.share = Share(fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.share.rank == 0

    def same(self, number: T) -> T:
        """The first process's number, for all."""
        if self.fabric is None:
            return number
        with self._answered():
            shared: T = self.fabric.broadcast(number)
        return shared

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Each process's tensor, in all; of one shape."""
        if self.fabric is None:
            return [tensor]
        own = tensor.to(self.fabric.device)
        found = [torch.empty_like(own) for _ in range(self.share.of)]
        with self._answered():
            torch.distributed.all_gather(found, own)
        return [t.cpu() for t in found]

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        return any(bool(found) for found in self.gather(torch.tensor([int(flag)])))

    def agree(self, facts: Mapping[str, object]) -> None:
        """Compare what each was given, before any waits for what another will not do.

        Raises:
            ValueError: it is not the same in all; says what differs, by process.

        """
        if self.fabric is None:
            return
        own = json.dumps({name: str(value) for name, value in facts.items()}).encode()
        longest = max(int(size) for size in self.gather(torch.tensor([len(own)])))
        texts = self.gather(torch.tensor(list(own.ljust(longest))))
        given = [json.loads(bytes(text.tolist())) for text in texts]
        for name in facts:
            found = [facts_there[name] for facts_there in given]
            if len(set(found)) > 1:
                shown = "; ".join(f"process {rank} {_short(text, found)}" for rank, text in enumerate(found))
                raise ValueError(
                    f"the processes that shall train together were given different things. {name}: {shown}. Each runs "
                    "the whole script: what it draws at random before fit, such as a split into training and "
                    "validation rows, needs a seed, the same in all."
                )

    def in_step(self, batches: Iterator[Minibatch]) -> Iterator[Minibatch]:
        """Batches of a source that each process reads for itself, for as long as all have one of the same size.

        Raises:
            ValueError: one has none left, or one of another size.

        """
        if self.fabric is None:
            yield from batches
            return
        number = 0
        while True:
            batch = next(batches, None)
            sizes = [
                int(size) for size in self.gather(torch.tensor([0 if batch is None else batch.num_rows]))
            ]
            if len(set(sizes)) > 1:
                raise ValueError(
                    f"batch {number} of the DataLoader has {', '.join(map(str, sizes))} rows by process: expected the "
                    "same batches in all, of each of which a process takes its share. Leave out samplers and data "
                    "sets that give each process rows of its own."
                )
            if batch is None:
                return
            yield batch
            number += 1

    @torch.no_grad()
    def alike(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        with self._answered():
            for parameter in module.parameters() if self.fabric is not None else ():
                torch.distributed.broadcast(parameter.detach(), src=0)
        self.alike_buffers(module)

    @torch.no_grad()
    def alike_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, such as running statistics of its share of the rows."""
        with self._answered():
            for buffer in module.buffers() if self.fabric is not None else ():
                torch.distributed.broadcast(buffer, src=0)

    @torch.no_grad()
    def add_up(
        self, statistics: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Sums over the processes, in one exchange."""
        if self.fabric is None:
            return statistics, list(gradients)
        given = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        # The same in a process that has no rows of this batch.
        dtype = functools.reduce(torch.promote_types, {p.dtype for p in parameters}, torch.float32)
        there = self._as_flags(tuple(g is not None for g in gradients), dtype, statistics.device)
        flat = torch.cat([t.reshape(-1).to(dtype) for t in (statistics, there, *given)])
        with self._answered():
            torch.distributed.all_reduce(flat)
        summed, counts, *parts = flat.split([len(statistics), len(there), *(g.numel() for g in given)])
        added = [part.view_as(g).to(g.dtype) for part, g in zip(parts, given, strict=True)]
        if not any(g is None for g in gradients):
            return summed, list(added)
        # What no process has a gradient of must not be stepped: a weight decay would move it.
        return summed, [g if count else None for g, count in zip(added, counts.tolist(), strict=True)]

    def _as_flags(self, flags: tuple[bool, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        if flags not in self._flags:
            self._flags[flags] = torch.tensor(flags, dtype=dtype, device=device)
        return self._flags[flags]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.fabric is not None:
            with self._answered():
                self.fabric.barrier()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Say it in words where others do not answer."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.share.rank} of {self.share.of} (counted from 0) has lost another one: it ended, or did "
                "not answer for as long as fit(..., timeout=) says. Why stands in that one's own output. What was "
                "trained up to the last checkpoint= is there, and all go on from it with resume=True."
            ) from error


def _started_by_torchrun(devices: int, num_nodes: int) -> tuple[int, int] | None:
    """How many processes it started on each machine, and on how many; None if it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    started = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // started
    if devices not in (1, started) or num_nodes not in (1, nodes):
        raise ValueError(
            f"devices is {devices} and num_nodes {num_nodes}, but torchrun started {started} processes on "
            f"{nodes} machines: leave both out."
        )
    return started, nodes


def _short(text: str, texts: Sequence[str]) -> str:
    """From the first line on that is not the same in all."""
    lines = text.splitlines()
    for place, others in enumerate(zip(*(t.splitlines() for t in texts), strict=False)):
        if len(set(others)) > 1:
            return lines[place].strip()[:_SHOWN]
    return text[:_SHOWN]
