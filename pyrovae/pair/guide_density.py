"""Whether a guide has a density of the model's latents, over the same measure as the prior's.

Any guide may be trained with a loss. But importance weights p(x, z) / q(z|x), and so log p(x) and the rate, mean what
they say only where both are densities, or both are probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.distributions import Delta
from torch.distributions import Independent

from pyrovae.pair.sites import Site, innermost

REMEDY = (
    " fit trains such a guide with a loss; for figures made of its density let it sample '{name}' from {what}. log "
    "p(x) alone: log_marginal(..., method=ImportanceSampling(prior_share=1))."
)


def without_density(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site]) -> str:
    """Why the guide's latents have no density that could be set against the model's; nothing where they have one.

    Points that follow from auxiliary sites have one (see `pyrovae.pair.auxiliary`), and so have those that carry a log
    density, those of a latent that is a point in the model too, and the values of a discrete latent.
    """
    behind_auxiliary = False
    for name, site in guide_sites.items():
        behind_auxiliary |= site.auxiliary
        if name not in model_sites:
            continue
        of_model = model_sites[name]
        if site.family == "Delta":
            if not (
                behind_auxiliary or of_model.discrete or of_model.family == "Delta" or _carries_one(site)
            ):
                return (
                    f"the guide samples the continuous latent '{name}' from a Delta: a point has no density q(z|x), so "
                    "that log p(x, z) there is no bound of log p(x)."
                    + REMEDY.format(name=name, what="a distribution")
                )
        elif site.discrete != of_model.discrete:
            return (
                f"the latent '{name}' is {_kind(of_model)} in the model and {_kind(site)} in the guide: a probability "
                "and a density have no ratio." + REMEDY.format(name=name, what=f"a {_family(of_model)}")
            )
    return ""


def _carries_one(point: Site) -> bool:
    inside = innermost(point.distribution)
    return isinstance(inside, Delta) and bool((torch.as_tensor(inside.log_density) != 0).any())


def _kind(site: Site) -> str:
    return f"{'discrete' if site.discrete else 'continuous'} ({_family(site)})"


def _family(site: Site) -> str:
    distribution = site.distribution
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return type(distribution).__name__
