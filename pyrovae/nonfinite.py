"""Losses that are NaN or infinite: where they come from, and the weights to go back to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pyro
import torch
from torch import Tensor

from pyrovae import rows
from pyrovae.layout import Arguments
from pyrovae.sites import Site
from pyrovae.vae import VAE


class NonFiniteLossError(FloatingPointError):
    """A training loss became NaN or infinite; the VAE holds the last good weights.

    Example:
        >>> issubclass(NonFiniteLossError, ArithmeticError)
        True

    """


def explain(vae: VAE, arguments: Arguments, places: Tensor | None, parameters: Mapping[str, Tensor]) -> str:
    """Which site, and which rows of the batch, are not finite, from a run of the pair at these parameters."""
    broken = [name for name, p in parameters.items() if not bool(torch.isfinite(p).all())]
    if broken:
        return f"the parameters {', '.join(broken[:3])} are not finite themselves"
    with torch.no_grad(), vae.scope(), pyro.validation_enabled(False):
        guide_sites = rows.run_guide(vae, arguments, 1)
        latents = {name: guide_sites[name].value for name in vae.layout.latents}
        model_sites = rows.run_model(vae, arguments, latents, 1)
    for which, sites in (("guide", guide_sites), ("model", model_sites)):
        for name, site in sites.items():
            bad = _bad_rows(site)
            if bool(bad.any()):
                return f"site '{name}' of the {which} is not finite for {_named(bad, places)}"
    return "each site's density was finite when the pair ran once more, so that a rare draw or the gradient is to blame"


def _bad_rows(site: Site) -> Tensor:
    bad = ~torch.isfinite(site.log_prob).all(0)
    if not site.observed and site.value.is_floating_point():
        row_dim = site.value.dim() - 1 - len(site.distribution.event_shape)
        finite = torch.isfinite(site.value).movedim(row_dim, -1).reshape(-1, len(bad)).all(0)
        bad = bad | ~finite
    return bad


def _named(bad: Tensor, places: Tensor | None) -> str:
    index = bad.nonzero()[:, 0].cpu()
    shown = index if places is None else places[index]
    names = ", ".join(map(str, shown[:5].tolist()))
    whose = "of the batch" if places is None else "of the data"
    return f"row {names} {whose} ({len(index)} of the batch's {len(bad)} rows)"


class GoodWeights:
    """Keeps a copy of the last weights that were seen to be finite."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._copies = [t.detach().clone() for t in tensors]

    def all_finite(self) -> bool:
        """Whether the weights are finite now."""
        floats = [t.detach() for t in self._tensors if t.is_floating_point()]
        # One sum tells in a fraction of the time; only where it overflows are entries looked at.
        return all(math.isfinite(float(t.sum())) or bool(torch.isfinite(t).all()) for t in floats)

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the weights if they are finite."""
        if self.all_finite():
            for copy, tensor in zip(self._copies, self._tensors, strict=True):
                copy.copy_(tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the copy, unless the weights are finite as they are."""
        if not self.all_finite():
            for copy, tensor in zip(self._copies, self._tensors, strict=True):
                tensor.copy_(copy)
