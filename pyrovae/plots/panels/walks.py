"""Walks through latent space: what a row becomes on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.exchange.features import site_names
from pyrovae.plots.decoded import (
    chosen_name,
    context_of_row,
    decoded,
    posterior_means,
    sites_shown,
    summed_out,
)
from pyrovae.plots.entries import entry_names, in_context, rows_in_words, shown_rows
from pyrovae.plots.grids import ImageShape, by_column, divide, image_grid, is_strips, name_lines
from pyrovae.plots.panel import Content
from pyrovae.plots.subject import Subject
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import DRAWS, VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DIMENSIONS = 8


def traversals(
    vae: VAE,
    x: object,
    *context: object,
    dimensions: Sequence[int] | None = None,
    image_shape: ImageShape | None = None,
    latent: str | None = None,
    site: str | None = None,
    num_steps: int = 9,
    seed: int | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What each latent dimension does: the first row's E[x|z] while one dimension of z moves and the others stay.

    A dimension moves from the 1% to the 99% quantile of posterior draws over all the rows, the range in which the
    decoder has been trained; both ends stand beside its line. Latents that are summed out stay as the first row's
    draws, over which E[x|z] is averaged.

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
        columns: names of a row's entries; a data frame's own if None.
        title: of the picture; None says what it shows.
        cmap: matplotlib's name of the colours, see `image_grid`.
        ax: to draw on; None makes a figure.

    Raises:
        ValueError: as `VAE.encode` and `VAE.decode`; dimensions or sites that are not there.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> ax = traversals(pv.VAE(model, pv.guides.ExactGuide(model)), torch.rand(9, 4), num_steps=5)

    """
    check_count("num_steps", num_steps)
    data = vae.rows(x, *context)
    means = posterior_means(vae, data)
    latent = chosen_name(latent, means, "latent")
    flat = means[latent].reshape(len(means[latent]), -1)
    if dimensions is None:
        order = flat.var(0, correction=0).argsort(descending=True)
        dimensions = sorted(order[:MOST_DIMENSIONS].tolist())
    if not dimensions or not all(0 <= k < flat.shape[1] for k in dimensions):
        raise ValueError(f"dimensions is {list(dimensions)}: expected numbers from 0 to {flat.shape[1] - 1}.")
    with fixed_seed(next(seeds_from(seed)), vae.device):
        draws = vae.sample_posterior(data)[latent][0].reshape(len(flat), -1)
        drawn_labels = summed_out(vae, data[:1])
    ends = torch.quantile(
        draws.double(), torch.tensor([0.01, 0.99], dtype=torch.float64, device=draws.device), dim=0
    )
    lines, labels = [], []
    for k in dimensions:
        steps = torch.linspace(float(ends[0, k]), float(ends[1, k]), num_steps)
        given = _moved(means, latent, k, steps)
        given |= {name: value.expand(-1, num_steps, *value.shape[2:]) for name, value in drawn_labels.items()}
        lines.append(decoded(vae, given, context_of_row(data, 0, num_steps), site))
        labels.append(f"{site_names(vae, latent)[k]}\n{ends[0, k]:.2g} to {ends[1, k]:.2g}")
    title = "One latent dimension at a time" if title is None else title
    if len(sites_shown(vae, site)) > 1:
        lines = by_column(lines)
    columns = entry_names(vae, data, site, columns)
    if is_strips(lines[0], image_shape):
        ax = image_grid([np.concatenate(lines)], image_shape, columns=columns, title=title, cmap=cmap, ax=ax)
        name_lines(ax, labels, num_steps)
        divide(ax, len(labels), num_steps)
        return ax
    return image_grid(lines, image_shape, labels=labels, title=title, cmap=cmap, ax=ax)


def _moved(means: Mapping[str, Tensor], latent: str, k: int, steps: Tensor) -> dict[str, Tensor]:
    """The first row's latents by site, [steps, ...], while one dimension goes through some values."""
    given = {name: value[:1].expand(len(steps), *value.shape[1:]) for name, value in means.items()}
    flat = means[latent][:1].reshape(1, -1).repeat(len(steps), 1)
    flat[:, k] = steps
    given[latent] = flat.reshape(len(steps), *means[latent].shape[1:])
    return given


def interpolation(
    vae: VAE,
    x: object,
    *context: object,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_steps: int = 7,
    num_pairs: int = 4,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    cmap: str | None = None,
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
        columns: names of a row's entries; a data frame's own if None.
        title: of the picture; None says what it shows.
        cmap: matplotlib's name of the colours, see `image_grid`.
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
    data = vae.rows(x, *context)
    if len(data) < 2:
        raise ValueError("interpolation needs two rows at least.")
    shown = data[: 2 * num_pairs]
    means, drawn_labels = posterior_means(vae, shown), summed_out(vae, shown)
    originals = shown_rows(vae, shown, site)
    lines = []
    for a in range(0, len(originals) - 1, 2):
        share = torch.linspace(0, 1, num_steps, device=vae.device)
        given = {
            name: torch.stack([torch.lerp(value[a], value[a + 1], w) for w in share.to(value)])
            for name, value in means.items()
        }
        second = (torch.arange(DRAWS, device=vae.device)[:, None] + 0.5) / DRAWS < share
        for name, value in drawn_labels.items():
            chosen = second.reshape(*second.shape, *[1] * (value.dim() - 2))
            given[name] = torch.where(chosen, value[:, a + 1 : a + 2], value[:, a : a + 1])
        between = decoded(vae, given, context_of_row(data, a, num_steps), site)
        first, last = (originals[i : i + 1].reshape(1, *between.shape[1:]) for i in (a, a + 1))
        lines.append(np.concatenate([first, between, last]))
    title = "From row to row, by way of z" if title is None else title
    if len(sites_shown(vae, site)) > 1:
        lines = by_column(lines)
    columns = entry_names(vae, data, site, columns)
    if is_strips(lines[0], image_shape):
        ax = image_grid([np.concatenate(lines)], image_shape, columns=columns, title=title, cmap=cmap, ax=ax)
        divide(ax, len(lines), num_steps + 2)
        return ax
    return image_grid(lines, image_shape, title=title, cmap=cmap, ax=ax)


def traversals_panel(subject: Subject) -> Content:
    """Of the first latent site, if latents have means."""
    said = in_context(subject.vae, subject.data, [0])
    return Content(
        lambda ax: traversals(
            subject.vae,
            subject.data,
            site=subject.site,
            latent=next(iter(subject.vae.layout.latents), None),
            seed=subject.seed,
            **subject.grid,
            ax=ax,
        ),
        "The first row's reconstruction while one latent dimension goes through the range that posteriors fill. "
        "A line in which nothing changes belongs to a dimension that the decoder does not use.",
        of="row 0"
        + (f" ({said})" if said else "")
        + f"; from the 1% to the 99% quantile of one posterior draw of each of {len(subject.data)} rows",
    )


def interpolation_panel(subject: Subject) -> Content:
    """Of two rows at least, if latents have means."""
    pairs = min(4, len(subject.data) // 2)
    said = in_context(subject.vae, subject.data, range(0, 2 * pairs, 2))
    return Content(
        lambda ax: interpolation(subject.vae, subject.data, site=subject.site, **subject.grid, ax=ax),
        "Steps on the straight line between two rows' posterior means. Where the middle looks like neither row nor "
        "any other, the line leaves what the decoder has been trained on.",
        of=f"{rows_in_words(0, 2 * pairs)}, two a line, at their posterior means"
        + (f"; in the context of the first of the two ({said})" if said else ""),
    )
