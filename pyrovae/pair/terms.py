"""What one run of a pair gives: log densities by row, and the rate made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.pair.layout import Layout, by_row
from pyrovae.pair.rates import analytic_kl, entry_rates
from pyrovae.pair.sites import Site, stacked_sum


@dataclass(frozen=True)
class RowTerms:
    """Row-wise log densities of one batch; every tensor [S,B], in nats."""

    model_sites: Mapping[str, Site]
    guide_sites: Mapping[str, Site]
    latents: Mapping[str, Tensor]
    layout: Layout
    broadcasts: bool

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
        analytic = analytic_kl(q, p) if self.given_before(name) else None
        if analytic is None:
            return q.log_prob - p.log_prob
        return by_row(analytic, len(q.log_prob), self.layout, self.broadcasts)

    def given_before(self, name: str) -> bool:
        """Whether the guide draws what p conditions a site on before it, so that its closed form is right."""
        given = set(_before(name, self.model_sites)) & set(self.latents)
        return given <= set(_before(name, self.guide_sites))

    def dimension_rates(self, name: str) -> Tensor | None:
        """The closed-form rate of each number of a latent site, [S,B,K]; None where it has none by dimension.

        It has one where both programs make the site's numbers independent given the sites before it.
        """
        rates = entry_rates(self, name, sampled=False)
        return None if rates is None else rates.reshape(*rates.shape[:2], -1)


def _before(name: str, sites: Mapping[str, Site]) -> list[str]:
    names = list(sites)
    return names[: names.index(name)]
