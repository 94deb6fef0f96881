"""Discrete latents given all others: their exact probabilities, by one run of the model for each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn.functional import one_hot

from pyrovae.data import Batch
from pyrovae.pair.programs import Pair
from pyrovae.pair.running import run_model
from pyrovae.pair.sites import Site, innermost
from pyrovae.pair.traces import sites_of


def conditional_expectation(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor], name: str, num_samples: int
) -> Tensor:
    """E[one latent | the other latents of the guide, x], in Pyro's layout; of categories the probabilities, [..., k].

    Exact where the latent has few values, one for each row; other enumerated latents are then summed out. Else the
    latent as it was drawn. Averaged over draws of the posterior both are the posterior's.
    """
    site = sites_of(pair.model, batch)[name]
    family = innermost(site.distribution)
    values = _values_of(site) if not pair.layout.hidden[name].inner_sizes else None
    if values is None:
        drawn = latents[name]
        return one_hot(drawn.long(), family.probs.shape[-1]) if isinstance(family, Categorical) else drawn
    others = {n: latents[n] for n in pair.layout.latents}
    probabilities = _probabilities(pair, batch, others, name, values, num_samples)
    return (
        probabilities
        if isinstance(family, Categorical)
        else torch.tensordot(probabilities, values.double(), 1)
    )


def drawn_one_by_one(
    pair: Pair, batch: Batch, latents: Mapping[str, Tensor], num_samples: int
) -> dict[str, Tensor]:
    """Exact posterior draws of the enumerated latents given the others, each given those before it.

    Raises:
        ValueError: one in an inner plate, or whose values cannot be gone through (says what to do).

    """
    sites, drawn = sites_of(pair.model, batch), dict(latents)
    for name, layout in pair.layout.enumerated.items():
        values = None if layout.inner_sizes else _values_of(sites[name])
        if values is None:
            where = "stands in an inner plate" if layout.inner_sizes else "has no list of values"
            raise ValueError(
                f"the enumerated latent '{name}' ({layout.family}) {where}, and so cannot be drawn given the others. "
                "Draw it from a Categorical by row, and make of the label what follows."
            )
        probabilities = _probabilities(pair, batch, drawn, name, values, num_samples)
        drawn[name] = values[torch.distributions.Categorical(probs=probabilities).sample()]
    return {name: drawn[name] for name in pair.layout.enumerated}


def _probabilities(
    pair: Pair, batch: Batch, others: Mapping[str, Tensor], name: str, values: Tensor, num_samples: int
) -> Tensor:
    """Of each of k values [k, *event] given other latents, in Pyro's layout with the options behind: [S, 1.., B, k]."""
    hidden, given = pair.layout.hidden, {*others, name}
    layout = replace(
        pair.layout,
        latents={n: site for n, site in hidden.items() if n in given},
        enumerated={n: site for n, site in hidden.items() if n not in given},
    )
    freed = Pair(pair.model, pair.guide, layout)
    shape = (num_samples, *[1] * (-layout.sample_dim - 2), len(batch))
    log_joint = []
    for value in values:
        latents = {**others, name: value.expand(*shape, *value.shape)}
        terms = run_model(freed, batch, latents, num_samples).values()
        log_joint.append(torch.stack([term.log_prob.double() for term in terms]).sum(0))
    return torch.stack(log_joint, -1).softmax(-1).reshape(*shape, len(values))


def _values_of(site: Site) -> Tensor | None:
    """All that it may be, [k, *event]; None where they cannot be gone through."""
    if not getattr(site.distribution, "has_enumerate_support", False):
        return None
    try:
        values = site.distribution.enumerate_support(expand=False)
    except NotImplementedError:  # of several numbers at once, say
        return None
    return values.reshape(len(values), *site.distribution.event_shape)
