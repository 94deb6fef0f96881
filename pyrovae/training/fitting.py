"""Training: stochastic variational inference over shuffled minibatches."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyro.infer
import torch
from torch.utils.data import DataLoader

from pyrovae.checks import check_count
from pyrovae.evidence.marginal import elbo
from pyrovae.objectives.base import RowObjective
from pyrovae.random_state import fixed_seed, seed_of, set_seed
from pyrovae.traced.compilation import Compile
from pyrovae.training.batch_loss import batch_loss
from pyrovae.training.batches import Batches, Share, Transform, batches_of
from pyrovae.training.callbacks import Callback
from pyrovae.training.checkpoints import Checkpoint, Keeper
from pyrovae.training.described import described_training
from pyrovae.training.loop import COLUMNS, OnNonFinite, Scheduler, Settings, Training
from pyrovae.training.optimizers import OptimizerFactory, SchedulerFactory, optimizer_of, scheduler_of
from pyrovae.training.precision import Precision, arithmetic
from pyrovae.training.processes import Processes
from pyrovae.training.steps import MIN_STEPS, Steps
from pyrovae.vae import ROWS_AT_ONCE, VAE


def fit(
    vae: VAE,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    objective: pyro.infer.ELBO | None = None,
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
    scheduler: SchedulerFactory | Scheduler | None = None,
    schedule_steps: bool = False,
    clip_norm: float | None = None,
    accumulate: int = 1,
    validation: Any = None,
    transform: Transform | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "32-true",
    compile: Compile = "auto",
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Any] = (),
    on_nonfinite: OnNonFinite = "stop",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train a VAE by stochastic variational inference; returns the history, one row an epoch.

    Each step takes a minibatch, lets the objective compute its loss and gradients (Hoffman, Blei, Wang,
    Paisley, "Stochastic Variational Inference", 2013; reparameterized, Kingma & Welling 2013), divides them
    by the number of rows and steps the optimizer. A ragged last batch counts by its rows: its gradient is
    divided by `batch_size` like any other's.

    The pair's operations are traced once and then run without Pyro, compiled where that pays; a pair that
    cannot be traced runs as plain Pyro. Losses and gradients are the same to rounding, and
    `history.attrs["engine"]` says which it was and why.

    Args:
        vae: the pair; its parameters are trained in place.
        data: `x`, the tuple `(x, *context)`, or a dict by the model's arguments: tensors, NumPy arrays, data
            frames, memory-mapped arrays, with N rows; or a torch Dataset or DataLoader of such rows or batches.
            Modules train in the mode (train or eval) that they are in.
        epochs: passes over the data.
        batch_size: rows a step, over all processes; at most N are taken; 128 if None. A DataLoader has its own.
        objective: one of `pyrovae.objectives` or any `pyro.infer.ELBO`; None takes `pyro.infer.Trace_ELBO()`,
            or `pyro.infer.TraceEnum_ELBO` where the model enumerates discrete latents.
        optimizer: makes a torch optimizer from parameters, e.g. `lambda p: torch.optim.Adam(p, lr=3e-4)`, or
            is one over this VAE's parameters; Adam with learning rate 1e-3 if None.
        scheduler: makes a torch learning-rate scheduler from the optimizer, or is one on it.
        schedule_steps: step the scheduler after each optimizer step and not after each epoch.
        clip_norm: the largest norm that the gradients of a step may have together.
        accumulate: batches whose gradients make one step.
        validation: held-out data of the same kind; their ELBO is logged each epoch.
        transform: what is done to each batch before it is used, `transform(x, *context)`: gives a new `x` or
            all arguments anew, for example `torch.bernoulli` for binarization afresh. Validation rows are
            transformed the same way after each epoch.
        seed: of order, transforms and draws; torch's random state is left as it was. None draws one from that
            state.
        device: moves the VAE there, and the data; None trains where the VAE is, and several processes on
            devices of that kind.
        precision: "bf16-mixed" or "16-mixed" do matrix products and convolutions in 16 bits, and all densities
            in 32; "16-mixed" also scales losses.
        compile: False runs plain Pyro; "auto" traces, and compiles where that saves time over the steps to
            come; True compiles, and warns where that cannot be.
        checkpoint: a file, or `Checkpoint(file, ...)`, in which the training is saved, after each epoch if
            nothing else is said. An interrupted training goes on from it exactly.
        resume: go on from `checkpoint` if it is there, else begin. What is compared with what it was started
            with: these arguments, the data (some thousand rows), the kind of device, the model's sites and their
            families, modules by their `repr` and the shapes of their parameters, functions by their names; not the
            values that a module keeps besides.
        callbacks: see `pyrovae.callbacks`.
        loggers: objects with `log_metrics(metrics, step)`, such as lightning-fabric's `CSVLogger` and
            `TensorBoardLogger`; called each epoch.
        on_nonfinite: "stop" raises at the first loss that is NaN or infinite; "skip" leaves such batches out.
        devices: processes on this machine that train together, each on its share of every batch.
        num_nodes: machines.
        strategy: how lightning-fabric starts the processes; "ddp" if left out.
        progress: show a progress bar.

    Returns:
        A DataFrame with the columns `epoch, loss, elbo, reconstruction, rate, elbo_valid, seconds`: the
        objective's mean loss, and the ELBO (beta = 1, without the program's own scales), E_q[log p(x|z)] and
        the sampled rate on the same draws (on others where latents are summed out), in nats per row, averaged
        over the epoch's rows while they were
        trained on; the validation rows' ELBO after the epoch (NaN without validation). `history.attrs` tells
        the `engine` and how many batches were `skipped`. After Ctrl-C, what was learned so far: the VAE is
        trained up to that step.

    Raises:
        ValueError: data that do not fit the pair or lie outside a likelihood's support (with the row),
            counts below 1, a device that is not there, an optimizer over other parameters, a checkpoint of
            another training (says what differs) or one that would be overwritten, in several processes an
            objective whose rows' losses depend on each other. Raised before the first step; later, a scheduler
            that makes a learning rate negative.
        TypeError: an objective, optimizer or scheduler of another kind.
        NonFiniteLossError: a loss that is NaN or infinite, with the step, the site and the rows; the VAE
            holds the last good weights.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> history = pv.fit(vae, torch.zeros(50, 64), epochs=2, seed=0, progress=False)
        >>> history.columns.tolist()
        ['epoch', 'loss', 'elbo', 'reconstruction', 'rate', 'elbo_valid', 'seconds']

    """
    counts = {
        "epochs": epochs,
        "batch_size": 1 if batch_size is None else batch_size,
        "accumulate": accumulate,
    }
    for name, count in (counts | {"devices": devices, "num_nodes": num_nodes}).items():
        check_count(name, count)
    _check_choices(compile, on_nonfinite, clip_norm, callbacks, loggers, seed, transform)
    kept = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    _check_checkpoint(kept, resume)
    processes = Processes(devices, num_nodes, strategy, vae.device if device is None else available(device))
    vae.to(processes.device)
    chosen = int(torch.randint(2**62, ())) if seed is None else seed
    with fixed_seed(seed_of(chosen, 2), vae.device):
        batches = batches_of(vae, data, batch_size, transform, processes.share)
        processes.alike(vae)
        loss = batch_loss(vae, objective)
        _prepare(objective, vae.device, processes.share.of, epochs, batches.steps, accumulate)
        optimizing = optimizer_of(vae, optimizer)
        scheduling = scheduler_of(optimizing, scheduler, schedule_steps)
        steps = Steps(
            vae,
            loss,
            batches.batch_size * accumulate,
            compile=compile,
            steps=epochs * (batches.steps or MIN_STEPS),
            ragged_steps=epochs,
            rows=len(range(processes.share.rank, batches.batch_size, processes.share.of)),
            arithmetic=arithmetic(precision, vae.parameters()),
        )
        held_out = None if validation is None else _held_out(vae, validation, transform)
        keeper = saved = None
        if kept is not None:
            plain: dict[str, Any] = {"seed": seed, "accumulate": accumulate, "schedule_steps": schedule_steps}
            plain |= {"clip_norm": clip_norm, "on_nonfinite": on_nonfinite, "precision": precision}
            made = described_training(
                vae, batches, held_out, transform, objective, optimizing, scheduling, callbacks
            )
            keeper = Keeper(kept, made | plain | {"processes": processes.share.of})
            saved = _saved(keeper, processes) if resume else None
        chosen = processes.same(chosen if saved is None else saved["seed"])
        training = Training(
            vae,
            batches,
            steps,
            objective,
            optimizing,
            scheduling,
            None if held_out is None else _validation(vae, held_out, seed_of(chosen, 1)),
            Settings(epochs, chosen, accumulate, clip_norm, schedule_steps, on_nonfinite, progress),
            processes=processes,
            callbacks=callbacks,
            loggers=loggers,
            keeper=keeper,
        )
        if precision == "16-mixed":
            training.use_scaler()
        # Each process draws its own noise.
        set_seed(seed_of(chosen, 3 + processes.share.rank), vae.device)
        if keeper is not None:
            keeper.check(training)
        if saved is not None:
            training.load_state_dict(saved)
        training.run()
    return _history(training)


