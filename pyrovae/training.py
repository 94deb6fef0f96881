"""Training: stochastic variational inference over shuffled minibatches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import pandas as pd
import pyro
import pyro.infer
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyrovae import rows
from pyrovae.data import Rows
from pyrovae.evidence import elbo
from pyrovae.layout import Arguments
from pyrovae.recording import BatchTerms
from pyrovae.support import check_support
from pyrovae.vae import VAE, check_count

OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

COLUMNS = ("epoch", "loss", "elbo", "reconstruction", "rate", "elbo_valid", "seconds")


def fit(
    vae: VAE,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    objective: pyro.infer.ELBO | None = None,
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
    validation: Any = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a VAE by stochastic variational inference; returns the history, one row an epoch.

    Each step takes a minibatch, lets the objective compute its loss and gradients (Hoffman, Blei, Wang,
    Paisley, "Stochastic Variational Inference", 2013; reparameterized, Kingma & Welling 2013), divides them
    by the number of rows and steps the optimizer. A ragged last batch counts by its rows: its gradient is
    divided by `batch_size` like any other's.

    Args:
        vae: the pair; its parameters are trained in place.
        data: `x` or the tuple `(x, *context)`, tensors or NumPy arrays with N rows.
        epochs: passes over the data.
        batch_size: rows a step; at most N are taken. Modules train in the mode (train or eval) that they are in.
        objective: any `pyro.infer.ELBO`; None takes `pyro.infer.Trace_ELBO()`, or
            `pyro.infer.TraceEnum_ELBO` where the model enumerates discrete latents.
        optimizer: makes a torch optimizer from parameters, e.g. `lambda p: torch.optim.Adam(p, lr=3e-4)`, or
            is one over this VAE's parameters; Adam with learning rate 1e-3 if None.
        validation: held-out data of the same kind; their ELBO is logged each epoch.
        seed: of shuffling and sampling; torch's random state is left as it was. None draws from that state.
        device: moves the VAE there, and the data; None trains where the VAE is.
        progress: show a progress bar.

    Returns:
        A DataFrame with the columns `epoch, loss, elbo, reconstruction, rate, elbo_valid, seconds`: the
        objective's mean loss, and the ELBO (beta = 1, without the program's own scales), E_q[log p(x|z)] and
        the sampled rate on the same draws, in nats per row, averaged over the epoch's rows while they were
        trained on; the validation rows' ELBO after the epoch (NaN without validation).

    Raises:
        ValueError: data that do not fit the pair or lie outside a likelihood's support (with the row),
            counts below 1, a device that is not there, an optimizer over other parameters. Raised before
            the first step.
        TypeError: an objective or an optimizer of another kind.

    Example:
        >>> import pyrovae as pv
        >>> prior, decoder = pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 64))
        >>> encoder = pv.guides.DiagonalNormal(pv.nn.MLP(64, (2, 2)))
        >>> vae = pv.VAE(pv.models.LatentVariableModel(prior, decoder), pv.guides.AmortizedGuide(encoder))
        >>> history = pv.fit(vae, torch.zeros(50, 64), epochs=2, seed=0, progress=False)
        >>> history.columns.tolist()
        ['epoch', 'loss', 'elbo', 'reconstruction', 'rate', 'elbo_valid', 'seconds']

    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if objective is not None and not _is_supported(objective):
        raise TypeError(
            f"objective is {objective!r}: expected a pyro.infer.ELBO such as pyro.infer.Trace_ELBO(), neither a "
            "jitted one nor one with two losses."
        )
    if device is not None:
        vae.to(available(device))
    with _seeded(seed, vae.device):
        train = _checked(vae, data).to(vae.device)
        held_out = None if validation is None else _checked(vae, validation, "validation ")
        stepper = _Stepper(
            vae, objective or _default_objective(vae), _optimizer(vae, optimizer), min(batch_size, len(train))
        )
        # The same draws each epoch: the curve shows the change of the model, not of the noise.
        valid_seed = int(torch.randint(2**62, ()))
        history = []
        bar = tqdm(range(1, epochs + 1), desc="fit", unit="epoch", disable=not progress, mininterval=0.5)
        for epoch in bar:
            started = time.perf_counter()
            loss, bound, reconstruction, rate = stepper.epoch(train)
            seconds = time.perf_counter() - started
            valid = math.nan
            if held_out is not None:
                valid = float(elbo(vae, *held_out.arguments, num_samples=1, seed=valid_seed).elbo.mean())
            history.append((epoch, loss, bound, reconstruction, rate, valid, seconds))
            shown = f"ELBO {bound:.2f}" + ("" if held_out is None else f", valid {valid:.2f}")
            bar.set_postfix_str(shown, refresh=epoch == epochs)
    return pd.DataFrame(history, columns=list(COLUMNS))


def _is_supported(objective: Any) -> bool:
    unlike: tuple[type, ...] = (
        pyro.infer.ReweightedWakeSleep,
        pyro.infer.JitTrace_ELBO,
        pyro.infer.JitTraceEnum_ELBO,
    )
    unlike += (pyro.infer.JitTraceGraph_ELBO, pyro.infer.JitTraceMeanField_ELBO)
    return isinstance(objective, pyro.infer.ELBO) and not isinstance(objective, unlike)


def _default_objective(vae: VAE) -> pyro.infer.ELBO:
    if not vae.layout.enumerated:
        return pyro.infer.Trace_ELBO()
    return pyro.infer.TraceEnum_ELBO(max_plate_nesting=-vae.layout.sample_dim - 1)


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


class _Stepper:
    """One epoch after another of SVI steps with one optimizer."""

    def __init__(
        self, vae: VAE, objective: pyro.infer.ELBO, optimizer: torch.optim.Optimizer, batch_size: int
    ) -> None:
        self.vae, self.optimizer, self.batch_size = vae, optimizer, batch_size
        self.objective: Any = objective  # loss_and_grads is each objective's own
        self.parameters = [p for p in vae.parameters() if p.requires_grad]
        self.terms = BatchTerms()
        self.model, self.guide = self.terms.model(self._announced), self.terms.guide(vae.guide)

    def epoch(self, data: Rows) -> list[float]:
        """Loss, ELBO, reconstruction and rate: means over the epoch's rows."""
        totals = torch.zeros(4, dtype=torch.float64)
        with self.vae.scope():
            for index in torch.randperm(len(data)).split(self.batch_size):
                totals += self._step(data.take(index)).double().cpu()
        means: list[float] = (totals / len(data)).tolist()
        return means

    @torch.no_grad()
    def _drawn_terms(self, arguments: Arguments) -> Tensor:
        terms = rows.row_terms(self.vae, arguments, 1)
        log_likelihood, rate = terms.log_likelihood.sum(), (terms.log_guide - terms.log_prior).sum()
        return torch.stack([log_likelihood - rate, log_likelihood, rate])

    def _announced(self, *arguments: Any) -> Any:
        # Pyro's objectives skip the backward pass where no parameter passes through `pyro.param`, and those of
        # a plain nn.Module do not. One is enough.
        pyro.param("pyrovae.trains", self.parameters[0])
        return self.vae.model(*arguments)

    def _step(self, arguments: Arguments) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.loss_and_grads(self.model, self.guide, *arguments)
        terms = self.terms.take(self.objective)
        if terms is None:
            terms = self._drawn_terms(arguments)
        plate_scale = self.terms.plate_scale
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / (self.batch_size * plate_scale))
        self.optimizer.step()
        return torch.stack([terms.new_tensor(loss / plate_scale), *terms])


