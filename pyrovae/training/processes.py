"""Several processes that train one VAE together, on lightning-fabric.

Each process takes its part of every batch, and their gradients are added up before each step. Where each row's
loss is its own, the steps are those of one process on whole batches: `batch_size` and learning rates mean the same
on any number of devices. Objectives whose rows' losses depend on each other, such as free bits, are refused.
Modules that look at whole batches see a process's part alone: batch normalization normalizes by it, and all take
the first one's running statistics after each epoch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyrovae.training.batches import Share

T = TypeVar("T", int, float)


class Processes:
    """One process among those that train together.

    Args:
        devices: processes on this machine.
        num_nodes: machines.
        strategy: how lightning-fabric starts them: "ddp" or another of its data-parallel strategies.
        device: where they compute; several take one each of its kind.

    Raises:
        ValueError: a strategy that splits the model itself.
        ImportError: lightning-fabric is missing.

    """

    def __init__(self, devices: int, num_nodes: int, strategy: str, device: torch.device) -> None:
        self.fabric: Any = None
        self.device, self.share = device, Share()
        self._flags: dict[tuple[bool, ...], Tensor] = {}
        if devices == 1 and num_nodes == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            if strategy != "auto":
                raise ValueError(
                    f"strategy is {strategy!r}, but there is one process: give devices=2 or more."
                )
            return
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies.ddp import DDPStrategy
        except ImportError as error:
            raise ImportError(
                'several processes need lightning-fabric: pip install "pyrovae[processes]".'
            ) from error
        if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun, which knows how many there are
            started = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // started
            if devices not in (1, started) or num_nodes not in (1, nodes):
                raise ValueError(
                    f"devices is {devices} and num_nodes {num_nodes}, but torchrun started {started} processes on "
                    f"{nodes} machines: leave both out."
                )
            devices, num_nodes = started, nodes
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
        self.fabric, self.device = fabric, fabric.device
        self.share = Share(fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.share.rank == 0

    def same(self, number: T) -> T:
        """The first process's number, for all."""
        return number if self.fabric is None else self.fabric.broadcast(number)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Each process's tensor, in all; of one shape."""
        if self.fabric is None:
            return [tensor]
        return list(self.fabric.all_gather(tensor.to(self.fabric.device)).cpu().unbind(0))

    @torch.no_grad()
    def alike(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        for parameter in module.parameters() if self.fabric is not None else ():
            torch.distributed.broadcast(parameter.detach(), src=0)
        self.alike_buffers(module)

    @torch.no_grad()
    def alike_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, such as running statistics of its share of the rows."""
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
            self.fabric.barrier()