def _history(training: Training) -> pd.DataFrame:
    kinds = {name: int if name == "epoch" else float for name in COLUMNS}
    history = pd.DataFrame(training.history, columns=list(COLUMNS)).astype(kinds)
    history.attrs |= {"engine": training.engine, "skipped": training.skipped}
    return history


def _check_choices(
    compile: Any,
    on_nonfinite: Any,
    clip_norm: float | None,
    callbacks: Sequence[Any],
    loggers: Sequence[Any],
    seed: Any,
    transform: Any,
) -> None:
    if seed is not None and type(seed) is not int:
        raise ValueError(f"seed is {seed!r}: expected a whole number, or None.")
    if transform is not None and not callable(transform):
        raise TypeError(f"transform is {transform!r}: expected a function transform(x, *context).")
    if isinstance(callbacks, Callback):
        raise TypeError("callbacks is one callback: give a list of them, callbacks=[...].")
    if not (compile == "auto" or isinstance(compile, bool)):
        raise ValueError(f"compile is {compile!r}: expected 'auto', True or False.")
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f"on_nonfinite is {on_nonfinite!r}: expected 'stop' or 'skip'.")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm is {clip_norm}: expected a norm above 0, or None.")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks hold {callback!r}: expected instances of pyrovae.callbacks.Callback.")
    for logger in loggers:
        if not hasattr(logger, "log_metrics"):
            raise TypeError(
                f"loggers hold {logger!r}: expected objects with log_metrics(metrics, step), such as "
                "lightning_fabric.loggers.CSVLogger."
            )


