"""log p(x, u) of rows and its gradient, u being a row's latents in unconstrained coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyrovae.block_sizes import ROWS_AT_ONCE, draws_at_once
from pyrovae.data import Batch, Rows
from pyrovae.evidence.importance import PROBE_ROWS, draws_of_prior, measured
from pyrovae.evidence.memory import Limits, Pieces
from pyrovae.evidence.unconstrained import Unconstrained, bijections_of, differentiable_recurrence
from pyrovae.pair.running import run_guide, run_model
from pyrovae.random_state import fixed_seed
from pyrovae.traced.repeated import Repeated
from pyrovae.vae import VAE

# Copies of positions, gradients and temporaries of mixtures of normals, while a block is scored.
COPIES = 12


@dataclass(frozen=True)
class Densities:
    """Log densities over u at positions [S,B]: of the prior, of p(x|u), and of the guide where it was asked for."""

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor | None

    @property
    def log_joint(self) -> Tensor:
        """log p(x, u), -inf where it is not defined."""
        return (self.log_prior + self.log_likelihood).nan_to_num(-math.inf, math.inf, -math.inf)


@dataclass(frozen=True)
class Joint:
    """Densities of a pair over unconstrained positions u [S,B,d], piece by piece as memory allows.

    Args:
        space: what u is of the latents.
        d: numbers of u.
        dtype: of u, as programs take it.
        score_guide: whether the guide has a density at any u.

    """

    vae: VAE
    space: Unconstrained
    d: int
    dtype: torch.dtype
    score_guide: bool
    pieces: Pieces
    at_once: int
    _densities: Callable[[Batch, Tensor], Sequence[Tensor]]
    _gradients: Callable[[Batch, Tensor], Sequence[Tensor]]

    @classmethod
    def of(cls, vae: VAE, data: Rows, num_samples: int, limits: Limits, *, score_guide: bool) -> Joint:
        """Measure what scoring takes.

        Raises:
            ValueError: latents without a map to real numbers; too little memory.

        """
        space = Unconstrained(vae.layout, bijections_of(vae, data))
        few = data.take(slice(0, PROBE_ROWS), vae.device)
        at_start = space.flatten(_one_draw(vae, few))
        d, dtype = at_start.shape[-1], at_start.dtype
        densities, gradients = _Densities(vae, space, score_guide), _Gradients(vae, space)
        footprint = measured(vae, lambda S: gradients(few, at_start.expand(S, -1, -1)), few)
        at_once = draws_at_once(COPIES * d)
        num_rows = min(ROWS_AT_ONCE, len(data))
        taken = num_rows * (COPIES * 8 * d * (min(at_once, num_samples) + d))
        pieces = limits.pieces(footprint, taken, num_rows, vae.device)
        calls = num_samples * len(data) // (pieces.samples * pieces.rows)
        return cls(
            vae,
            space,
            d,
            dtype,
            score_guide,
            pieces,
            at_once,
            Repeated(vae, densities, calls, limits.compile),
            Repeated(vae, gradients, calls, limits.compile),
        )

    def densities(self, batch: Batch, u: Tensor) -> Densities:
        """At u [S,B,d]."""
        found = self._by_piece(self._densities, batch, u, [()] * (2 + self.score_guide))
        return Densities(found[0], found[1], found[2] if self.score_guide else None)

    def with_gradient(self, batch: Batch, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) [S,B], -inf where it is not defined, and its gradient [S,B,d], 0 there; in float64."""
        value, gradient = self._by_piece(self._gradients, batch, u, [(), (self.d,)])
        return value.nan_to_num(-math.inf, math.inf, -math.inf), gradient.nan_to_num(0.0, 0.0, 0.0)

    def flat(self, batch: Batch, u: Tensor) -> Tensor:
        """Rows whose density does not depend on some number of u at any of these places, [B]: a mask left it out."""
        gradient = self.with_gradient(batch, u)[1]
        return (gradient == 0).all(0).any(-1)

    def _by_piece(
        self,
        score: Callable[[Batch, Tensor], Sequence[Tensor]],
        batch: Batch,
        u: Tensor,
        shapes: Sequence[tuple[int, ...]],
    ) -> list[Tensor]:
        found = [u.new_empty(*u.shape[:2], *shape, dtype=torch.float64) for shape in shapes]
        u = u.to(self.dtype)
        for samples, some in self.pieces(*u.shape[:2]):
            for whole, part in zip(found, score(batch[some], u[samples, some]), strict=True):
                whole[samples, some] = part.double()
        return found


def _one_draw(vae: VAE, batch: Batch) -> dict[str, Tensor]:
    with vae.evaluating(), fixed_seed(0, vae.device):
        return draws_of_prior(vae, batch, 1)[0]


@dataclass(frozen=True)
class _Densities:
    vae: VAE
    space: Unconstrained
    score_guide: bool

    def __call__(self, batch: Batch, u: Tensor) -> list[Tensor]:
        try:
            return self._found(batch, u)
        except ValueError:
            # Out at the end of float32 validation refuses what then has no density.
            with pyro.validation_enabled(False):
                return self._found(batch, u)

    def _found(self, batch: Batch, u: Tensor) -> list[Tensor]:
        latents, log_volume = self.space.unflatten(u)
        sites = run_model(self.vae, batch, latents, len(u)).values()
        log_prior = torch.stack([s.log_prob.double() for s in sites if not s.observed]).sum(0) + log_volume
        found = [log_prior, torch.stack([s.log_prob.double() for s in sites if s.observed]).sum(0)]
        if self.score_guide:
            guide = run_guide(self.vae, batch, len(u), latents=latents).values()
            found.append(torch.stack([s.log_prob.double() for s in guide]).sum(0) + log_volume)
        return found


@dataclass(frozen=True)
class _Gradients:
    vae: VAE
    space: Unconstrained

    def __call__(self, batch: Batch, u: Tensor) -> list[Tensor]:
        u = u.detach().requires_grad_()
        with torch.enable_grad(), differentiable_recurrence(self.vae):
            value = torch.stack(_Densities(self.vae, self.space, score_guide=False)(batch, u)).sum(0)
            (gradient,) = torch.autograd.grad(value.sum(), u, materialize_grads=True)
        return [value.detach(), gradient]
