"""What the latents tell of the rows, and how far all posteriors together are from the prior.

With q(z) = E_x[q(z|x)], the average rate splits in two: "ELBO Surgery: Yet Another Way to Carve Up the Variational
Evidence Lower Bound" (Hoffman & Johnson, 2016),
http://approximateinference.org/accepted/HoffmanJohnson2016.pdf:

    E_x[KL(q(z|x) || p(z))] = I_q(x; z) + KL(q(z) || p(z))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.block_sizes import NUMBERS_AT_ONCE, draws_at_once, slices
from pyrovae.data import Batch
from pyrovae.pair.layout import slice_latents
from pyrovae.pair.running import run_guide, run_model
from pyrovae.pair.sites import ScoredSite
from pyrovae.pair.terms import RowTerms
from pyrovae.vae import VAE

# Draws of all rows together, at least.
DRAWS = 1000
# Draws at which a prior is looked at in every row, to see whether it depends on the row.
DRAWS_OF_PRIOR = 4


@dataclass(frozen=True)
class Information:
    """I_q(x; z) and KL(q(z) || p(z)) from N rows, in nats, each between two bounds that hold to their errors.

    `lower` and `upper` bound I_q(x; z); `aggregate_lower` and `aggregate_upper` the KL. Their sum is the rate of the
    draws: so neither bound of I is above that rate, nor one of the KL below 0. Errors are over rows and draws, by the
    jackknife. `note` says why figures are NaN.
    """

    num_rows: int
    note: str = ""
    lower: float = math.nan
    lower_error: float = math.nan
    upper: float = math.nan
    upper_error: float = math.nan
    aggregate_lower: float = math.nan
    aggregate_lower_error: float = math.nan
    aggregate_upper: float = math.nan
    aggregate_upper_error: float = math.nan

    @property
    def capped(self) -> bool:
        """Whether the lower bound is near the most that N rows can show, log N."""
        return self.lower > math.log(self.num_rows) - math.log(2)

    @property
    def upper_is_rate(self) -> bool:
        """Whether the upper bound is the rate: the rows are too few for one below."""
        return self.aggregate_lower == 0


def information(vae: VAE, batch: Batch) -> Information:
    """Estimate I_q(x; z) and the aggregate KL from draws z_n ~ q(z|x_n) of N rows, several each where N is small.

        lower = mean_n [log q(z_n|x_n) - log 1/N sum_m q(z_n|x_m)]             (at most log N)
        upper = mean_n [log q(z_n|x_n) - log 1/(N-1) sum_{m != n} q(z_n|x_m)]

    Leaving a draw's own row in makes q(z_n) too large there, leaving it out too small on average: so the true I lies
    between, in expectation over rows. "On Variational Bounds of Mutual Information" (Poole, Ozair, van den Oord, Alemi,
    Tucker, 2019), https://arxiv.org/abs/1905.06922. The aggregate KL is the average rate less I. As it is not below 0,
    the rate bounds I too: it takes the place of a bound above it, which that of few rows far apart can be.

    Runs inside `vae.evaluating()`, with a seed of the caller's.
    """
    N = len(batch)
    D = max(1, DRAWS // N)
    guide_sites = run_guide(vae, batch, D)
    if why := _why_not(vae, guide_sites):
        return Information(N, note=why)
    if N < 3:
        return Information(N, note="mutual information needs at least three rows.")
    latents = {name: guide_sites[name].value for name in vae.layout.latents}
    if why := _of_other_spaces(vae, batch, latents):
        return Information(N, note=why)
    log_q = _log_guide_everywhere(vae, batch, latents)
    log_ratio = (log_q.diagonal(dim1=1, dim2=2) - _log_prior(vae, batch, latents)).mean(0)  # sampled rates
    lower, upper = _bounds(log_q)
    note, depends = "", _prior_depends_on_row(vae, batch, latents)
    if depends:
        note = (
            "the prior depends on the row (on its context), so that the rate does not split into I(x; z) and one "
            "aggregate KL; I(x; z) is that of z with x and context together."
        )
    if depends:
        return Information(N, note, *_with_jackknife(*lower), *_with_jackknife(*upper))
    total = log_ratio.sum()
    rate = log_ratio.mean(), (total - log_ratio) / (N - 1)  # with its leave-one-out values
    figures = []
    for bound in (lower, upper):
        figures += _with_jackknife(*(bound if bound[0] < rate[0] else rate))
    kl_lower, kl_upper = (_with_jackknife(rate[0] - b[0], rate[1] - b[1]) for b in (upper, lower))
    # That a KL is at least 0 is certain; that it is at most 0 is an estimate.
    figures += kl_lower if kl_lower[0] > 0 else [0.0, 0.0]
    figures += [max(0.0, kl_upper[0]), kl_upper[1]]
    return Information(N, note, *figures)


def _bounds(log_q: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both bounds of I from log q of draw d of row n under row m, [D,N,N], each also without any one row: [N]."""
    N = log_q.shape[-1]
    own = log_q.diagonal(dim1=1, dim2=2)
    others = log_q.masked_fill(torch.eye(N, dtype=torch.bool, device=log_q.device), -torch.inf)
    bounds = []
    for table, count in ((log_q, N), (others, N - 1)):
        total = table.logsumexp(2)
        terms = own - total + math.log(count)
        # Without row m: its draw is gone, and its part in q(z) of every other draw.
        part = (table - total[..., None]).exp().clamp(max=1 - 1e-12)
        without = terms[..., None] - torch.log1p(-part) + math.log((count - 1) / count)
        without = without.mean(0).fill_diagonal_(0.0)
        bounds.append((terms.mean(), without.sum(0) / (N - 1)))
    return bounds[0], bounds[1]


