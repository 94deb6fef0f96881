"""Training: stochastic variational inference over shuffled minibatches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext

import pandas as pd
import pyro.infer
import torch

from pyrovae.pair.inspected import refuse_other_than_vae
from pyrovae.random_state import fixed_seed
from pyrovae.traced.compilation import Compile
from pyrovae.training.callbacks import Callback
from pyrovae.training.checkpoints import Checkpoint
from pyrovae.training.course import Course, OnNonFinite, Transform
from pyrovae.training.optimizers import OptimizerFactory, Scheduler, SchedulerFactory
from pyrovae.training.parts import Chosen, built
from pyrovae.training.precision import Precision
from pyrovae.training.run_lock import alone_at
from pyrovae.training.seeds import Seeds
from pyrovae.training.settings import Logger, Machine, Record, Resume
from pyrovae.turn import TURN
from pyrovae.vae import VAE


def fit(
    vae: VAE,
    data: object,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    objective: pyro.infer.ELBO | None = None,
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
    scheduler: SchedulerFactory | Scheduler | None = None,
    schedule_steps: bool = False,
    clip_norm: float | None = None,
    accumulate: int = 1,
    validation: object = None,
    transform: Transform | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "32-true",
    compile: Compile = "auto",
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    resume: Resume = False,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    log_every: int | None = None,
    on_nonfinite: OnNonFinite = "stop",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    timeout: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a VAE by stochastic variational inference; returns the history, one row an epoch.

    Each step takes a minibatch, lets the objective compute its loss and gradients (Hoffman, Blei, Wang,
    Paisley, "Stochastic Variational Inference", 2013; reparameterized, Kingma & Welling 2013), divides them
    by the number of rows and steps the optimizer. A ragged last batch counts by its rows: its gradient is
    divided by `batch_size` like any other's.

    Where that saves time over the steps to come, the pair's operations are traced once and then run without Pyro,
    and compiled; a pair that cannot be traced runs as plain Pyro. Losses and gradients are the same to rounding,
    and `history.attrs["engine"]` says which it was and why.

    Args:
        vae: the pair; its parameters are trained in place.
        data: `x`, the tuple `(x, *context)`, or a dict by the model's arguments: tensors, NumPy arrays, data
            frames (whose columns the VAE remembers), SciPy's sparse matrices, memory-mapped arrays, with N rows; or
            a torch Dataset or DataLoader of such rows or batches.
            Modules train in the mode (train or eval) that they are in.
        epochs: passes over the data.
        batch_size: rows a step, over all processes; at most N are taken; 128 if None. A DataLoader has its own.
        objective: one of `pyrovae.objectives` or any `pyro.infer.ELBO`; None takes `pyro.infer.Trace_ELBO()`,
            or `pyro.infer.TraceEnum_ELBO` where the model or the guide enumerates discrete latents.
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
        seed: of order, transforms, draws and the first weights of a derived guide; torch's random state is left as it
            was. None draws one from that state. Networks that exist already have drawn their first weights:
            `torch.manual_seed` before they are made, and two runs are the same.
        device: moves the VAE there, and the data; None trains where the VAE is, and several processes on
            devices of that kind.
        precision: "bf16-mixed" or "16-mixed" do matrix products and convolutions in 16 bits, and all densities
            in 32; "16-mixed" also scales losses.
        compile: False runs plain Pyro; "auto" traces and compiles where each saves more time over the steps to come
            than it takes, by the number of a step's operations and by what was compiled on this machine before, and
            not by a clock; True compiles, and warns where that cannot be.
        checkpoint: a file, or `Checkpoint(file, ...)`, in which the training is saved, after each epoch if
            nothing else is said. An interrupted training goes on from it exactly.
        resume: go on from `checkpoint` if it is there, else begin. What is compared with what it was started
            with: these arguments, the data (some thousand rows), the kind of device, the model's sites and their
            families, modules by their `repr`, modes and the shapes and names of their parameters, which of these are
            frozen, functions by what they compute, wherever they stand, and those of your own that they call; not the
            values that a module keeps besides. "new rate" does the same at the learning rates of `optimizer`, which
            may then differ from those that it was started with: rates that a scheduler has changed since, and will
            change, are multiplied by the quotient.
        callbacks: see `pyrovae.callbacks`.
        loggers: objects with `log_metrics(metrics, step)`, such as lightning-fabric's `CSVLogger` and
            `TensorBoardLogger`; called each epoch, `step` being its number.
        log_every: tell loggers also each so many optimizer steps, of `loss_step, elbo_step, reconstruction_step,
            rate_step` (means over the rows since) and `learning_rate`; `step` is then always the number of the
            optimizer's step.
        on_nonfinite: "stop" raises at the first loss that is NaN or infinite; "skip" leaves such batches out.
        devices: processes on this machine that train together, each on its share of every batch.
        num_nodes: machines.
        strategy: how lightning-fabric starts the processes; "ddp" if left out. Before the first step they compare
            what they were given: settings, seed, data. A callback's `stop()` in one ends all after that epoch.
        timeout: seconds that a process waits for the others before it ends with an error, as it does at once where one
            has ended; None leaves torch's own, half an hour on CPUs.
        progress: show a progress bar.

    Returns:
        A DataFrame with the columns `epoch, loss, elbo, reconstruction, rate, elbo_valid, gradient_norm,
        gradient_norm_max, seconds`: the objective's mean loss, and the ELBO (beta = 1, without the program's own
        scales), E_q[log p(x|z)] and the sampled rate on the same draws (on others where the guide enumerates), in
        nats per row, averaged over the epoch's rows while they were trained on; the validation rows' ELBO after the
        epoch (NaN without validation); the median and the largest
        norm of the gradients of the epoch's steps before clipping (of each step with `clip_norm`, else of every
        eighth from the first, so that it costs nothing). `history.attrs` tells
        the `engine`, how many batches were `skipped`, and whether Ctrl-C `interrupted` it: then what was learned
        so far, the VAE being trained up to that step, as a warning says too. Numbers that callbacks add to an epoch's
        row are columns too.
        A training whose ELBO has not risen of late while gradients exploded says so in a warning.

    Raises:
        ValueError: data that do not fit the pair or lie outside a likelihood's support (with the row),
            counts below 1, a device that is not there, an optimizer over other parameters, a checkpoint of
            another training (says what differs, on both sides) or one that would be overwritten, in several
            processes an objective whose rows' losses depend on each other. Raised before the first step; later,
            a scheduler that makes a learning rate negative.
        TypeError: an objective, optimizer or scheduler of another kind.
        RuntimeError: another training that is running keeps its checkpoint in the same file.
        NonFiniteLossError: a loss that is NaN or infinite, with the step, the site and the rows; the VAE
            holds the last good weights.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> history = pv.fit(vae, torch.zeros(50, 64), epochs=2, seed=0, progress=False)
        >>> history.columns.tolist()[:6]
        ['epoch', 'loss', 'elbo', 'reconstruction', 'rate', 'elbo_valid']

    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "fit runs under torch.inference_mode(), in which nothing has gradients: call it outside. (Under "
            "torch.no_grad() it trains all the same.)"
        )
    refuse_other_than_vae(vae)
    course = Course(epochs, batch_size, accumulate, clip_norm, schedule_steps, on_nonfinite, transform, seed)
    machine = Machine(device, devices, num_nodes, strategy, precision, compile, timeout)
    record = Record(checkpoint, resume, callbacks, loggers, log_every, progress)
    chosen = Chosen(objective, optimizer, scheduler)
    with TURN:
        processes = machine.start(vae)
        seeds = Seeds.of(course.seed)
        alone = alone_at(record.kept.path) if record.kept and processes.is_first else nullcontext()
        with alone, fixed_seed(seeds.parts, vae.device), torch.enable_grad():
            training = built(vae, data, validation, chosen, course, machine, record, processes, seeds)
            training.run()
        return training.to_frame()
