"""The path of annealing: from its start, the prior or the guide, to p(x, z), and where chains are on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyro
import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.evidence.importance import draws_of_prior
from pyrovae.evidence.memory import Pieces
from pyrovae.evidence.unconstrained import Unconstrained, differentiable_recurrence
from pyrovae.pair.row_keys import mixed, numbered
from pyrovae.pair.row_noise import DrawnByRow, normal_noise, uniform_noise
from pyrovae.pair.running import run_guide, run_model
from pyrovae.vae import VAE


@dataclass(frozen=True)
class Point:
    """Where chains are, u [S,B,d], with densities [S,B] and gradients [S,B,d] of the start and of p(x, z) over it."""

    u: Tensor
    log_start: Tensor
    log_ratio: Tensor
    start_gradient: Tensor
    ratio_gradient: Tensor

    def log_target(self, beta: float) -> Tensor:
        """log r + beta (log p(x, z) - log r), -inf where it is not defined."""
        return (self.log_start + beta * self.log_ratio).nan_to_num(-math.inf, math.inf, -math.inf)

    def gradient(self, beta: float) -> Tensor:
        """Its gradient; 0 where it is not defined, where moves are refused anyhow."""
        return (self.start_gradient + beta * self.ratio_gradient).nan_to_num(0.0, 0.0, 0.0)

    def where(self, mask: Tensor, other: Point) -> Point:
        """Itself where the mask [S,B] says so, else the other."""
        wide = mask.unsqueeze(-1)
        return Point(
            self.u.where(wide, other.u),
            self.log_start.where(mask, other.log_start),
            self.log_ratio.where(mask, other.log_ratio),
            self.start_gradient.where(wide, other.start_gradient),
            self.ratio_gradient.where(wide, other.ratio_gradient),
        )


# Numbers of a row's noise that are made together.
NUMBERS_OF_NOISE = 256


class MoveNoise:
    """What moves of chains draw, each row's from its key: without end, some moves at a time.

    Args:
        keys: of the rows, [B].
        u: where the chains are, [S,B,d].

    """

    def __init__(self, keys: Tensor, u: Tensor) -> None:
        self.keys, self.shape, self.dtype = keys, u.shape, u.dtype
        self._count, self._ready = 0, list[tuple[Tensor, Tensor, Tensor]]()

    def __next__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Momenta [S,B,d], and two uniform numbers of each chain, [S,B] each."""
        if not self._ready:
            self._count += 1
            keys, (S, _, d) = numbered(self.keys, self._count), self.shape
            M = max(1, NUMBERS_OF_NOISE // (S * (d + 2)))
            momenta = normal_noise(keys, M * S, d, self.dtype).split(S)
            uniform = uniform_noise(mixed(keys), M * S, 2, torch.float64).split(S)
            self._ready = [(p, *u.unbind(-1)) for p, u in zip(momenta, uniform, strict=True)]
        return self._ready.pop()


class Way(Protocol):
    """From a start to p(x, z): what moves along it need."""

    def draw(self, batch: Batch, num_samples: int, keys: Tensor) -> Tensor:
        """Draws of the start, u [S,B,d], from the rows' keys [B]."""

    def at(self, batch: Batch, u: Tensor) -> Point:
        """Densities and gradients."""


@dataclass(frozen=True)
class Path:
    """From the start, prior or guide, to p(x, z): draws of the start, and densities with their gradients."""

    vae: VAE
    space: Unconstrained
    from_guide: bool
    pieces: Pieces
    at_once: int
    score: Callable[[Batch, Tensor], Sequence[Tensor]]

    def draw(self, batch: Batch, num_samples: int, keys: Tensor) -> Tensor:
        """Draws of the start, u [S,B,d], from the rows' keys [B]."""
        with DrawnByRow(keys):
            if self.from_guide:
                sites = run_guide(self.vae, batch, num_samples)
                return self.space.flatten({name: sites[name].value for name in self.vae.layout.latents})
            # Draws of the prior come with a run of the model: one by one they take no memory that grows with S.
            drawn = (draws_of_prior(self.vae, batch, 1)[0] for _ in range(num_samples))
            return torch.cat([self.space.flatten(latents) for latents in drawn])

    def at(self, batch: Batch, u: Tensor) -> Point:
        """Densities and gradients, piece by piece."""
        shape = u.shape[:2]
        densities = u.new_empty(2, *shape, dtype=torch.float64)
        gradients = u.new_empty(2, *u.shape)
        for samples, some in self.pieces(*shape):
            few = batch[some]
            scores = self.score(few, u[samples, some])
            densities[0, samples, some], densities[1, samples, some] = scores[:2]
            gradients[0, samples, some], gradients[1, samples, some] = scores[2:]
        if self.from_guide:  # the end is p(x, z); from the prior it is p(x|z), which is the ratio itself
            densities[1] -= densities[0]
            gradients[1] -= gradients[0]
        return Point(u, densities[0], densities[1], gradients[0], gradients[1])


@dataclass(frozen=True)
class Score:
    """Log densities of start and end at a piece of positions, and their gradients."""

    vae: VAE
    space: Unconstrained
    from_guide: bool

    def __call__(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Densities [S,B] and gradients [S,B,d] at u [S,B,d]."""
        u = u.detach().requires_grad_()
        with torch.enable_grad(), differentiable_recurrence(self.vae):
            try:
                log_start, log_end = self._densities(batch, u)
            except ValueError:
                # A move that went astray, to where float32 ends: there densities are NaN, and it is refused.
                with pyro.validation_enabled(False):
                    log_start, log_end = self._densities(batch, u)
            (start_gradient,) = torch.autograd.grad(log_start.sum(), u, retain_graph=True)
            (end_gradient,) = torch.autograd.grad(log_end.sum(), u, materialize_grads=True)
        return log_start.detach(), log_end.detach(), start_gradient, end_gradient

    def _densities(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_volume = self.space.unflatten(u)
        sites = run_model(self.vae, batch, latents, len(u)).values()
        log_prior = torch.stack([s.log_prob.double() for s in sites if not s.observed]).sum(0) + log_volume
        log_likelihood = torch.stack([s.log_prob.double() for s in sites if s.observed]).sum(0)
        if not self.from_guide:
            return log_prior, log_likelihood
        guide = run_guide(self.vae, batch, len(u), latents=latents).values()
        log_guide = torch.stack([s.log_prob.double() for s in guide]).sum(0) + log_volume
        return log_guide, log_prior + log_likelihood
