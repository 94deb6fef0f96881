"""Each row's best normal in unconstrained coordinates, with every covariance: many rows at once, by Newton's steps.

    q = argmax ELBO(q),   q = N(m, L L'),   so that   E_q[grad f] = 0   and   E_q[hessian f] = -(L L')^-1

with f(u) = log p(x, u). In coordinates v of the normal at hand, u = m + L v, one step of the natural gradient takes its
precision from I to P = -E[hessian] and its mean by P^-1 E[gradient]: for a normal posterior one step is all. Both
expectations are cubature sums of gradients g alone, at the ends +-r e of orthonormal frames, turned anew at each step:
the hessian times e is (g(r e) - g(-r e)) / 2 r where f is quadratic. Khan, Nielsen, "Fast yet Simple Natural-Gradient
Descent for Variational Inference in Complex Models" (2018), https://arxiv.org/abs/1807.04489, eq. 8 to 10; the frames
are those of Genz, Monahan, "Stochastic integration rules for infinite regions" (1998),
https://doi.org/10.1137/S1064827595286803.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.evidence.joint import Joint
from pyrovae.pair.row_keys import numbered
from pyrovae.pair.row_noise import normal_noise

# Gradients of a step: at least so many pairs of a row, and one for each number of it.
FEWEST_PAIRS = 8
MOST_STEPS = 60
# Covariances are found up to so many numbers of latents.
MOST_NUMBERS = 128
# A row has settled once a step would gain less, in nats, as two frames agree; some steps more are averaged.
TOLERANCE = 0.02
SETTLED_STEPS = 4
# By what a step may change precisions, and how many spreads it may go.
LARGEST_FACTOR = 16.0
FARTHEST = 3.0
# A step that loses more than this (nats) is taken back, and a quarter of it is tried.
LOSS_ALLOWED = 0.5


@dataclass(frozen=True)
class RowNormals:
    """Normals of B rows over u: means [B,d] and roots [B,d,d] of covariances, float64.

    `elbo` is of the last step, [B]; `steps` how many each row took, and `converged` whether that was by its own rule.
    """

    loc: Tensor
    root: Tensor
    elbo: Tensor
    steps: Tensor
    converged: Tensor

    @property
    def scale_tril(self) -> Tensor:
        """Cholesky factors of the covariances, [B,d,d]."""
        upper = torch.linalg.qr(self.root.mT).R
        return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT


@dataclass
class _Found:
    """What gradients at one normal's frame say, for B rows: its ELBO, mean gradient and precision, in its own v."""

    elbo: Tensor
    slope: Tensor
    precision: Tensor

    def gain_with(self, other: _Found, *, diagonal: bool) -> Tensor:
        """What is to be gained, in nats, as two frames agree: their noise is not alike, and so does not count."""
        eye = torch.eye(self.slope.shape[-1], dtype=torch.float64, device=self.slope.device)
        product = (self.precision - eye) * (other.precision - eye)
        of_precision = product.diagonal(dim1=-2, dim2=-1).sum(-1) if diagonal else product.sum((-1, -2))
        return 0.5 * (self.slope * other.slope).sum(-1) + 0.25 * of_precision

    def __getitem__(self, rows: Tensor) -> _Found:
        return _Found(self.elbo[rows], self.slope[rows], self.precision[rows])

    def __setitem__(self, rows: Tensor, new: _Found) -> None:
        self.elbo[rows], self.slope[rows], self.precision[rows] = new.elbo, new.slope, new.precision


