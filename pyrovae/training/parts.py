"""The parts of a training, made and put together before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro.infer
import torch

from pyrovae.files import reading
from pyrovae.pair.contract import PROBE_ROWS
from pyrovae.pair.strays import warn_of_strays
from pyrovae.random_state import fixed_seed, set_seed
from pyrovae.training.batch_loss import BatchLoss, batch_loss
from pyrovae.training.batches import Batches, batches_of
from pyrovae.training.checkpoints import KIND, Keeper
from pyrovae.training.course import Course
from pyrovae.training.described import (
    described_optimizer,
    described_program,
    described_scheduler,
    described_settings,
)
from pyrovae.training.learning_rates import initial_rates, scale_rates
from pyrovae.training.loop import Loop
from pyrovae.training.modes import evaluating, frozen
from pyrovae.training.optimization import Optimization
from pyrovae.training.optimizers import (
    OptimizerFactory,
    Scheduler,
    SchedulerFactory,
    optimizer_of,
    scheduler_of,
)
from pyrovae.training.precision import arithmetic
from pyrovae.training.processes import Processes
from pyrovae.training.rows_below import rows_below
from pyrovae.training.saved_training import SavedTraining
from pyrovae.training.seeds import Seeds
from pyrovae.training.settings import Machine, Record
from pyrovae.training.single_rows import refuse_single_rows
from pyrovae.training.steps import MIN_STEPS, Steps
from pyrovae.training.validation import Validation
from pyrovae.vae import VAE


@dataclass(frozen=True)
class Chosen:
    """What the user gave to minimize and to step with, None for what is usual."""

    objective: pyro.infer.ELBO | None = None
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None
    scheduler: SchedulerFactory | Scheduler | None = None


def built(
    vae: VAE,
    data: object,
    validation: object,
    chosen: Chosen,
    course: Course,
    machine: Machine,
    record: Record,
    processes: Processes,
    seeds: Seeds,
) -> Loop:
    """A training that is ready to run, gone on from its checkpoint where it shall; draws from its noise from now on.

    Raises:
        ValueError, TypeError: as `pyrovae.fit`.

    """
    batches = batches_of(vae, data, course.batch_size, course.transform, processes.share)
    processes.agree(_plain(course, machine) | _seen_first(vae, batches, course, record, processes))
    processes.alike(vae)
    loss = _loss(vae, batches, chosen, course, processes)
    optimizer = optimizer_of(vae, chosen.optimizer)
    scheduler = scheduler_of(optimizer, chosen.scheduler, course.schedule_steps)
    steps = _steps(vae, loss, batches, course, machine, processes)
    held_out = None if validation is None else Validation(vae, validation, course.transform)
    keeper = saved = None
    if record.kept is not None or processes.share.of > 1:
        made = _described(vae, batches, held_out, loss, optimizer, scheduler, record)
        # A callback may be one process's own.
        processes.agree({name: value for name, value in made.items() if name != "callbacks"})
    if record.kept is not None:
        keeper = Keeper(record.kept, made | _plain(course, machine) | {"processes": processes.share.of})
        saved = _saved(keeper, processes, any_rate=record.any_rate) if record.resume else None
    seeds = Seeds(processes.same(seeds.seed if saved is None else saved["seed"]))
    loss_scale = steps.loss_scale if machine.precision == "16-mixed" else None
    training = Loop(
        vae,
        batches,
        loss,
        steps,
        Optimization(steps.parameters, optimizer, scheduler, course, loss_scale),
        held_out,
        course=course,
        seeds=seeds,
        processes=processes,
        record=record,
        keeper=keeper,
    )
    set_seed(seeds.noise(processes.share.rank), vae.device)
    if keeper is not None:
        keeper.check(training)
        if saved is not None:
            with reading(keeper.path, KIND), _new_rates(optimizer, scheduler, wanted=record.any_rate):
                training.load_state_dict(saved)
    return training


@contextmanager
def _new_rates(
    optimizer: torch.optim.Optimizer, scheduler: Scheduler | None, *, wanted: bool
) -> Iterator[None]:
    """Inside, an optimizer is given a saved state; the learning rates that it was made with here stay, if wanted."""
    rates = initial_rates(optimizer)
    yield
    if wanted:
        scale_rates(optimizer, scheduler, rates)


def _loss(vae: VAE, batches: Batches, chosen: Chosen, course: Course, processes: Processes) -> BatchLoss:
    loss = batch_loss(vae, chosen.objective)
    loss.num_rows = rows_below(vae, batches)
    loss.refuse_processes(processes.share.of)
    loss.to(vae.device)
    loss.foresee(course.epochs, batches.steps, course.accumulate)
    refuse_single_rows(vae, batches, loss, processes.share)
    with fixed_seed(0, vae.device):
        warn_of_strays(vae, batches.few(PROBE_ROWS))
    return loss


def _steps(
    vae: VAE, loss: BatchLoss, batches: Batches, course: Course, machine: Machine, processes: Processes
) -> Steps:
    rank, of = processes.share.rank, processes.share.of
    return Steps(
        vae,
        loss,
        batches.batch_size * course.accumulate,
        compile=machine.compile,
        steps=course.epochs * (batches.steps or MIN_STEPS),
        ragged_steps=course.epochs,
        rows=len(range(rank, batches.batch_size, of)),
        arithmetic=arithmetic(machine.precision, vae.parameters()),
    )


def _plain(course: Course, machine: Machine) -> dict[str, object]:
    """Settings that a resumed training must share, as they were given."""
    of_course = ("seed", "accumulate", "schedule_steps", "clip_norm", "on_nonfinite")
    return {name: getattr(course, name) for name in of_course} | {
        "precision": machine.precision,
        "compile": machine.compile,
    }


def _seen_first(
    vae: VAE, batches: Batches, course: Course, record: Record, processes: Processes
) -> dict[str, object]:
    """What processes must agree on before they can give each other anything."""
    if processes.share.of == 1:
        return {}
    kept = record.kept
    return {
        "epochs": course.epochs,
        "batch_size": batches.batch_size,
        "data": batches.fingerprint(),
        "checkpoint": kept and (kept.every_epochs, kept.every_steps),
        "resume": record.resume,
        "parameters": "\n".join(f"{n} {list(p.shape)} {p.dtype}" for n, p in vae.named_parameters()),
    }


def _described(
    vae: VAE,
    batches: Batches,
    held_out: Validation | None,
    loss: BatchLoss,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler | None,
    record: Record,
) -> dict[str, object]:
    """What a training is made of beside these, by name."""
    return {
        "model": described_program(vae.model),
        "guide": described_program(vae.guide),
        "sites": vae.layout.families,
        # Their random states are of other kinds.
        "device": vae.device.type,
        "data": batches.fingerprint(),
        "validation": None if held_out is None else held_out.batches.fingerprint(),
        "transform": described_program(batches.transform),
        "batch_size": batches.batch_size,
        "objective": loss.describe(),
        "optimizer": described_optimizer(optimizer),
        "scheduler": described_scheduler(scheduler),
        "callbacks": [described_settings(callback) for callback in record.callbacks],
        "frozen": frozen(vae),
        "evaluating": evaluating(vae),
    }


def _saved(keeper: Keeper, processes: Processes, *, any_rate: bool) -> SavedTraining | None:
    """What all processes go on from; None where none has a checkpoint."""
    saved = keeper.read(any_rate=any_rate) if keeper.path.exists() else None
    place = torch.tensor([-1, -1] if saved is None else [saved["epoch"], saved["step"]])
    places = [tuple(found.tolist()) for found in processes.gather(place)]
    if len(set(places)) > 1:
        shown = ", ".join("none" if step < 0 else f"step {step}" for _, step in places)
        raise ValueError(
            f"{keeper.path} is not one file for all processes: by rank they find {shown}. Keep the checkpoint in a "
            "folder that all machines share, or copy it to each before resuming."
        )
    return saved
