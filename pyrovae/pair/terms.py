"""What one run of a pair gives: log densities by row, and the rate made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrovae.pair.layout import Layout, as_the_program_takes, by_row
from pyrovae.pair.rates import analytic_kl, entry_log_ratio, split, with_own_marginals
from pyrovae.pair.shared import SharedTerms
from pyrovae.pair.sites import ScoredSite, Term, stacked_sum


@dataclass(frozen=True)
class RowTerms:
    """Row-wise log densities of one batch; every tensor [S,B], in nats.

    `guide_factors` are what the guide adds by `pyro.factor`: terms of the loss that is trained, and of no density.
    `shared` is the one draw of the latents above the rows, given which all of these are; None where there are none.
    """

    model_sites: Mapping[str, Term]
    guide_sites: Mapping[str, ScoredSite]
    latents: Mapping[str, Tensor]
    layout: Layout
    broadcasts: bool
    guide_factors: Mapping[str, ScoredSite] = field(default_factory=dict)
    shared: SharedTerms | None = None

    @property
    def log_likelihood(self) -> Tensor:
        """log p(x|z), summed over the observed sites; enumerated latents are summed out of it."""
        return torch.stack([site.log_prob for site in self.model_sites.values() if site.observed]).sum(0)

    @property
    def log_prior(self) -> Tensor:
        """log p(z), summed over the latent sites."""
        terms = [site.log_prob for site in self.model_sites.values() if not site.observed]
        return stacked_sum(terms, like=self.log_likelihood)

    @property
    def log_guide(self) -> Tensor:
        """log q(z|x), summed over everything that the guide samples, auxiliary sites included."""
        terms = [site.log_prob for site in self.guide_sites.values()]
        return stacked_sum(terms, like=self.log_likelihood)

    @property
    def added_loss(self) -> Tensor:
        """What the guide's factors add to the loss that is trained."""
        terms = [site.log_prob for site in self.guide_factors.values()]
        return stacked_sum(terms, like=self.log_likelihood)

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) - log q(z|x): unbiased estimates of p(x), as logarithms."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def rate(self) -> Tensor:
        """KL from q(z|x) to p(z): in closed form for each site where that is right, else log q - log p.

        A site's closed form takes the latents that p conditions it on as given. So it is right only where the
        guide has drawn those before the site: drawn after it, they depend on its value, and integrating the
        site out would forget that.
        """
        own = [name for name in self.latents if name in self.model_sites]
        terms = [self.site_rate(name) for name in own]
        # What has no counterpart: auxiliary sites, and latents coupled by enumeration.
        terms += [site.log_prob for name, site in self.guide_sites.items() if name not in own]
        terms += [-s.log_prob for n, s in self.model_sites.items() if not s.observed and n not in own]
        return stacked_sum(terms, like=self.log_likelihood)

    def site_rate(self, name: str) -> Tensor:
        """The rate of one latent site, [S,B]."""
        q, p = self.guide_sites[name], self.model_sites[name]
        analytic = None
        if isinstance(p, ScoredSite) and self.given_before(name):
            analytic = analytic_kl(q, p, self._as_drawn(q))
        if analytic is None:
            return q.log_prob - p.log_prob
        return by_row(analytic, len(q.log_prob), self.layout, self.broadcasts)

    def given_before(self, name: str) -> bool:
        """Whether the guide draws what p conditions a site on before it, so that its closed form is right."""
        given = set(_before(name, self.model_sites)) & set(self.latents)
        return given <= set(_before(name, self.guide_sites))

    def entry_rates(self, name: str, *, sampled: bool = True) -> Tensor | None:
        """The rate of every entry of a latent site, [S, B, *inner plates, *event]; None where there is none.

        A site's rate is the sum of its entries' where q and p both make them independent: then each entry has a
        closed form (given what was drawn before, see `rate`) or, if `sampled`, log q - log p at its draws. Where
        either has a covariance, a flow or a mixture over the whole event, only the site as a whole has a rate.
        """
        return self._entry_rates(self.guide_sites[name], sampled)

    def marginal_rates(self, name: str) -> Tensor | None:
        """KL(q(z_k|x) || p(z_k)) of every entry's own marginal, for a normal q with covariances; else None.

        They say which entries q moves away from the prior. What entries tell together is missing from their sum.
        """
        q = with_own_marginals(self.guide_sites[name])
        return None if q is None else self._entry_rates(q, True)

    def dimension_rates(self, name: str) -> Tensor | None:
        """The closed-form rate of each number of a latent site, [S,B,K]; None where it has none by dimension.

        It has one where both programs make the site's numbers independent given the sites before it.
        """
        rates = self.entry_rates(name, sampled=False)
        return None if rates is None else rates.reshape(*rates.shape[:2], -1)

    def counted(self, name: str) -> Tensor:
        """Which entries of a latent neither program leaves out, [S, B, *inner plates, *event]."""
        q, p = self.guide_sites[name], self.model_sites.get(name)
        return self.in_rows(q.counted & p.counted if isinstance(p, ScoredSite) else q.counted, name)

    def in_rows(self, entries: Tensor, name: str) -> Tensor:
        """What one of the programs gives of each entry of a latent, as [S, B, *inner plates, *event]."""
        return self.guide_sites[name].in_rows(entries, self.layout, self.broadcasts)

    def _entry_rates(self, q: ScoredSite, sampled: bool) -> Tensor | None:
        p = self.model_sites.get(q.name)
        if not isinstance(p, ScoredSite):
            return None  # enumeration couples it with other sites
        entries_q, entries_p = split(q), split(p)
        if entries_q is None or entries_p is None:
            return None
        value = self._as_drawn(q)
        rates = analytic_kl(entries_q, entries_p, value) if self.given_before(q.name) else None
        if rates is None and not sampled:
            return None
        if rates is None:
            rates = entry_log_ratio(entries_q, entries_p, value)
        return self.in_rows(rates, q.name)

    def _as_drawn(self, site: ScoredSite) -> Tensor:
        return as_the_program_takes(self.layout, {site.name: site.value}, self.broadcasts)[site.name]


def _before(name: str, sites: Mapping[str, Term]) -> list[str]:
    names = list(sites)
    return names[: names.index(name)]
