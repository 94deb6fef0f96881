"""Factor analysis of rows that lack entries: the linear model that a table's VAE starts from."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = 60
# How many independent rows may be counted more, and by how many parts of how many rows that is decided.
_PRIOR_ROWS = (1.0, 3.0, 10.0, 30.0)
_PARTS, _MOST_ROWS = 3, 1_000
# What varies less says nothing of its variance.
_SMALLEST_VARIANCE = 1e-6


class Factors(NamedTuple):
    """u = W z + mean + noise: `loading` W [F,K], `mean` [F], `noise` [F], the noise's standard deviation."""

    loading: Tensor
    mean: Tensor
    noise: Tensor

    def log_likelihood(self, u: Tensor, present: Tensor) -> float:
        """Of rows [N,F] together, of the entries that are there, in nats."""
        P, variance = present.double(), self.noise.square()
        left = torch.where(present, u.double() - self.mean, 0.0)
        outer = _outer(self.loading).unflatten(1, (-1, self.loading.shape[1]))
        precision = torch.einsum("nf,fkl->nkl", P / variance, outer) + torch.eye(outer.shape[1]).to(outer)
        root = torch.linalg.cholesky(precision)
        inner = torch.linalg.solve_triangular(
            root, ((left / variance) @ self.loading)[..., None], upper=False
        )
        squares = (left.square() / variance).sum() - inner.square().sum()
        logs = (P * (2 * math.pi * variance).log()).sum() + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum()
        return float(-(squares + logs) / 2)


def cross_validated(u: Tensor, present: Tensor, latent_size: int, least: Tensor) -> Factors:
    """`factor_analysis` with as many rows more as make parts of the rows most probable that it has not seen."""
    some, there = u[:_MOST_ROWS], present[:_MOST_ROWS]
    part = torch.arange(len(some), device=u.device) % _PARTS

    def held_out(prior_rows: float) -> float:
        total = 0.0
        for own in (part == number for number in range(_PARTS)):
            found = factor_analysis(some[~own], there[~own], latent_size, least, prior_rows)
            total += found.log_likelihood(some[own], there[own])
        return total

    prior_rows = max(_PRIOR_ROWS, key=held_out) if len(some) >= 2 * _PARTS else _PRIOR_ROWS[-1]
    return factor_analysis(u, present, latent_size, least, prior_rows)


def factor_analysis(
    u: Tensor, present: Tensor, latent_size: int, least: Tensor, prior_rows: float
) -> Factors:
    """Expectation and maximization in turn, what is absent being integrated out.

        z ~ N(0, I_K)    u_f | z ~ N(W_f z + mean_f, noise_f^2)    of the entries f that a row has

    Rubin & Thayer, "EM algorithms for ML factor analysis" (1982), https://doi.org/10.1007/BF02293851. A few rows more
    are counted, all of whose entries are there and independent of each other, so that fewer rows than columns do.

    Args:
        u: standardized rows [N, F]; what stands where an entry is absent does not count.
        present: which entries are there, [N, F].
        latent_size: K.
        least: variances below which the noise's do not fall, [F].
        prior_rows: how many rows more.

    """
    N, F = u.shape
    P, eye = present.double(), torch.eye(latent_size, dtype=torch.float64, device=u.device)
    u = torch.where(present, u.double(), 0.0)
    count = P.sum(0)
    mean = u.sum(0) / count.clamp(min=1)
    variance = u.square().sum(0) / count.clamp(min=1) - mean.square()
    variance = torch.where(variance > _SMALLEST_VARIANCE, variance, 1.0)
    # Principal components first, absent entries at the mean.
    _, sizes, directions = torch.linalg.svd(P * (u - mean), full_matrices=False)
    kept = min(latent_size, len(sizes))
    W = u.new_zeros(F, latent_size)
    W[:, :kept] = directions[:kept].mT * sizes[:kept] / max(N, 1) ** 0.5
    noise = torch.maximum(variance - W.square().sum(1), 0.05 * variance).clamp(min=least)
    for _ in range(_STEPS):
        # E[z] and E[z z'] of every row
        precision = eye + ((P / noise) @ _outer(W)).unflatten(1, eye.shape)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        z = torch.einsum("nk,nkl->nl", (P * (u - mean) / noise) @ W, covariance)
        # and of the rows more, of which there are averages: z = slope' u
        own = torch.cholesky_inverse(torch.linalg.cholesky(eye + (W / noise[:, None]).mT @ W))
        slope = (W / noise[:, None]) @ own
        more = own + (slope.mT * variance) @ slope
        z1 = torch.cat([z, z.new_ones(N, 1)], 1)
        moments = _outer(z1).unflatten(1, (latent_size + 1, latent_size + 1))
        moments[:, :-1, :-1] += covariance
        squares = (P.mT @ moments.flatten(1)).unflatten(1, moments.shape[1:])
        squares[:, :-1, :-1] += prior_rows * more
        squares[:, -1, -1] += prior_rows
        # their mean is the mean
        products = (P * u).mT @ z1
        products[:, :-1] += prior_rows * slope * variance[:, None]
        products[:, -1] += prior_rows * mean
        both = torch.linalg.solve(squares, products)
        total = (P * u.square()).sum(0) + prior_rows * (variance + mean.square())
        left = total - 2 * (both * products).sum(1) + torch.einsum("fk,fkl,fl->f", both, squares, both)
        W, mean = both[:, :-1], both[:, -1]
        noise = (left / (count + prior_rows)).clamp(min=least)
    return Factors(W, mean, noise.sqrt())


def _outer(rows: Tensor) -> Tensor:
    """Of each row with itself, [N, K * K]."""
    return (rows[:, :, None] * rows[:, None, :]).flatten(1)
