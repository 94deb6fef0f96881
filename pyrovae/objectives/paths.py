"""Gradients of draws: which estimators a guide admits, and how draws are cut from its parameters.

The gradient of E_q[f(z)] with regard to the guide's parameters goes through reparameterized draws,
z = z(phi, noise), and through densities of the guide at fixed draws, the score. A cut draw z' is the same
numbers without the path: what depends on z' is differentiated by it apart, and the result is sent along z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrovae.data import Batch
from pyrovae.pair.handlers import ChangedDraws
from pyrovae.pair.layout import by_row
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import run_guide_with_factors, run_model
from pyrovae.pair.sites import ScoredSite, base_constraint, family_name
from pyrovae.pair.terms import RowTerms


def refuse_scores(sites: Mapping[str, ScoredSite]) -> None:
    """Raise where a gradient through draws would be wrong in silence, for a draw has no path.

    Raises:
        ValueError: a latent drawn without reparameterization from a distribution that depends on parameters.

    """
    for name, site in sites.items():
        if not site.distribution.has_rsample and site.log_prob.requires_grad:
            others = (
                "objectives.ReweightedWakeSleep(), have the model sum the site out (infer={'enumerate': 'parallel'}, "
                "no site in the guide), or use pyro.infer.TraceGraph_ELBO()."
            )
            marked = (
                "pyro.infer.TraceEnum_ELBO(), which goes through all values of a site that the guide marks for "
                f"enumeration, as it does this one: fit(..., objective=None) takes it by itself. Or with {others}"
            )
            raise ValueError(
                f"the guide samples '{name}' from {site.family}, which has no reparameterized "
                "draws, so this objective would miss a part of the guide's gradient. Train with "
                f"{marked if site.marked else others}"
            )


@dataclass(frozen=True)
class CutTerms:
    """The terms of draws that are cut from the guide's parameters, and the draws with their paths.

    A site's `drawn` and `cut` values are in the layout in which the program ran.
    """

    terms: RowTerms
    drawn: Mapping[str, Tensor]
    cut: Mapping[str, Tensor]

    @property
    def without_scores(self) -> RowTerms:
        """The terms, log q without its gradient: the expectation of a score is zero."""
        sites = {
            name: site
            if _is_deterministic(site.distribution)
            else replace(site, log_prob=site.log_prob.detach())
            for name, site in self.terms.guide_sites.items()
        }
        return replace(self.terms, guide_sites=sites)

    def along_paths(self, loss: Tensor) -> Tensor:
        """Zeros [B] whose gradient is that of a loss [B] by the cut draws, sent along the draws' paths.

        What the guide's factors add to the loss goes the same way.
        """
        if self.terms.guide_factors:
            loss = loss + self.terms.added_loss.mean(0)
        zeros = torch.zeros_like(loss)
        names = list(self.drawn)
        if not names or not loss.requires_grad:
            return zeros
        leaves = [self.cut[name] for name in names]
        slopes = list(torch.autograd.grad(loss.sum(), leaves, retain_graph=True, allow_unused=True))
        sent = zeros
        # From the last to the first: how a site was drawn depends on the cut draws before it.
        for place in reversed(range(len(names))):
            slope, leaf, drawn = slopes[place], leaves[place], self.drawn[names[place]]
            if sent.requires_grad:
                (later,) = torch.autograd.grad(sent.sum(), [leaf], retain_graph=True, allow_unused=True)
                slope = later if slope is None else slope if later is None else slope + later
            if slope is not None:
                moved = slope.detach() * (drawn - drawn.detach())
                sent = sent + self._by_row(names[place], moved)
        return sent

    def _by_row(self, name: str, numbers: Tensor) -> Tensor:
        event_dim = self.terms.guide_sites[name].event_dim
        if event_dim:
            numbers = numbers.flatten(-event_dim).sum(-1)
        num_samples = len(self.terms.log_likelihood)
        return by_row(numbers, num_samples, self.terms.layout, self.terms.broadcasts).sum(0)


def cut_terms(pair: Pair, batch: Batch, num_samples: int) -> CutTerms:
    """As `row_terms`, every draw of the guide cut from its parameters.

    The guide runs once: what it draws next, and the model, depend on cut draws. Sites of the Delta family
    carry no randomness and stay whole: they hand on what the sites before them give.
    """
    broadcasts = pair.layout.guide_broadcasts and pair.layout.model_broadcasts
    cut = _Cut()
    with ChangedDraws(value=cut):
        guide_sites, factors = run_guide_with_factors(pair, batch, num_samples, broadcasts=broadcasts)
    latents = {name: guide_sites[name].value for name in pair.layout.latents}
    model_sites = run_model(pair, batch, latents, num_samples, broadcasts=broadcasts)
    terms = RowTerms(model_sites, guide_sites, latents, pair.layout, broadcasts, factors)
    return CutTerms(terms, cut.drawn, cut.cut)


def refuse_moving_supports(sites: Mapping[str, ScoredSite]) -> None:
    """Raise where the expectation of a score is not zero, for the support depends on parameters."""
    for name, site in sites.items():
        if _is_deterministic(site.distribution):
            continue
        support = base_constraint(site.support)
        bounds = (getattr(support, side, None) for side in ("lower_bound", "upper_bound"))
        if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds):
            raise ValueError(
                f"the guide samples '{name}' on a support that depends on parameters: its score, which this objective "
                "leaves out, is not zero on average there. Use the objective without that option."
            )


class _Cut:
    """Each reparameterized draw goes on as a leaf of the same numbers; the draws are kept."""

    def __init__(self) -> None:
        self.drawn: dict[str, Tensor] = {}
        self.cut: dict[str, Tensor] = {}

    def __call__(self, name: str, distribution: Distribution, value: Tensor) -> Tensor:
        if _is_deterministic(distribution) or not value.requires_grad:
            return value
        self.drawn[name] = value
        self.cut[name] = value.detach().requires_grad_()
        return self.cut[name]


def _is_deterministic(distribution: Distribution) -> bool:
    return family_name(distribution) == "Delta"
