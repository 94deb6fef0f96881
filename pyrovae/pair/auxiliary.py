"""Auxiliary sites of a guide: numbers that it draws and the model does not know.

With auxiliary a the weights of importance are p(x, z) / (q(a) q(z|a)), and

    E[p(x, z) / (q(a) q(z|a))] = int int p(x, z) da dz

which is p(x) only where a leaves no freedom beside z: where z, drawn as `Delta` sites, is a one-to-one map of a, as
Pyro's own automatic guides have it. Anything else needs a density q(z|x) with a integrated out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

import torch

from pyrovae.pair.bijections import bijection_to
from pyrovae.pair.sites import Site


def check_auxiliary(
    model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], *, of_rows: bool = True
) -> None:
    """Raise unless the guide's auxiliary sites hold as many numbers as the Delta latents drawn after the first.

    Of one row each, or in all where they stand above the rows.

    Raises:
        ValueError: with the sites, both counts, and what to do.

    """
    auxiliary = [name for name, site in guide_sites.items() if site.auxiliary]
    if not auxiliary:
        return
    names = list(guide_sites)
    later = [name for name in names[names.index(auxiliary[0]) :] if name in model_sites]
    points = [name for name in later if guide_sites[name].family == "Delta"]
    drawn = sum(_freedom(guide_sites[name], of_rows) for name in auxiliary)
    placed = sum(_freedom(model_sites[name], of_rows) for name in points)
    if drawn != placed:
        raise ValueError(
            f"the guide's auxiliary sites ({_listed(auxiliary)}) have {drawn} degrees of freedom"
            f"{' a row' if of_rows else ''}, and the "
            f"latents that follow from them as dist.Delta ({_listed(points)}) have {placed}. Then q(z|x) is not what "
            "the guide scores, and log p(x) from its weights would be wrong, without a sign of it. Either let latents "
            "follow from all auxiliary numbers one to one, pyro.sample(name, dist.Delta(f(a), "
            "log_density=-log_abs_det_of_f)), or draw the latents from a distribution with the auxiliary summed out (a "
            "mixture: pyrovae.guides.MixtureOfNormals), or have the model sample the auxiliary too, given the latents."
        )


def _freedom(site: Site, of_rows: bool) -> int:
    """Free numbers of a site, in one row or in all: those of its unconstrained coordinates; none of a point."""
    if site.family == "Delta":
        return 0
    shape = site.distribution.event_shape
    with suppress(NotImplementedError):  # discrete, or no bijection is known
        shape = torch.Size(bijection_to(site.support).inverse_shape(shape))
    return math.prod([*shape, *(plate.size for plate in (site.inner_plates if of_rows else site.plates))])


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
