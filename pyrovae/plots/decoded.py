"""What pictures ask of a pair: rows as they are observed, and what the decoder makes of latents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.latents import Latents
from pyrovae.pair.means import NoMeanError
from pyrovae.pair.observed import observations_of
from pyrovae.plots.style import as_array
from pyrovae.random_state import fixed_seed
from pyrovae.vae import DRAWS, VAE


def observed_rows(vae: VAE, data: Rows) -> dict[str, Tensor]:
    """What the model observes, by site: [N, *inner plates, *event], NaN where a mask or a length leaves it out."""
    batch = data.take(slice(None), vae.device)
    with vae.evaluating(), fixed_seed(0, vae.device):
        found = observations_of(vae, batch)
    return {name: found[name].absent_as_nan(found[name].value) for name in vae.layout.observed}


def context_of_row(data: Rows, row: int, times: int) -> tuple[object, ...]:
    """One row's context, several times."""
    return data.take(slice(row, row + 1)).repeated(times).context


def posterior_means(vae: VAE, data: Rows) -> Mapping[str, Tensor]:
    """Posterior means of the guide's latents: [N, ...]."""
    means = vae.encode(data)
    return dict.fromkeys(vae.layout.latents, means) if isinstance(means, Tensor) else means


def summed_out(vae: VAE, data: Rows) -> dict[str, Tensor]:
    """Posterior draws of the latents that are summed out: [S, N, ...]."""
    if not vae.layout.enumerated:
        return {}
    draws = vae.sample_posterior(data, num_samples=DRAWS)
    return {name: draws[name] for name in vae.layout.enumerated}


def decoded(
    vae: VAE, given: Mapping[str, Tensor], context: tuple[object, ...], site: str | None
) -> np.ndarray:
    """E[x|z] [n, ...] at latents [n, ...], averaged over the draws of those that are summed out, [S, n, ...]."""
    num_draws = DRAWS if vae.layout.enumerated else 1
    latents = {
        name: given[name]
        if name in vae.layout.enumerated
        else given[name].expand(num_draws, *given[name].shape)
        for name in vae.layout.hidden
    }
    found = vae.decode(latents, *context)
    if isinstance(found, Tensor):
        return as_array(one_site(found.mean(0), vae, site))
    return as_array(one_site({name: means.mean(0) for name, means in found.items()}, vae, site))


def site_of(vae: VAE, site: str | None) -> str:
    """The observed site that is meant: the only one, unless one is named."""
    return chosen_name(site, vae.layout.observed, "site")


def chosen_name(name: str | None, among: Mapping[str, object], argument: str) -> str:
    """The name that is meant: the only one there is, unless one is given.

    Raises:
        ValueError: no such name, or several and none is given.

    """
    names = list(among)
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        said = "" if name is None else f"{argument} is '{name}': "
        raise ValueError(f"{said}the model has {names}: say which, with {argument}=.")
    return name


def one_site(values: Latents, vae: VAE, site: str | None) -> Tensor:
    """What `VAE.decode` and its like gave for one observed site.

    Raises:
        NoMeanError: probabilities of categories, which are no values of the site.

    """
    name = site_of(vae, site)
    found = values if isinstance(values, Tensor) else values[name]
    layout = vae.layout.observed[name]
    if found.dim() > 1 + len(layout.inner_dims) + len(layout.event_shape):
        raise NoMeanError(f"site '{name}' has no mean to show: its values are labels of categories.")
    return found
