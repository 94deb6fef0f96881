"""Whether a guide draws latents where the model has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from pyrovae.pair.sites import Site, base_constraint, innermost

# Numbers of which the supports of two families that differ hold different ones; no ends of usual supports among them.
PROBES = (-1e3, -2.5, -2.0, -0.5, 0.5, 1.5, 2.0, 30.0, 1e3)


def check_supports(
    model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], names: Iterable[str]
) -> None:
    """Raise unless the guide's latents lie in the support that the model gives them; Pyro's validation switches it off.

    Raises:
        ValueError: a draw outside, or a family that draws outside in time, with what to do.

    """
    for name in names if is_validation_enabled() else ():
        here, there = model_sites[name], guide_sites[name]
        outside = _outside(here, there.value)
        if outside is None and _states_its_support(there.distribution):
            outside = next((v for v in PROBES if _takes(there, v) and not _takes(here, v)), None)
        if outside is not None:
            allowed = base_constraint(here.support)
            raise ValueError(
                f"the guide draws the latent '{name}' from {there.family}, which gives values such as {outside:.4g}; "
                f"in the model it is {here.family}, of support {allowed}. Draw it in the guide from a family of that "
                f"support{_such_as(here)}, or let the guide be derived, VAE(model)."
            )


def _outside(site: Site, value: Tensor) -> float | None:
    """A number of a value that lies outside the support of a site; None if none does."""
    try:
        inside = base_constraint(site.support).check(value)
    except (RuntimeError, ValueError):  # of another shape than the constraint's own ends
        return None
    if bool(inside.all()):
        return None
    same_shape = inside.shape == value.shape
    return float(value[~inside][0] if same_shape else value[~inside].reshape(-1)[0])


def _takes(site: Site, number: float) -> bool:
    constraint = base_constraint(site.support)
    if constraint.event_dim:
        return True
    try:
        return bool(constraint.check(torch.full_like(site.value, number)).any())
    except (RuntimeError, ValueError):
        return True


def _states_its_support(distribution: Distribution) -> bool:
    """Whether a support is the family's own, and not what is taken of a flow or of one that states none."""
    while hasattr(distribution, "base_dist"):
        if isinstance(distribution, TransformedDistribution):
            return False
        distribution = distribution.base_dist
    family = innermost(distribution)
    return type(family).__module__.startswith(("torch.distributions", "pyro.distributions")) and not type(
        family
    ).__name__.startswith("Delta")


def _such_as(site: Site) -> str:
    constraint = base_constraint(site.support)
    name = type(constraint).__name__
    if constraint.is_discrete:
        return ", or have it summed out, infer={'enumerate': 'parallel'}, and leave it out of the guide"
    return {
        "_GreaterThanEq": ", such as LogNormal or Gamma",
        "_GreaterThan": ", such as LogNormal or Gamma",
        "_Interval": ", such as Beta, or a Normal through SigmoidTransform",
        "_Simplex": ", such as Dirichlet or LogisticNormal",
    }.get(name, "")
