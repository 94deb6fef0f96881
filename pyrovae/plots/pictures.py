"""Rows of data as pictures: reconstructions, samples, and walks through latent space.

Rows whose event is an image, or that `image_shape` makes one, are drawn as images; others as strips of a heat map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.exchange.features import site_names
from pyrovae.pair.latents import Latents
from pyrovae.pair.layout import rows_first
from pyrovae.pair.running import NoMeanError, observations
from pyrovae.plots.grids import ImageShape, divide, image_grid, is_strips
from pyrovae.plots.style import as_array
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import DRAWS, VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DIMENSIONS = 8


def reconstructions(
    vae: VAE,
    x: Any,
    *context: Any,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """The first rows over their reconstructions, means of p(x|z) at the posterior means of z.

    Args:
        vae: the pair.
        x: [N, ...]
        context: what the pair takes beside `x`.
        image_shape: see `image_grid`.
        site: the observed site; None where there is one.
        num_columns: rows in a line; two lines are drawn if there are that many.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: as `VAE.reconstruct`; a site that is not there.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = reconstructions(pv.VAE(model, pv.guides.ExactGuide(model)), torch.rand(9, 4))

    """
    check_count("num_columns", num_columns)
    shown = _take(vae, x, context, slice(0, 2 * num_columns))
    means = as_array(one_site(vae.reconstruct(*shown), vae, site))
    originals = as_array(observed_rows(vae, *shown)[_site(vae, site)]).reshape(means.shape)
    lines = []
    whole = max(1, len(means) // num_columns)
    columns = min(num_columns, len(means))
    for first in range(0, whole * columns, columns):
        lines += [originals[first : first + columns], means[first : first + columns]]
    labels = ["x", "E[x|z]"] * whole
    if is_strips(lines[0], image_shape):
        labels = ["x", "E[x|z]"]
        lines = [originals[:columns], means[:columns]]
    return image_grid(lines, image_shape, labels=labels, title="Rows and their reconstructions", ax=ax)


def samples(
    vae: VAE,
    *context: Any,
    num_rows: int = 16,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_columns: int = 8,
    seed: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Rows drawn from the model, z from p(z): the mean E[x|z] over the draw from p(x|z).

    Args:
        vae: the pair.
        context: with `num_rows` rows.
        num_rows: how many.
        image_shape: see `image_grid`.
        site: the observed site; None where there is one.
        num_columns: rows in a line.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: as `VAE.generate`.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = samples(pv.VAE(model, pv.guides.ExactGuide(model), example=torch.rand(9, 4)), num_rows=6)

    """
    check_count("num_columns", num_columns)
    with fixed_seed(next(seeds_from(seed)), vae.device):
        latents, draws = vae.sample_prior(num_rows, *context)
    drawn = as_array(draws[_site(vae, site)])
    try:
        means = as_array(one_site(vae.decode(latents, *context), vae, site))
    except NoMeanError:
        means = None
    lines, labels = [], []
    columns = min(num_columns, num_rows)
    for first in range(0, num_rows // columns * columns, columns):
        some = slice(first, first + columns)
        lines += ([] if means is None else [means[some]]) + [drawn[some]]
        labels += ([] if means is None else ["E[x|z]"]) + ["draw"]
    if is_strips(drawn, image_shape):
        lines, labels = ([drawn], ["draw"]) if means is None else ([means, drawn], ["E[x|z]", "draw"])
    return image_grid(lines, image_shape, labels=labels, title="Drawn from the model: z ~ p(z)", ax=ax)


def traversals(
    vae: VAE,
    x: Any,
    *context: Any,
    dimensions: Sequence[int] | None = None,
    image_shape: ImageShape | None = None,
    latent: str | None = None,
    site: str | None = None,
    num_steps: int = 9,
    seed: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What each latent dimension does: the first row's E[x|z] while one dimension of z moves and the others stay.

    A dimension moves from the 1% to the 99% quantile of posterior draws over all the rows, the range in which the
    decoder has been trained. Latents that are summed out stay as the first row's draws, over which E[x|z] is averaged.

    Args:
        vae: the pair.
        x: [N, ...], the more the better.
        context: what the pair takes beside `x`.
        dimensions: of the flattened latent; None takes those whose posterior means vary most, at most 8.
        image_shape: see `image_grid`.
        latent: the latent site that moves; None where there is one.
        site: the observed site; None where there is one.
        num_steps: columns.
        seed: of the posterior draws; None takes one from torch's random state.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: as `VAE.encode` and `VAE.decode`; dimensions or sites that are not there.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = traversals(pv.VAE(model, pv.guides.ExactGuide(model)), torch.rand(9, 4), num_steps=5)

    """
    check_count("num_steps", num_steps)
    means = _means_by_site(vae, x, *context)
    latent = _chosen(latent, means, "latent")
    flat = means[latent].reshape(len(means[latent]), -1)
    if dimensions is None:
        order = flat.var(0, correction=0).argsort(descending=True)
        dimensions = sorted(order[:MOST_DIMENSIONS].tolist())
    if not dimensions or not all(0 <= k < flat.shape[1] for k in dimensions):
        raise ValueError(f"dimensions is {list(dimensions)}: expected numbers from 0 to {flat.shape[1] - 1}.")
    first = _take(vae, x, context, slice(0, 1))
    with fixed_seed(next(seeds_from(seed)), vae.device):
        draws = vae.sample_posterior(x, *context)[latent][0].reshape(len(flat), -1)
        summed_out = _summed_out(vae, *first)
    ends = torch.quantile(
        draws.double(), torch.tensor([0.01, 0.99], dtype=torch.float64, device=draws.device), dim=0
    )
    lines, labels = [], []
    for k in dimensions:
        moved = flat[:1].repeat(num_steps, 1)
        moved[:, k] = torch.linspace(float(ends[0, k]), float(ends[1, k]), num_steps)
        given = {name: value[:1].expand(num_steps, *value.shape[1:]) for name, value in means.items()}
        given[latent] = moved.reshape(num_steps, *means[latent].shape[1:])
        given |= {name: value.expand(-1, num_steps, *value.shape[2:]) for name, value in summed_out.items()}
        lines.append(_decoded(vae, given, _repeated(vae, x, context, 0, num_steps), site))
        labels.append(site_names(vae, latent)[k])
    title = "One latent dimension at a time"
    if is_strips(lines[0], image_shape):
        ax = image_grid([np.concatenate(lines)], image_shape, title=title, ax=ax)
        ax.set_yticks([(i + 0.5) * num_steps - 0.5 for i in range(len(labels))], labels, fontsize="small")
        divide(ax, len(labels), num_steps)
        return ax
    return image_grid(lines, image_shape, labels=labels, title=title, ax=ax)


def interpolation(
    vae: VAE,
    x: Any,
    *context: Any,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_steps: int = 7,
    num_pairs: int = 4,
    ax: Axes | None = None,
) -> Axes:
    """From one row to the next: E[x|z] along the line between their posterior means, the rows themselves at both ends.

    Of latents that are summed out the share of draws that are the second row's rises along the line; E[x|z] is
    averaged over the draws.

    Args:
        vae: the pair.
        x: [N, ...]; rows 0 and 1 are the first pair, 2 and 3 the second.
        context: what the pair takes beside `x`; along a line it is the first row's.
        image_shape: see `image_grid`.
        site: the observed site; None where there is one.
        num_steps: steps, both posterior means among them.
        num_pairs: lines at most.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: fewer than two rows; as `VAE.encode` and `VAE.decode`.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = interpolation(pv.VAE(model, pv.guides.ExactGuide(model)), torch.rand(4, 4), num_pairs=2)

    """
    check_count("num_steps", num_steps)
    check_count("num_pairs", num_pairs)
    shown = _take(vae, x, context, slice(0, 2 * num_pairs))
    if len(shown[0]) < 2:
        raise ValueError("interpolation needs two rows at least.")
    means, summed_out = _means_by_site(vae, *shown), _summed_out(vae, *shown)
    originals = as_array(observed_rows(vae, *shown)[_site(vae, site)])
    lines = []
    for a in range(0, len(originals) - 1, 2):
        share = torch.linspace(0, 1, num_steps, device=vae.device)
        given = {
            name: torch.stack([torch.lerp(value[a], value[a + 1], w) for w in share.to(value)])
            for name, value in means.items()
        }
        second = (torch.arange(DRAWS, device=vae.device)[:, None] + 0.5) / DRAWS < share
        for name, value in summed_out.items():
            chosen = second.reshape(*second.shape, *[1] * (value.dim() - 2))
            given[name] = torch.where(chosen, value[:, a + 1 : a + 2], value[:, a : a + 1])
        between = _decoded(vae, given, _repeated(vae, x, context, a, num_steps), site)
        first, last = (originals[i : i + 1].reshape(1, *between.shape[1:]) for i in (a, a + 1))
        lines.append(np.concatenate([first, between, last]))
    title = "From row to row, by way of z"
    if is_strips(lines[0], image_shape):
        ax = image_grid([np.concatenate(lines)], image_shape, title=title, ax=ax)
        divide(ax, len(lines), num_steps + 2)
        return ax
    return image_grid(lines, image_shape, title=title, ax=ax)


def observed_rows(vae: VAE, x: Any, *context: Any) -> dict[str, Tensor]:
    """What the model observes, by site: [N, *inner plates, *event]."""
    arguments = vae.rows(x, *context).take(slice(None), vae.device)
    with vae.evaluating(), fixed_seed(0, vae.device):
        values = observations(vae, arguments)
    return {name: rows_first(values[name], layout)[0] for name, layout in vae.layout.observed.items()}


def _take(vae: VAE, x: Any, context: tuple[Any, ...], index: slice) -> tuple[Any, ...]:
    return vae.rows(x, *context).take(index).arguments


def _repeated(vae: VAE, x: Any, context: tuple[Any, ...], row: int, times: int) -> tuple[Any, ...]:
    """One row's context, several times."""
    taken = _take(vae, x, context, slice(row, row + 1))[1:]
    return tuple(a.repeat(times, *[1] * (a.dim() - 1)) if isinstance(a, Tensor) else a for a in taken)


def _means_by_site(vae: VAE, *data: Any) -> Mapping[str, Tensor]:
    """Posterior means of the guide's latents: [N, ...]."""
    means = vae.encode(*data)
    return dict.fromkeys(vae.layout.latents, means) if isinstance(means, Tensor) else means


def _summed_out(vae: VAE, *data: Any) -> dict[str, Tensor]:
    """Posterior draws of the latents that are summed out: [S, N, ...]."""
    if not vae.layout.enumerated:
        return {}
    draws = vae.sample_posterior(*data, num_samples=DRAWS)
    return {name: draws[name] for name in vae.layout.enumerated}


def _decoded(vae: VAE, given: Mapping[str, Tensor], context: tuple[Any, ...], site: str | None) -> np.ndarray:
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


def _site(vae: VAE, site: str | None) -> str:
    return _chosen(site, vae.layout.observed, "site")


def _chosen(name: str | None, among: Mapping[str, Any], argument: str) -> str:
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
    name = _site(vae, site)
    found = values if isinstance(values, Tensor) else values[name]
    layout = vae.layout.observed[name]
    if found.dim() > 1 + len(layout.inner_dims) + len(layout.event_shape):
        raise NoMeanError(f"site '{name}' has no mean to show: its values are labels of categories.")
    return found
