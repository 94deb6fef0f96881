"""What the training benchmark trains: each model declared, the same by hand, and its data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pyrovae as pv
from benchmarks import by_hand, data, deep_markov
from pyrovae.guides import AmortizedGuide, BottomUpGuide, DiagonalNormal
from pyrovae.models import Bernoulli, HierarchicalModel, LatentVariableModel, Normal, StandardNormal
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder
from pyrovae.pair.running import row_terms

SIZE, HIDDEN, K = 784, 400, 20
LATENT, BETWEEN, TOP = 40, 100, 10  # of the two levels
INNER, OUTER = 32, 64  # channels


@dataclass(frozen=True)
class Task:
    """A model with its batch size; an epoch has `steps` full batches.

    `data(N)` gives (x, *context) of N rows; `in_pythae` says whether pythae's VAE can hold the model.
    """

    name: str
    batch: int
    steps: int
    declare: Callable[[], pv.VAE]
    by_hand: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, ...]]
    in_pythae: bool = False
    in_lightning: bool = False

    def rows(self, device: torch.device) -> tuple[Tensor, ...]:
        """An epoch's data."""
        return tuple(values.to(device) for values in self.data(self.batch * self.steps))

    def pair(self, rows: Sequence[Tensor], device: torch.device) -> pv.VAE:
        """The declared pair, with the same weights each time."""
        torch.manual_seed(0)
        vae = self.declare().to(device)
        vae.rows(*rows)
        return vae

    def hand(self, rows: Sequence[Tensor], device: torch.device) -> nn.Module:
        """The model by hand, with the declared pair's weights."""
        model = self.by_hand().to(device)
        own, given = list(model.parameters()), list(self.pair(rows, device).parameters())
        with torch.no_grad():
            for parameter, value in zip(own, given, strict=True):
                if parameter.shape != value.shape:
                    raise ValueError(f"{self.name}: {list(value.shape)} by hand is {list(parameter.shape)}.")
                parameter.copy_(value)
        return model


def perceptrons() -> pv.VAE:
    model = LatentVariableModel(StandardNormal(K), Bernoulli(MLP(K, SIZE, [HIDDEN])))
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(MLP(SIZE, (K, K), [HIDDEN]))))


def convolutions() -> pv.VAE:
    shape, channels = (1, 28, 28), (INNER, OUTER)
    model = LatentVariableModel(StandardNormal(K), Bernoulli(ConvDecoder(K, shape, channels)))
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(ConvEncoder(shape, (K, K), channels))))


def two_levels() -> pv.VAE:
    prior = Normal(MLP(TOP, (LATENT, LATENT), [BETWEEN]))
    model = HierarchicalModel([StandardNormal(TOP), prior], Bernoulli(MLP(LATENT, SIZE, [HIDDEN])))
    upper = DiagonalNormal(MLP(LATENT, (TOP, TOP), [BETWEEN]))
    return pv.VAE(model, BottomUpGuide([upper, DiagonalNormal(MLP(SIZE, (LATENT, LATENT), [HIDDEN]))]))


def digits(rows: int) -> tuple[Tensor, ...]:
    """Rows of static MNIST, or random bits where its file is absent: steps take as long."""
    found = data.static_mnist()[0] if _at_hand("binarized_mnist.npz") else _bits(rows, SIZE)
    return (found[torch.arange(rows) % len(found)],)


def images(rows: int) -> tuple[Tensor, ...]:
    return (digits(rows)[0].reshape(-1, 1, 28, 28),)


def chorales(rows: int) -> tuple[Tensor, ...]:
    """Pieces of JSB chorales and their lengths, or random bits of their shape."""
    if _at_hand("jsb_chorales.npz"):
        x, lengths = deep_markov.pieces(*data.jsb_chorales("train"))
    else:
        x, lengths = _bits(rows, deep_markov.PIECE, 88), torch.arange(rows) % deep_markov.PIECE + 1
        x = x * (torch.arange(deep_markov.PIECE) < lengths.unsqueeze(1)).unsqueeze(2)
    places = torch.arange(rows) % len(x)
    return x[places], lengths[places]


def _bits(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full(shape, 0.2), generator=torch.Generator().manual_seed(0))


def _at_hand(name: str) -> bool:
    folder = os.environ.get("PYROVAE_DATA")
    return bool(folder) and os.path.isfile(os.path.join(folder, name))


def _perceptrons_at(batch: int, steps: int) -> Task:
    return Task(
        f"{SIZE}-{HIDDEN}-{K}",
        batch,
        steps,
        perceptrons,
        lambda: by_hand.perceptrons(SIZE, HIDDEN, K),
        digits,
        in_pythae=True,
        in_lightning=True,
    )


def _markov_by_hand() -> nn.Module:
    return by_hand.DeepMarkov(88, deep_markov.K, deep_markov.HIDDEN, deep_markov.STATE)


TASKS = [
    _perceptrons_at(20, 60),
    _perceptrons_at(128, 20),
    _perceptrons_at(1024, 3),
    Task(
        "convolutional",
        128,
        3,
        convolutions,
        lambda: by_hand.convolutions(K, INNER, OUTER),
        images,
        in_pythae=True,
    ),
    Task(
        "two levels",
        128,
        10,
        two_levels,
        lambda: by_hand.TwoLevels(SIZE, HIDDEN, LATENT, BETWEEN, TOP),
        digits,
    ),
    Task("deep Markov model", deep_markov.BATCH, 6, deep_markov.deep_markov, _markov_by_hand, chorales),
]


def check_same(task: Task, device: torch.device, samples: int = 200) -> None:
    """Raise unless both give the same: log p(x|z) of the same draws to rounding, the mean rate within its error.

    By hand the rate's closed forms are used, so that single draws differ. Five standard errors of the mean over
    draws and rows are passed by chance once in two million times.
    """
    rows = tuple(values[: min(task.batch, 16)] for values in task.rows(device))
    vae, model = task.pair(rows, device), task.hand(rows, device)
    batch = vae.rows(*rows).take(slice(None), device)
    likelihoods, gaps = [], []
    with torch.no_grad(), vae.evaluating():
        for seed in range(samples):
            torch.manual_seed(seed)
            terms: Any = row_terms(vae, batch, 1)
            torch.manual_seed(seed)
            log_likelihood, rate = model(*rows)
            likelihoods.append((log_likelihood - terms.log_likelihood[0]).abs() / (1 + log_likelihood.abs()))
            gaps.append((rate - (terms.log_guide - terms.log_prior)[0]).double().mean())
    off = float(torch.stack(likelihoods).max())
    gap = torch.stack(gaps)
    allowed = 5 * float(gap.std()) / samples**0.5 + 1e-4
    if not (off < 1e-4 and float(gap.mean().abs()) < allowed):
        raise RuntimeError(
            f"{task.name} by hand is another model: log p(x|z) differs by {off:.1e} of itself, the rate by "
            f"{float(gap.mean()):.4f} nats where {allowed:.4f} is allowed."
        )