def _checked(vae: VAE, data: Any, which: str = "") -> Rows:
    """Rows that fit the pair and lie in the likelihood's support, all of them."""
    try:
        checked = vae.rows(*(data if isinstance(data, tuple) else (data,)))
        with vae.evaluating(), rows.fixed_seed(0, vae.device):
            for first in range(0, len(checked), 256):
                check_support(vae.model, checked.take(slice(first, first + 256), vae.device), first)
    except (ValueError, TypeError) as error:
        if not which:
            raise
        raise type(error)(f"{which}data: {error}") from error
    return checked


def _optimizer(vae: VAE, given: OptimizerFactory | torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    parameters = [p for p in vae.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "the VAE has no parameters to train: model and guide hold none that require gradients."
        )
    if given is None:
        return torch.optim.Adam(parameters, lr=1e-3)
    made = given if isinstance(given, torch.optim.Optimizer) else given(parameters)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer gave {type(made).__name__}: expected a torch optimizer, e.g. "
            "optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)."
        )
    own = {id(p) for p in parameters}
    foreign = [p for group in made.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        raise ValueError(
            f"the optimizer holds {len(foreign)} parameters that are not this VAE's. Make it from vae.parameters(), "
            "or give a function of parameters, optimizer=lambda parameters: ..."
        )
    held = {id(p) for group in made.param_groups for p in group["params"]}
    lacking = [name for name, p in vae.store.items() if p.requires_grad and id(p) not in held]
    if lacking and given is made:
        raise ValueError(
            f"the optimizer lacks {', '.join(map(repr, lacking))}, which pyro.param made at the first batch. Make it "
            "after vae.rows(x), or give a function of parameters, optimizer=lambda parameters: ..."
        )
    return made


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    with nullcontext() if seed is None else rows.fixed_seed(seed, device):
        yield
