"""Where a training runs and what is kept of it: `fit`'s arguments, checked before anything is done."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import torch

from pyrovae.checks import check_count
from pyrovae.traced.compilation import Compile
from pyrovae.training.callbacks import Callback
from pyrovae.training.checkpoints import Checkpoint
from pyrovae.training.precision import Precision
from pyrovae.training.processes import Processes
from pyrovae.vae import VAE


class Logger(Protocol):
    """What metrics are told, such as lightning-fabric's `CSVLogger`; one with `save` saves after each epoch."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Take the metrics of an epoch, or of some steps."""


# "new rate": with the learning rates of the optimizer given, in place of those saved.
Resume: TypeAlias = Literal[True, False, "new rate"]


@dataclass(frozen=True)
class Machine:
    """Devices, processes and arithmetic of a training; `pyrovae.fit` says what each means.

    Raises:
        ValueError: a count below 1, or another choice.

    """

    device: str | torch.device | None = None
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Precision = "32-true"
    compile: Compile = "auto"
    timeout: float | None = None

    def __post_init__(self) -> None:
        check_count("devices", self.devices)
        check_count("num_nodes", self.num_nodes)
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout is {self.timeout}: expected seconds above 0, or None.")
        if not (self.compile == "auto" or isinstance(self.compile, bool)):
            raise ValueError(f"compile is {self.compile!r}: expected 'auto', True or False.")

    def start(self, vae: VAE) -> Processes:
        """The processes that train together, with the VAE on this one's device."""
        device = vae.device if self.device is None else available(self.device)
        processes = Processes(self.devices, self.num_nodes, self.strategy, device, self.timeout)
        vae.to(processes.device)
        return processes


@dataclass(frozen=True)
class Record:
    """What is kept, called and shown of a training; `pyrovae.fit` says what each means.

    Raises:
        ValueError: a checkpoint that would be overwritten, or is missing where it shall be resumed.
        TypeError: a checkpoint, a callback or a logger of another kind.

    """

    checkpoint: str | os.PathLike[str] | Checkpoint | None = None
    resume: Resume = False
    callbacks: Sequence[Callback] = ()
    loggers: Sequence[Logger] = ()
    log_every: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.callbacks, Callback):
            raise TypeError("callbacks is one callback: give a list of them, callbacks=[...].")
        for name in ("callbacks", "loggers"):
            if not isinstance(getattr(self, name), Sequence):
                raise TypeError(f"{name} is {getattr(self, name)!r}: give a list of them, {name}=[...].")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks hold {callback!r}: expected instances of pyrovae.callbacks.Callback."
                )
        for logger in self.loggers:
            if not hasattr(logger, "log_metrics"):
                raise TypeError(
                    f"loggers hold {logger!r}: expected objects with log_metrics(metrics, step), such as "
                    "lightning_fabric.loggers.CSVLogger."
                )
        if self.log_every is not None:
            check_count("log_every", self.log_every)
            if not self.loggers:
                raise ValueError("log_every needs loggers=, which are told of the steps.")
        if not (self.resume == "new rate" or isinstance(self.resume, bool)):
            raise ValueError(f"resume is {self.resume!r}: expected True, False or 'new rate'.")
        kept = self.kept
        if kept is None:
            if self.resume:
                raise ValueError("resume=True needs checkpoint=, the file to go on from.")
            return
        if not isinstance(kept, Checkpoint):
            raise TypeError(f"checkpoint is {kept!r}: expected a path or a pyrovae.Checkpoint.")
        if Path(kept.path).exists() and not self.resume:
            raise ValueError(
                f"{kept.path} is there already and would be overwritten: go on from it with resume=True, or "
                "remove it."
            )

    @property
    def kept(self) -> Checkpoint | None:
        """The checkpoint, if there is to be one."""
        if isinstance(self.checkpoint, str | os.PathLike):
            return Checkpoint(self.checkpoint)
        return self.checkpoint

    @property
    def any_rate(self) -> bool:
        """Whether a training that goes on may have learning rates other than it was started with."""
        return self.resume == "new rate"


def available(device: str | torch.device) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: it is not there; says what is.

    """
    try:
        device = torch.device(device)
        if device.type == "meta":
            raise RuntimeError("meta tensors hold no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            names.append("mps")
        raise ValueError(f"device '{device}' is not there: this machine has {', '.join(names)}.") from error
    return device
