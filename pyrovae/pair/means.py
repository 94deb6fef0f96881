"""Means: of latents under the guide, of observations given latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.distributions import Categorical

from pyrovae.data import Batch
from pyrovae.pair.layout import Layout, as_the_program_takes, canonical
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import run_guide, trace_of_samples
from pyrovae.pair.sites import Site, innermost
from pyrovae.pair.traces import given, sites_in
from pyrovae.random_state import fixed_seed


class NoMeanError(ValueError):
    """An observed site's family has no mean in closed form."""


def guide_means(
    pair: Pair, batch: Batch, num_samples: int, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Posterior means of some latent sites, all if None, [1, *inner plates, B, *event].

    Exact for a single site whose family has a mean; else averages over draws, of conditional means where
    a family has them (Rao-Blackwell) and of the draws themselves where not.
    """
    if len(pair.layout.latents) == 1:
        with fixed_seed(0, batch.device):  # the draw is not used
            sites = run_guide(pair, batch, 1)
        mean = _site_mean(
            sites[next(iter(pair.layout.latents))], 1, pair.layout, pair.layout.guide_broadcasts
        )
        # An auxiliary site above it makes this the mean given one draw of that.
        if mean is not None and set(sites) == set(pair.layout.latents):
            return dict.fromkeys(pair.layout.latents, mean)
    sites = run_guide(pair, batch, num_samples)
    means = {}
    for name in pair.layout.latents if names is None else names:
        if sites[name].family == "Categorical":
            raise ValueError(
                f"the latent '{name}' is categorical: its values are labels and have no mean. Use sample_posterior()."
            )
        mean = _site_mean(sites[name], num_samples, pair.layout, pair.layout.guide_broadcasts)
        draws = sites[name].value if mean is None else mean
        numbers = draws if draws.is_floating_point() else draws.to(torch.get_default_dtype())
        means[name] = numbers.mean(0, keepdim=True)
    return means


def observed_means(pair: Pair, batch: Batch, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Means of p(x|z) at given latents, enumerated ones too, by observed site: [S, *inner plates, B, *event].

    Of categories the probabilities, [..., options].
    """
    broadcasts = pair.layout.model_broadcasts
    num_samples = next(iter(latents.values())).shape[0]
    replayed = given(pair.model, as_the_program_takes(pair.layout, latents, broadcasts))
    sites = sites_in(trace_of_samples(replayed, batch, num_samples, pair.layout, broadcasts))
    means = {}
    for name in pair.layout.observed:
        mean, event_dim = _observed_mean(sites[name])
        means[name] = canonical(mean, num_samples, pair.layout, event_dim, broadcasts=broadcasts)
    return means


def _observed_mean(site: Site) -> tuple[Tensor, int]:
    """The mean and its number of event dimensions: probabilities over the options of a category are one more."""
    inside = innermost(site.distribution)
    if isinstance(inside, Categorical):
        return inside.probs, site.event_dim + 1  # labels have no mean, their indicators have
    try:
        return site.distribution.mean, site.event_dim
    except NotImplementedError:
        raise NoMeanError(
            f"site '{site.name}' has no mean: {site.family} gives none in closed form. "
            "Draw from p(x|z) instead, with sample_likelihood()."
        ) from None


def _site_mean(site: Site, num_samples: int, layout: Layout, broadcasts: bool) -> Tensor | None:
    try:
        mean: Tensor = site.distribution.mean
    except NotImplementedError:
        return None
    if bool(mean.isnan().any()):  # families without a mean, such as Cauchy
        return None
    return canonical(mean, num_samples, layout, site.event_dim, broadcasts=broadcasts)
