"""A proposal of each row's own: Student's t around its modes, mixed with guide and prior, and weights of its draws.

    w = p(x, u) / q(u),   q = sum_j a_j t_nu(u; m_j, S_j) + a_g guide + a_p prior

Every draw is weighed as one of the whole mixture, from each part of which there are exact numbers (Hesterberg 1995, see
`pyrovae.ImportanceSampling`). The prior's part keeps weights below max p(x|z) / a_p, and Student's tails are heavier
than those of any posterior under a normal prior. Components come from `pyrovae.evidence.row_normals`, begun at the
guide and, where latents are few, at draws of the prior as well, for modes that the guide does not visit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import counts
from pyrovae.data import Batch
from pyrovae.evidence.importance import draws_of_prior
from pyrovae.evidence.joint import Joint
from pyrovae.evidence.row_normals import fit_normals
from pyrovae.pair.row_keys import Draws, mixed
from pyrovae.pair.row_noise import DrawnByRow, normal_noise, uniform_noise
from pyrovae.pair.running import run_guide
from pyrovae.random_state import fixed_seed

# Modes are looked for where latents have no more numbers than this, from so many places.
FEW_NUMBERS = 10
STARTS = 4
# Draws of guide and prior that show where to begin.
DRAWS_TO_BEGIN = 64
# Begins lie this far apart, in spreads of the draws.
APART = 1.0
# Shares of the mixture.
OF_GUIDE, OF_PRIOR = 0.1, 0.1
# Components by so many nats worse than a row's best are its best once more.
WORSE = 7.0
# Degrees of freedom: heavy tails for few numbers, and more for many, where a few move every draw far out.
FEWEST_DEGREES = 6


@dataclass(frozen=True)
class Proposals:
    """Components of B rows: locations [J,B,d] and Cholesky factors of scales [J,B,d,d], float64.

    `converged` says which rows' best normals have settled, [B].
    """

    loc: Tensor
    scale_tril: Tensor
    converged: Tensor

    def __getitem__(self, rows: Tensor) -> Proposals:
        """Of some of the rows."""
        return Proposals(self.loc[:, rows], self.scale_tril[:, rows], self.converged[rows])

    @property
    def degrees(self) -> int:
        """nu, even."""
        return max(FEWEST_DEGREES, 2 * (self.loc.shape[-1] // 4))

    def draw(self, component: int, keys: Tensor, num_samples: int) -> Tensor:
        """From one component, u [S,B,d]."""
        d, nu = self.loc.shape[-1], self.degrees
        normal = normal_noise(keys, num_samples, d, torch.float64)
        # A chi-squared number of 2n degrees of freedom is -2 times a sum of n logarithms.
        uniform = uniform_noise(mixed(keys), num_samples, nu // 2, torch.float64)
        squares = -2 * (1 - uniform).log().sum(-1, keepdim=True)
        return self.loc[component] + _times(self.scale_tril[component], normal) * (nu / squares).sqrt()

    def log_density(self, u: Tensor, numbers: Sequence[int]) -> Tensor:
        """Of the components, in shares that are as these numbers of draws, at u [S,B,d]: [S,B]."""
        d, nu = self.loc.shape[-1], self.degrees
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        terms = []
        for loc, tril, number in zip(self.loc, self.scale_tril, numbers, strict=True):
            centred = (u - loc).permute(1, 2, 0)
            distance = torch.linalg.solve_triangular(tril, centred, upper=False).square().sum(1).T
            log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            terms.append(math.log(number) + constant - log_det - (nu + d) / 2 * (distance / nu).log1p())
        return torch.stack(terms).logsumexp(0) - math.log(sum(numbers))


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """[B,d,d] and [S,B,d] give [S,B,d]."""
    return torch.einsum("bij,sbj->sbi", matrix, vectors)


def fitted(joint: Joint, batch: Batch, draws: Iterator[Draws]) -> Proposals:
    """The proposals of B rows."""
    vae, B = joint.vae, len(batch)
    few = joint.d <= FEW_NUMBERS
    drawn = next(draws)
    with vae.evaluating(), fixed_seed(drawn.seed, vae.device), DrawnByRow(drawn.keys):
        sites = run_guide(vae, batch, DRAWS_TO_BEGIN)
        u = joint.space.flatten({name: sites[name].value for name in vae.layout.latents}).double()
        prior = joint.space.flatten(draws_of_prior(vae, batch, DRAWS_TO_BEGIN)[0]).double()
    usual = u.isfinite().all(-1, keepdim=True)
    u = u.where(usual, prior)
    loc, spread = u.mean(0), u.std(0)
    wide = prior.std(0).clamp(min=1e-12)
    spread = spread.where((spread > 0) & spread.isfinite(), wide)
    begins, spreads = loc.unsqueeze(0), spread.unsqueeze(0)
    with vae.evaluating():
        if few:
            both = torch.cat([u, prior])
            others = _begins(both, joint.densities(batch, both).log_joint, loc, spread)
            begins = torch.cat([begins, others])
            spreads = torch.cat([spreads, torch.maximum(spread, wide / 4).expand(len(others), -1, -1)])
        J = len(begins)
        rows = torch.arange(B, device=u.device).repeat(J)
        keys = mixed(drawn.keys.repeat(J) + torch.arange(J, device=u.device).repeat_interleave(B))
        normals = fit_normals(joint, batch[rows], begins.flatten(0, 1), spreads.flatten(0, 1), keys)
    elbos, row = normals.elbo.reshape(J, B), torch.arange(B, device=u.device)
    best = elbos.argmax(0)
    # What is worse by far than the best of its row, or was not found, gives its place to that.
    kept = elbos.isfinite() & (elbos > elbos.amax(0) - WORSE)
    places = torch.where(kept, torch.arange(J, device=u.device)[:, None], best) * B + row
    return Proposals(normals.loc[places], normals.scale_tril[places], normals.converged[best * B + row])


def _begins(u: Tensor, log_joint: Tensor, loc: Tensor, spread: Tensor) -> Tensor:
    """Draws of high density apart from each other and from the first begin, [STARTS - 1, B, d]."""
    rows = torch.arange(u.shape[1], device=u.device)
    scale = u.std(0).clamp(min=1e-12)
    taken, begins = [loc], []
    for _ in range(STARTS - 1):
        near = torch.stack([((u - other) / scale).square().mean(-1) < APART**2 for other in taken]).any(0)
        log_joint = log_joint.masked_fill(near, -math.inf)
        place = log_joint.argmax(0)
        begins.append(u[place, rows])
        taken.append(begins[-1])
    return torch.stack(begins)


@dataclass(frozen=True)
class Mixture:
    """Draws of rows' proposals, if they have some, of guide and prior, and their weights."""

    joint: Joint
    proposals: Proposals | None

    def sizes(self, num_samples: int) -> tuple[int, ...]:
        """How many draws come from each component, from the guide, and from the prior."""
        of_prior = round(OF_PRIOR * num_samples)
        if self.proposals is None:
            return (num_samples - of_prior, of_prior)
        of_guide = round(OF_GUIDE * num_samples) if self.joint.score_guide else 0
        J, rest = len(self.proposals.loc), num_samples - of_guide - of_prior
        parts = [rest // J + (place < rest % J) for place in range(J)]
        return (*parts, *([of_guide] if of_guide else []), of_prior)

    @property
    def own_parts(self) -> int:
        """How many parts come before those that are there for defence."""
        return 1 if self.proposals is None else len(self.proposals.loc)

    def weigh(self, batch: Batch, num_samples: int, draws: Iterator[Draws]) -> Iterator[tuple[int, Tensor]]:
        """Log weights [s,B] at a time, with the part of the mixture that they are of."""
        vae, sizes = self.joint.vae, self.sizes(num_samples)
        for part, size in enumerate(sizes):
            for count in counts(size, self.joint.at_once):
                drawn = next(draws)
                with vae.evaluating(), fixed_seed(drawn.seed, vae.device):
                    u = self._draw(part, batch, count, drawn.keys, prior=part == len(sizes) - 1)
                    log_weights = self._log_weights(batch, u, sizes, num_samples)
                yield part, log_weights

    def _draw(self, part: int, batch: Batch, count: int, keys: Tensor, *, prior: bool) -> Tensor:
        if self.proposals is not None and part < len(self.proposals.loc):
            u = self.proposals.draw(part, keys, count)
        else:
            vae = self.joint.vae
            with DrawnByRow(keys):
                if prior:
                    latents = draws_of_prior(vae, batch, count)[0]
                else:
                    sites = run_guide(vae, batch, count)
                    latents = {name: sites[name].value for name in vae.layout.latents}
            u = self.joint.space.flatten(latents)
        return u.to(self.joint.dtype).double()  # weighed where it lies after rounding

    def _log_weights(self, batch: Batch, u: Tensor, sizes: tuple[int, ...], num_samples: int) -> Tensor:
        found = self.joint.densities(batch, u)
        terms, parts = [], list(sizes)
        if self.proposals is not None:
            J = len(self.proposals.loc)
            terms, parts = [self.proposals.log_density(u, sizes[:J])], [sum(sizes[:J]), *sizes[J:]]
        if found.log_guide is not None:
            terms.append(found.log_guide)
        terms.append(found.log_prior)
        log_shares = [math.log(size / num_samples) for size in parts]
        mixed_terms = [
            share + term.nan_to_num(-math.inf, math.inf, -math.inf)
            for share, term in zip(log_shares, terms, strict=True)
        ]
        return found.log_joint - torch.stack(mixed_terms).logsumexp(0)