def fit_normals(
    joint: Joint,
    batch: Batch,
    loc: Tensor,
    spread: Tensor,
    keys: Tensor,
    *,
    most_steps: int = MOST_STEPS,
    diagonal: bool = False,
) -> RowNormals:
    """Climb from a diagonal normal of each row, each row until it has settled.

    Args:
        joint: of the pair.
        batch: B rows.
        loc: means to begin with, [B,d].
        spread: and standard deviations.
        keys: of the rows' noise, [B].
        diagonal: the best normals without covariances.
        most_steps: a limit; a row costs 2 max(d, 8) gradients of p(x, u) in each step.

    """
    B, d = loc.shape
    at, root = loc.double().clone(), torch.diag_embed(spread.double())
    found = _Found(
        at.new_full((B,), -math.inf), torch.zeros_like(at), torch.eye(d).to(root).expand(B, d, d).clone()
    )
    share, settled = at.new_ones(B), torch.zeros(B, dtype=torch.int64, device=at.device)
    steps = torch.zeros_like(settled)
    live = torch.arange(B, device=at.device)
    to, to_root = at.clone(), root.clone()
    for step in range(most_steps):
        new = _look(joint, batch[live], to[live], to_root[live], numbered(keys[live], step))
        old, begun = found[live], steps[live] > 0
        better = new.elbo.isfinite() & ((new.elbo > old.elbo - LOSS_ALLOWED) | (settled[live] > 0))
        there = live[better]
        at[there], root[there] = to[there], to_root[there]
        found[there] = new[better]
        steps[live] += 1
        small = begun & better & ((new.elbo - old.elbo).abs() < LOSS_ALLOWED)
        small &= new.gain_with(old, diagonal=diagonal) < TOLERANCE
        settled[live] = torch.where(small | (settled[live] > 0), settled[live] + 1, 0)
        share[live] = torch.where(better, (2 * share[live]).clamp(max=1.0), share[live] / 4)
        lost = live[~better & ~old.elbo.isfinite()]  # where the start has no density the normal is too wide
        root[lost] = root[lost] / 2
        live = live[(settled[live] <= SETTLED_STEPS)]
        if not len(live):
            break
        share[live] = torch.where(settled[live] > 0, 1 / (1.0 + settled[live]), share[live])
        to[live], to_root[live] = _moved(at[live], root[live], found[live], share[live], diagonal=diagonal)
    return RowNormals(at, root, found.elbo, steps, settled > SETTLED_STEPS)


def _look(joint: Joint, batch: Batch, loc: Tensor, root: Tensor, keys: Tensor) -> _Found:
    """Sums of gradients over a frame of each row."""
    B, d = loc.shape
    turns = max(1, math.ceil(FEWEST_PAIRS / d))
    frames = torch.linalg.qr(normal_noise(keys, turns, d * d, torch.float64).reshape(turns, B, d, d)).Q
    radii = _radii(d, turns).to(loc.device)
    ends = (radii[:, None, None, None] * frames).movedim(2, 1).reshape(turns * d, B, d)
    ends = torch.cat([ends, -ends])
    u = loc + torch.einsum("bij,sbj->sbi", root, ends)
    value, gradient = joint.with_gradient(batch, u)
    slopes = torch.einsum("bij,sbi->sbj", root, gradient)
    odd, half = (slopes[: len(ends) // 2] - slopes[len(ends) // 2 :]) / 2, ends[: len(ends) // 2]
    precision = -torch.einsum("sbi,sbj->bij", odd, half) / (radii**2).sum()
    elbo = value.mean(0) + torch.linalg.slogdet(root).logabsdet + d * (1 + math.log(2 * math.pi)) / 2
    return _Found(elbo, slopes.mean(0), (precision + precision.mT) / 2)


def _radii(d: int, turns: int) -> Tensor:
    """Of the frames: spread as those of normal draws are, with mean square d."""
    from scipy.special import gammaincinv  # not at the top: it takes time to import

    squares = 2 * torch.as_tensor(gammaincinv(d / 2, (torch.arange(turns).double().numpy() + 0.5) / turns))
    return (squares * (d / squares.mean())).sqrt()


def _moved(
    loc: Tensor, root: Tensor, found: _Found, share: Tensor, *, diagonal: bool
) -> tuple[Tensor, Tensor]:
    """A share of Newton's step, of the precision and then of the mean."""
    values, vectors = torch.linalg.eigh(found.precision)
    values = torch.lerp(
        torch.ones_like(values), values.clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR), share[:, None]
    )
    slope = torch.einsum("bij,bi->bj", vectors, found.slope)
    way = torch.einsum("bij,bj->bi", vectors, share[:, None] * slope / values)
    length = way.norm(dim=-1, keepdim=True)
    way = way * (FARTHEST * way.shape[-1] ** 0.5 / length.clamp(min=1e-300)).clamp(max=1.0)
    if diagonal:  # the mean takes the whole of Newton's step
        own = found.precision.diagonal(dim1=-2, dim2=-1).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
        narrower = torch.diag_embed(torch.lerp(torch.ones_like(own), own, share[:, None]) ** -0.5)
    else:
        narrower = torch.einsum("bij,bj,bkj->bik", vectors, values**-0.5, vectors)
    return loc + torch.einsum("bij,bj->bi", root, way), root @ narrower
