"""What pictures ask of a pair: rows as they are observed, and what the decoder makes of latents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.pair.latents import Latents
from pyrovae.pair.layout import SiteLayout
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
        return as_array(shown_values(found.mean(0), vae, site))
    return as_array(shown_values({name: means.mean(0) for name, means in found.items()}, vae, site))


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


def is_flat(site: SiteLayout) -> bool:
    """Whether a row of a site is a number or a vector."""
    return len(site.inner_dims) + len(site.event_shape) <= 1


def sites_shown(vae: VAE, site: str | None) -> tuple[str, ...]:
    """The observed sites that a picture shows: the one that is meant, or side by side all those of a table.

    A table's columns of several families are several sites, each of numbers or vectors, and one row.

    Raises:
        ValueError: no such site, or none is named and one of several is no vector.

    """
    observed = vae.layout.observed
    if site is None and len(observed) > 1 and all(map(is_flat, observed.values())):
        return tuple(observed)
    return (chosen_name(site, observed, "site"),)


def shown_values(values: Latents, vae: VAE, site: str | None) -> Tensor:
    """Of values by site, as `VAE.decode` and its like give them, those that a picture shows, [n, ...].

    Several sites stand side by side, [n, entries]; of probabilities of categories the most probable one is shown there.

    Raises:
        NoMeanError: probabilities of categories where these are the only site, which has no other value.

    """
    names = sites_shown(vae, site)
    found = {name: values if isinstance(values, Tensor) else values[name] for name in names}
    if len(names) > 1:
        floats = torch.get_default_dtype()
        return torch.cat([_labels(found[n], vae.layout.observed[n]).to(floats) for n in names], -1)
    if _has_options(found[names[0]], vae.layout.observed[names[0]]):
        raise NoMeanError(f"site '{names[0]}' has no mean to show: its values are labels of categories.")
    return found[names[0]]


def label_entries(values: Latents, vae: VAE, site: str | None) -> np.ndarray:
    """Which of the entries that are shown side by side are labels, by means as `shown_values` takes them: [entries]."""
    names = sites_shown(vae, site)
    found = {name: values if isinstance(values, Tensor) else values[name] for name in names}
    layouts = vae.layout.observed
    return np.concatenate([np.full(layouts[n].numel, _has_options(found[n], layouts[n])) for n in names])


def _has_options(values: Tensor, site: SiteLayout) -> bool:
    return values.dim() > 1 + len(site.inner_dims) + len(site.event_shape)


def _labels(values: Tensor, site: SiteLayout) -> Tensor:
    """[n, entries], the most probable option where there are probabilities."""
    return (values.argmax(-1) if _has_options(values, site) else values).reshape(len(values), -1)