def _with_jackknife(value: Tensor, left_out: Tensor) -> list[float]:
    N = len(left_out)
    variance = (N - 1) / N * ((left_out - left_out.mean()) ** 2).sum()
    return [float(value), float(variance.sqrt())]


def _log_guide_everywhere(vae: VAE, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log q(z_n|x_m) for D draws of every row n under every row m: [D,N,N]."""
    N = len(batch)
    D = len(next(iter(latents.values())))
    parts = []
    for some in slices(D * N, draws_at_once(vae.layout.latent_numbers, N)):
        given = {
            name: _draws_of(value, some, N, len(vae.layout.latents[name].event_shape))
            for name, value in latents.items()
        }
        scored = run_guide(vae, batch, some.stop - some.start, latents=given)
        parts.append(torch.stack([site.log_prob for site in scored.values()]).sum(0).double().cpu())
    return torch.cat(parts).reshape(D, N, N)


def _draws_of(value: Tensor, some: slice, num_rows: int, event_dim: int) -> Tensor:
    """Some of all draws [D, *inner, N, *event] as samples that every row is given: [count, *inner, N, *event]."""
    row_dim = value.dim() - 1 - event_dim
    draws = value.movedim(row_dim, 1).flatten(0, 1)[some].unsqueeze(row_dim)
    size = list(draws.shape)
    size[row_dim] = num_rows
    return draws.expand(size)


def _log_prior(vae: VAE, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(z) of S draws of every row, [S,N], some rows at a time: the model scores x too, which may be wide."""
    S = len(next(iter(latents.values())))
    numbers = S * sum(site.numel for site in vae.layout.observed.values())
    parts = []
    for some in slices(len(batch), max(1, NUMBERS_AT_ONCE // max(1, numbers))):
        given = slice_latents(latents, vae.layout, slice(None), some)
        terms = RowTerms(run_model(vae, batch[some], given, S), {}, given, vae.layout, broadcasts=False)
        parts.append(terms.log_prior.double().cpu())
    return torch.cat(parts, 1)


def _prior_depends_on_row(vae: VAE, batch: Batch, latents: Mapping[str, Tensor]) -> bool:
    """Whether log p of the same latents differs from row to row."""
    N = len(batch)
    total = N * len(next(iter(latents.values())))
    some = slice(0, total, math.ceil(total / DRAWS_OF_PRIOR))
    given = {
        name: _draws_of(value, some, N, len(vae.layout.latents[name].event_shape))
        for name, value in latents.items()
    }
    log_prior = _log_prior(vae, batch, given)
    return not torch.allclose(log_prior, log_prior[:, :1].expand_as(log_prior), rtol=1e-4, atol=1e-4)


def _why_not(vae: VAE, guide_sites: Mapping[str, ScoredSite]) -> str:
    """Why q(z|x_m) of another row's draw would say nothing; empty where it does."""
    if not vae.layout.latents:
        return "the guide samples no latents (they are summed out): there is no q(z|x) to measure."
    if auxiliary := sorted(set(guide_sites) - set(vae.layout.latents)):
        return (
            f"the guide has auxiliary sites, {auxiliary}: its density is known at its own draws alone, so there is no "
            "mutual information and no aggregate posterior."
        )
    for name, site in guide_sites.items():
        if site.mask is not None and not bool(torch.as_tensor(site.mask).all()):
            return f"the latent '{name}' is masked in some rows: their posteriors have different spaces."
    return ""


def _of_other_spaces(vae: VAE, batch: Batch, latents: Mapping[str, Tensor]) -> str:
    """Why rows' posteriors cannot be mixed: some count entries that others leave out. Empty where they can.

    A density that leaves an entry out (beyond a sequence's end) is flat in it.
    """
    N = len(batch)
    given = {
        name: _draws_of(value, slice(0, 1), N, len(vae.layout.latents[name].event_shape)).clone()
        for name, value in latents.items()
    }
    real = {name: z.requires_grad_() for name, z in given.items() if z.is_floating_point()}
    if not real:
        return ""
    with (
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=False),
    ):  # it has no slopes in evaluation mode
        scored = run_guide(vae, batch, 1, latents=given)
        total = torch.stack([site.log_prob.sum() for site in scored.values()]).sum()
        if not total.requires_grad:
            return ""
        slopes = torch.autograd.grad(total, list(real.values()), allow_unused=True, materialize_grads=True)
    for name, slope in zip(real, slopes, strict=True):
        row_dim = slope.dim() - 1 - len(vae.layout.latents[name].event_shape)
        flat = (slope == 0).movedim(row_dim, 0).reshape(N, -1)
        if bool((flat != flat[:1]).any()):
            return f"posteriors of '{name}' count other entries in other rows (masks, lengths): they have no mixture."
    return ""
