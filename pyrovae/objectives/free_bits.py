"""Free bits: a rate below a floor costs what the floor costs, so nothing is gained by collapsing further."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from pyrovae.objectives.schedules import check_coefficient
from pyrovae.pair.terms import RowTerms


@dataclass(frozen=True)
class FreeBits:
    """A floor under the rate of each group j of latents, averaged over the rows of the batch.

        sum_j max(nats, mean_b rate_bj)

    A group is a latent site (a level of a hierarchy), or each dimension of it. A group below its floor has no
    gradient. The mean is over the batch, so that several processes, each with its part of it, are refused. Kingma,
    Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improving Variational Inference with Inverse Autoregressive
    Flow" (2016), https://arxiv.org/abs/1606.04934, appendix C.8.

    Args:
        nats: the floor of each group.
        per_dimension: a group is one number of a latent site, by the closed form of its rate; else a site.

    Raises:
        ValueError: a negative or NaN floor; at a call, latents without a rate of their own, as where a guide draws
            them in another order than the model.

    Example:
        >>> FreeBits(0.25, per_dimension=True)
        FreeBits(nats=0.25, per_dimension=True)

    """

    nats: float
    _: KW_ONLY
    per_dimension: bool = False

    def __post_init__(self) -> None:
        check_coefficient("nats", self.nats)

    def rate(self, terms: RowTerms, *, analytic: bool) -> Tensor:
        """The floored rate by row, [B]: its mean over the rows is the sum above."""
        groups = torch.cat([self._groups(terms, name, analytic) for name in self._sites(terms)], -1)
        below = groups.mean(0) <= self.nats
        # Rows of a floored group each cost the floor: the same mean, and no gradient.
        return torch.where(below, self.nats, groups).sum(-1)

    def _groups(self, terms: RowTerms, name: str, analytic: bool) -> Tensor:
        """The rates of a site's groups by row, [B,J]."""
        if not terms.given_before(name):
            # log q - log p of the site alone is no divergence then: it may well be negative.
            raise ValueError(
                f"the guide draws '{name}' before latents that the model draws before it, so '{name}' has no rate of "
                "its own to put a floor under. Draw the latents in the model's order, or use a schedule of beta."
            )
        if not self.per_dimension:
            q, p = terms.guide_sites[name], terms.model_sites[name]
            rate = terms.site_rate(name) if analytic else q.log_prob - p.log_prob
            return rate.mean(0).unsqueeze(-1)
        rates = terms.dimension_rates(name)
        if rates is None:
            raise ValueError(
                f"the latent '{name}' has no rate by dimension: model and guide must both make its numbers "
                "independent, of families with a closed-form KL. Use FreeBits(nats), a floor for the whole site."
            )
        return rates.mean(0)

    def _sites(self, terms: RowTerms) -> list[str]:
        hidden = {name for name, site in terms.model_sites.items() if not site.observed}
        unmatched = (hidden ^ set(terms.guide_sites)) | (hidden ^ set(terms.latents))
        if unmatched or not hidden:
            named = ", ".join(map(repr, sorted(unmatched))) or "a pair without latents"
            raise ValueError(
                f"free bits need a rate for each latent site, in model and guide alike: {named} has none. Use a "
                "schedule of beta."
            )
        return list(terms.latents)
