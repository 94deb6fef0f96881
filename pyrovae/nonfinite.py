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

# What Pyro raises for distributions with parameters that are NaN, and torch for matrices.
FAILURES = (ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


class NonFiniteLossError(FloatingPointError):
    """A training loss became NaN or infinite; the VAE holds the last good weights.

    Example:
        >>> issubclass(NonFiniteLossError, ArithmeticError)
        True

    """


def explain(
    vae: VAE, arguments: Arguments | None, places: Tensor | None, parameters: Mapping[str, Tensor]
) -> str:
    """Which site, and which rows of the batch, are not finite, from a run of the pair at these parameters."""
    broken = [name for name, p in parameters.items() if not bool(torch.isfinite(p).all())]
    if broken:
        shown = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        return f"the parameters {shown} are not finite themselves, since a gradient before was not"
    if arguments is None:
        return "this process had no rows of the batch"
    try:
        found = _where(vae, arguments, places)
    except FAILURES as error:
        return f"the pair fails when it runs once more ({type(error).__name__}: {error})"
    return found or (
        "each site's density was finite when the pair ran once more, so that a rare draw or the gradient is to blame"
    )


def gives_nan(vae: VAE, arguments: Arguments) -> bool:
    """Whether some site is not finite in a run of the pair without checks of values."""
    try:
        return _where(vae, arguments, None) is not None
    except FAILURES:
        return False


def _where(vae: VAE, arguments: Arguments, places: Tensor | None) -> str | None:
    """The first site that is not finite in a run of the pair, and its rows; None if all are."""
    for which, name, site in _sites(vae, arguments):
        bad = _bad_rows(site)
        if bool(bad.any()):
            return f"site '{name}' of the {which} is not finite for {_named(bad, places)}"
    return None


def _sites(vae: VAE, arguments: Arguments) -> list[tuple[str, str, Site]]:
    with torch.no_grad(), vae.scope(), pyro.validation_enabled(False):
        guide_sites = rows.run_guide(vae, arguments, 1)
        latents = {name: guide_sites[name].value for name in vae.layout.latents}
        model_sites = rows.run_model(vae, arguments, latents, 1)
    both = (("guide", guide_sites), ("model", model_sites))
    return [(which, name, site) for which, sites in both for name, site in sites.items()]


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
    """Keeps a copy of the last weights that were seen to be finite.

    Tensors that are not finite from the first, such as a buffer with a mask of infinities, are not looked at.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._looked_at = [t for t in tensors if t.is_floating_point() and bool(torch.isfinite(t).all())]
        self._copies = [t.detach().clone() for t in tensors]

    def all_finite(self) -> bool:
        """Whether the weights are finite now."""
        floats = [t.detach() for t in self._looked_at]
        # One sum tells in a fraction of the time; only where it overflows are entries looked at.
        return all(math.isfinite(float(t.sum())) or bool(torch.isfinite(t).all()) for t in floats)

    @torch.no_grad()
    def keep(self) -> bool:
        """Copy the weights if they are finite; whether they are."""
        finite = self.all_finite()
        if finite:
            for copy, tensor in zip(self._copies, self._tensors, strict=True):
                copy.copy_(tensor)
        return finite

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the copy, unless the weights are finite as they are."""
        if not self.all_finite():
            for copy, tensor in zip(self._copies, self._tensors, strict=True):
                tensor.copy_(copy)