def _check_checkpoint(checkpoint: Checkpoint | None, resume: bool) -> None:
    if checkpoint is None:
        if resume:
            raise ValueError("resume=True needs checkpoint=, the file to go on from.")
        return
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint is {checkpoint!r}: expected a path or a pyrovae.Checkpoint.")
    if Path(checkpoint.path).exists() and not resume:
        raise ValueError(
            f"{checkpoint.path} is there already and would be overwritten: go on from it with resume=True, or "
            "remove it."
        )


def _saved(keeper: Keeper, processes: Processes) -> dict[str, Any] | None:
    """What all processes go on from; None where none has a checkpoint."""
    saved = keeper.read() if keeper.path.exists() else None
    place = torch.tensor([-1, -1] if saved is None else [saved["epoch"], saved["step"]])
    places = [tuple(found.tolist()) for found in processes.gather(place)]
    if len(set(places)) > 1:
        shown = ", ".join("none" if step < 0 else f"step {step}" for _, step in places)
        raise ValueError(
            f"{keeper.path} is not one file for all processes: by rank they find {shown}. Keep the checkpoint in a "
            "folder that all machines share, or copy it to each before resuming."
        )
    return saved


def _held_out(vae: VAE, data: Any, transform: Transform | None) -> Batches:
    try:
        size = None if isinstance(data, DataLoader) else ROWS_AT_ONCE
        return batches_of(vae, data, size, transform, Share())
    except (ValueError, TypeError) as error:
        raise type(error)(f"validation data: {error}") from error


def _validation(vae: VAE, held_out: Batches, seed: int) -> Callable[[], float]:
    """What an epoch ends with: the ELBO of held-out rows, from the same transforms and draws each time.

    So the curve shows the change of the model and not of the noise.
    """

    def mean_elbo() -> float:
        total, count = 0.0, 0
        with fixed_seed(seed, vae.device):
            for minibatch in held_out.epoch(seed):
                assert minibatch.batch is not None
                draws = int(torch.randint(2**62, ()))
                found = elbo(vae, *minibatch.batch.arguments, num_samples=1, seed=draws)
                total, count = total + float(found.elbo.sum()), count + minibatch.num_rows
        return total / count

    return mean_elbo


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


def _prepare(
    objective: Any, device: torch.device, processes: int, epochs: int, steps: int | None, accumulate: int
) -> None:
    """Move an objective to the device; find out now what would fail later."""
    if processes > 1 and getattr(objective, "mixes_rows", isinstance(objective, pyro.infer.Trace_MMD)):
        raise ValueError(
            f"objective is {objective!r}: a row's loss depends on the batch's other rows there, and each of "
            f"{processes} processes sees its own part of a batch alone, so that another loss would be trained. Train "
            "in one process, or take an objective by row, such as a schedule of beta in place of free bits."
        )
    if isinstance(objective, RowObjective):
        objective.to(device)
        if steps is not None:
            # Where the length of the training is known: whether a schedule ends below zero.
            objective.advance(epochs * math.ceil(steps / accumulate) - 1, epochs - 1 / steps)
            objective.advance(0, 0.0)
