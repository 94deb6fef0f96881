"""The loss of one minibatch under any objective, with what a history logs beside it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import pyro
import pyro.infer
import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.objectives.base import RowObjective
from pyrovae.pair.absence import integrated_out
from pyrovae.pair.handlers import RowsCount
from pyrovae.pair.programs import Program
from pyrovae.pair.recording import BatchTerms
from pyrovae.pair.running import row_terms
from pyrovae.training.described import plain, plain_settings
from pyrovae.training.described_code import Plain, described_functions
from pyrovae.vae import VAE

NO_INFLUENCE = "no parameter of the VAE has any influence on the loss: there is nothing to train."


class BatchLoss(ABC):
    """All that a training asks of its objective.

    `mixes_rows` says whether a row's loss depends on the batch's other rows, `untraceable` why the loss cannot be
    traced, None if it can.
    """

    mixes_rows: bool
    untraceable: str | None = None

    def __init__(self, vae: VAE, objective: pyro.infer.ELBO) -> None:
        self.vae, self.objective = vae, objective
        # N of the training data: latents above the rows have N rows below them in every batch.
        self.num_rows: int | None = None

    def share_of(self, batch: Batch) -> float:
        """B/N, the share of a batch in all rows, which pays that share of what the shared latents cost."""
        assert self.num_rows is not None
        return len(batch) / self.num_rows

    @property
    def coefficients(self) -> tuple[Tensor, ...]:
        """Tensors that change between steps and that the loss reads."""
        return ()

    @abstractmethod
    def statistics_and_gradients(
        self, batch: Batch, parameters: list[Tensor], factor: Tensor | float
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The `STATISTICS` [4] and the gradients of `factor` times the summed loss, without the plate's N/B scale."""

    def describe(self) -> Plain:
        """The objective's kind and settings, the same in every process, and the code of one's own."""
        held = [value for value in vars(self.objective).values() if callable(value)]  # such as schedules
        return {
            "kind": type(self.objective).__name__,
            "settings": self._settings(),
            "functions": described_functions(self.objective, *held),
        }

    @abstractmethod
    def _settings(self) -> Plain: ...

    def to(self, device: torch.device) -> None:  # noqa: B027 - without coefficients there is nothing to do
        """Keep the coefficients on a device."""

    def advance(self, step: int, epoch: float) -> None:  # noqa: B027
        """Set the coefficients for the step about to be taken, with `step` steps and `epoch` epochs behind it."""

    def foresee(self, epochs: int, batches: int | None, accumulate: int) -> None:
        """Raise now what a schedule would raise at the end of a training, where its length is known."""
        if batches is not None:
            self.advance(epochs * math.ceil(batches / accumulate) - 1, epochs - 1 / batches)
            self.advance(0, 0.0)

    def refuse_processes(self, number: int) -> None:
        """Raise ValueError where so many processes would train another loss."""
        if number > 1 and self.mixes_rows:
            raise ValueError(
                f"objective is {self.objective!r}: a row's loss depends on the batch's other rows there, and each of "
                f"{number} processes sees its own part of a batch alone, so that another loss would be trained. Train "
                "in one process, or take an objective by row, such as a schedule of beta in place of free bits."
            )


def batch_loss(vae: VAE, objective: pyro.infer.ELBO | None) -> BatchLoss:
    """How `fit` uses an objective; None is Pyro's own ELBO, with discrete latents summed out.

    Raises:
        TypeError: not an objective, or one that `fit` cannot use.

    """
    if objective is None:
        objective = default_objective(vae)
    if isinstance(objective, RowObjective):
        return RowLoss(vae, objective)
    unlike: tuple[type, ...] = (
        pyro.infer.ReweightedWakeSleep,
        pyro.infer.JitTrace_ELBO,
        pyro.infer.JitTraceEnum_ELBO,
        pyro.infer.JitTraceGraph_ELBO,
        pyro.infer.JitTraceMeanField_ELBO,
    )
    if not isinstance(objective, pyro.infer.ELBO) or isinstance(objective, unlike):
        raise TypeError(
            f"objective is {objective!r}: expected one of pyrovae.objectives or a pyro.infer.ELBO such as "
            "pyro.infer.Trace_ELBO(), neither a jitted one (fit traces by itself) nor one with two losses "
            "(pyrovae.objectives has reweighted wake-sleep)."
        )
    return PyroLoss(vae, objective)


def default_objective(vae: VAE) -> pyro.infer.ELBO:
    """`Trace_ELBO`, or `TraceEnum_ELBO` where model or guide enumerates."""
    if not vae.layout.enumerated and not vae.layout.marked:
        return pyro.infer.Trace_ELBO()
    return pyro.infer.TraceEnum_ELBO(max_plate_nesting=-vae.layout.sample_dim - 1)


class RowLoss(BatchLoss):
    """An objective on the row-wise waist."""

    objective: RowObjective

    def __init__(self, vae: VAE, objective: RowObjective) -> None:
        super().__init__(vae, objective)
        self.mixes_rows = objective.mixes_rows

    @property
    def coefficients(self) -> tuple[Tensor, ...]:
        """Of the objective: beta and the like."""
        return self.objective.coefficients

    def _settings(self) -> Plain:
        return self.objective.describe()

    def to(self, device: torch.device) -> None:
        """See `BatchLoss`."""
        self.objective.to(device)

    def advance(self, step: int, epoch: float) -> None:
        """See `BatchLoss`."""
        self.objective.advance(step, epoch)

    def statistics_and_gradients(
        self, batch: Batch, parameters: list[Tensor], factor: Tensor | float
    ) -> tuple[Tensor, list[Tensor | None]]:
        """See `BatchLoss`."""
        losses = self.objective.evaluate(self.vae, batch)
        value, surrogate = losses.value.sum(), losses.surrogate.sum()
        if losses.shared is not None:
            shared = self.share_of(batch) * losses.shared
            value, surrogate = value + shared, surrogate + shared
        if not surrogate.requires_grad:
            raise ValueError(NO_INFLUENCE)
        gradients = torch.autograd.grad(surrogate * factor, parameters, allow_unused=True)
        with torch.no_grad():
            log_likelihood, rate = losses.log_likelihood.mean(0).sum(), losses.rate.mean(0).sum()
            if losses.shared_rate is not None:
                rate = rate + self.share_of(batch) * losses.shared_rate
            statistics = [value, log_likelihood - rate, log_likelihood, rate]
        return torch.stack([s.detach() for s in statistics]), list(gradients)


