"""Annealing from proposals of rows' own, over as many temperatures as each row still needs.

From a proposal near the posterior the way is short: the variance of log w falls in proportion to 1 / T, and pilot
chains, which the estimate does not use, say how large T has to be. Chains that these have ended in begin the way back,
whose figure errs high where they are draws of the posterior: between the two lies log p(x) (Grosse, Ancha, Roy,
"Measuring the reliability of MCMC inference with bidirectional Monte Carlo" (2016), https://arxiv.org/abs/1606.02275,
section 4: so on data, where no exact draws are at hand).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.data import Batch
from pyrovae.evidence.annealing import AnnealedImportanceSampling
from pyrovae.evidence.annealing_path import Point
from pyrovae.evidence.joint import Joint
from pyrovae.evidence.proposal import Proposals
from pyrovae.evidence.weights import Estimates, Tally, estimates
from pyrovae.pair.row_keys import Draws
from pyrovae.random_state import fixed_seed

CHAINS = 32
LEAPFROG_STEPS = 5
FEWEST_TEMPERATURES = 16
LONGER = 4


@dataclass(frozen=True)
class ProposalPath:
    """From proposals to p(x, u), in coordinates v of each row's first component, u = m + L v."""

    joint: Joint
    proposals: Proposals

    def draw(self, batch: Batch, num_samples: int, keys: Tensor) -> Tensor:
        """Draws of the proposals, v [S,B,d]: from each component as many, as far as they come out even."""
        J = len(self.proposals.loc)
        each = math.ceil(num_samples / J)
        parts = torch.stack([self.proposals.draw(j, keys + j, each) for j in range(J)], 1)
        loc, tril = self.proposals.loc[0], self.proposals.scale_tril[0]
        centred = (parts.flatten(0, 1)[:num_samples] - loc).permute(1, 2, 0)
        return torch.linalg.solve_triangular(tril, centred, upper=False).permute(2, 0, 1)

    def at(self, batch: Batch, u: Tensor) -> Point:
        """Densities and gradients at v."""
        loc, tril = self.proposals.loc[0], self.proposals.scale_tril[0]
        there = (loc + torch.einsum("bij,sbj->sbi", tril, u)).detach()
        log_volume = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        with torch.enable_grad():
            place = there.clone().requires_grad_()
            log_start = self.proposals.log_density(place, [1] * len(self.proposals.loc))
            (start_gradient,) = torch.autograd.grad(log_start.sum(), place)
        log_start = log_start.detach()
        log_end, end_gradient = self.joint.with_gradient(batch, there)
        gradients = (
            torch.einsum("bij,sbi->sbj", tril, g) for g in (start_gradient, end_gradient - start_gradient)
        )
        return Point(u, log_start + log_volume, log_end - log_start, *gradients)


@dataclass(frozen=True)
class Annealed:
    """What annealing gave of B rows: estimates, the figure of the way back and the temperatures, [B]."""

    estimates: Estimates
    upper: Tensor
    temperatures: Tensor


def annealed(
    joint: Joint,
    batch: Batch,
    proposals: Proposals,
    draws: Callable[[Tensor, int], Iterator[Draws]],
    *,
    target_error: float,
    most_temperatures: int,
    rounding: float,
) -> Annealed:
    """Anneal rows from their proposals until pilot chains promise the error.

    Args:
        joint: of the pair.
        batch: B rows.
        proposals: theirs.
        draws: for places of rows among these, and a number of temperatures, what draws come from.
        target_error: nats, by row.
        most_temperatures: a limit.
        rounding: see `pyrovae.evidence.weights.estimates`.

    """
    vae, left, T = joint.vae, torch.arange(len(batch), device=batch.device), FEWEST_TEMPERATURES
    parts: list[tuple[Tensor, Estimates, Tensor, int]] = []
    while len(left):
        method = AnnealedImportanceSampling(T, LEAPFROG_STEPS)
        path, some, drawn = ProposalPath(joint, proposals[left]), batch[left], draws(left, T)
        with vae.evaluating(), fixed_seed(0, vae.device):
            steps = method.step_sizes(path, some, next(drawn).keys)
            log_weights, ends = _chains(method, path, some, steps, next(drawn).keys)
            variance = log_weights.var(0).nan_to_num(math.inf, math.inf)
            enough = (variance / CHAINS < target_error**2) | (most_temperatures < LONGER * T)
            here, rows = enough.nonzero()[:, 0], left[enough]
            if len(rows):
                path, some = ProposalPath(joint, proposals[rows]), batch[rows]
                steps, keys, back = steps[:, here], next(drawn).keys[here], next(drawn).keys[here]
                forwards, backwards = Tally(CHAINS, CHAINS), Tally(CHAINS, CHAINS)
                forwards.add(_chains(method, path, some, steps, keys)[0])
                begins = _resampled(ends[:, here], log_weights[:, here])
                backwards.add(-method.backward(path, some, begins, steps, back))
                found = estimates([forwards], rounding)
                parts.append((rows, found, -estimates([backwards]).log_marginal, T))
        left, T = left[~enough], LONGER * T
    order = torch.cat([rows for rows, *_ in parts]).argsort()
    return Annealed(
        Estimates.joined([found for _, found, _, _ in parts])[order.cpu()],
        torch.cat([upper for _, _, upper, _ in parts])[order].cpu(),
        torch.cat([torch.full((len(rows),), T) for rows, _, _, T in parts])[order.cpu()],
    )


def _chains(
    method: AnnealedImportanceSampling, path: ProposalPath, batch: Batch, steps: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    return method.chains(path, batch, path.draw(batch, CHAINS, keys), steps, keys)


def _resampled(ends: Tensor, log_weights: Tensor) -> Tensor:
    """As many ends of chains, each in proportion to its weight, by systematic resampling; [S,B,d]."""
    sums = log_weights.nan_to_num(-math.inf).softmax(0).nan_to_num(1 / len(ends)).cumsum(0)
    marks = (torch.arange(len(ends), device=ends.device) + 0.5)[:, None] / len(ends)
    places = torch.searchsorted(sums.T.contiguous(), marks.T.expand(sums.shape[1], -1).contiguous())
    places = places.clamp(max=len(ends) - 1).T
    return ends.gather(0, places.unsqueeze(-1).expand_as(ends))