# Objectives of Pyro's that are sums of terms, each of which the scale of its plate weighs.
_SUMS = (
    pyro.infer.Trace_ELBO,
    pyro.infer.TraceEnum_ELBO,
    pyro.infer.TraceGraph_ELBO,
    pyro.infer.TraceMeanField_ELBO,
)


class _OfPyro(Protocol):
    """What Pyro's objectives have, which their base class does not declare; some lack the latter."""

    vectorize_particles: bool
    num_particles: int

    def loss_and_grads(self, model: Program, guide: Program, *arguments: object) -> float: ...

    def differentiable_loss(self, model: Program, guide: Program, *arguments: object) -> Tensor: ...


class PyroLoss(BatchLoss):
    """Any of Pyro's objectives, untouched."""

    def __init__(self, vae: VAE, objective: pyro.infer.ELBO) -> None:
        super().__init__(vae, objective)
        self._of_pyro = cast(_OfPyro, objective)
        self.terms = BatchTerms(vae.layout.shared_statements)
        self.model, self.guide = self.terms.model(self._announced), self.terms.guide(vae.guide)
        if vae.layout.shared and not isinstance(objective, _SUMS):
            raise TypeError(
                f"objective is {type(objective).__name__}, which is no sum over rows and the latents that they share, "
                f"{', '.join(map(repr, vae.layout.shared))}: minibatches cannot be scaled. Use pyro.infer.Trace_ELBO() "
                "or one of its kind, objectives.ELBO() or objectives.IWAE()."
            )
        self.mixes_rows = isinstance(objective, pyro.infer.Trace_MMD)
        # Only a loss that can be had without its backward pass is traced.
        if not hasattr(objective, "differentiable_loss"):
            self.untraceable = f"{type(objective).__name__} has no differentiable loss"

    def _settings(self) -> Plain:
        # Pyro's objectives guess the nesting of plates at their first run.
        kept = {n: v for n, v in vars(self.objective).items() if n != "max_plate_nesting"}
        return plain(plain_settings(kept))

    def statistics_and_gradients(
        self, batch: Batch, parameters: list[Tensor], factor: Tensor | float
    ) -> tuple[Tensor, list[Tensor | None]]:
        """See `BatchLoss`."""
        with integrated_out(batch), self._counted(batch):
            return self._run(batch, parameters, factor)

    def _counted(self, batch: Batch) -> AbstractContextManager[object]:
        """Rows count N/B times, where latents are shared by all N."""
        if not self.vae.layout.shared:
            return nullcontext()
        return RowsCount(self.vae.layout.shared_statements, 1 / self.share_of(batch))

    def _scale(self, batch: Batch) -> float:
        """By which the rows of a loss are too many."""
        return 1 / self.share_of(batch) if self.vae.layout.shared else self.terms.plate_scale

    def _run(
        self, batch: Batch, parameters: list[Tensor], factor: Tensor | float
    ) -> tuple[Tensor, list[Tensor | None]]:
        gradients: list[Tensor | None]
        if self.untraceable is None:
            loss = self._of_pyro.differentiable_loss(self.model, self.guide, *batch.arguments)
            terms = self._terms(batch)
            if not loss.requires_grad:
                raise ValueError(NO_INFLUENCE)
            loss = loss / self._scale(batch)
            gradients = list(torch.autograd.grad(loss * factor, parameters, allow_unused=True))
            loss = loss.detach()
        else:
            told, gradients = self._backward(batch, parameters)
            terms = self._terms(batch)
            loss = terms.new_tensor(told / self._scale(batch))
            scale = factor / self._scale(batch)
            gradients = [None if g is None else g * scale for g in gradients]
        return torch.stack([loss, *terms]), gradients

    def _backward(self, batch: Batch, parameters: list[Tensor]) -> tuple[float, list[Tensor | None]]:
        """Loss and gradients of an objective that runs its backward pass itself, into `.grad`."""
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        loss = self._of_pyro.loss_and_grads(self.model, self.guide, *batch.arguments)
        gradients = [p.grad for p in parameters]
        for p, old in zip(parameters, before, strict=True):
            p.grad = old
        return loss, gradients

    @torch.no_grad()
    def _terms(self, batch: Batch) -> Tensor:
        share = self.share_of(batch) if self.vae.layout.shared else 0.0
        terms = self.terms.take(self.objective, share)
        if terms is not None:
            return terms
        drawn = row_terms(self.vae, batch, 1)
        log_likelihood, rate = drawn.log_likelihood.sum(), (drawn.log_guide - drawn.log_prior).sum()
        if drawn.shared is not None:
            rate = rate + share * drawn.shared.rate
        return torch.stack([log_likelihood - rate, log_likelihood, rate])

    def _announced(self, *arguments: object) -> object:
        # Pyro's objectives skip the backward pass where no parameter passes through `pyro.param`, and those of
        # a plain nn.Module do not. One is enough.
        pyro.param("pyrovae.trains", next(p for p in self.vae.parameters() if p.requires_grad))
        return self.vae.model(*arguments)
