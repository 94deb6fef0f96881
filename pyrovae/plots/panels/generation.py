"""Samples: rows that the model makes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyrovae.checks import check_count
from pyrovae.pair.means import NoMeanError
from pyrovae.plots.decoded import shown_values, sites_shown
from pyrovae.plots.entries import in_context, rows_in_words
from pyrovae.plots.grids import ImageShape, by_column, image_grid, is_strips
from pyrovae.plots.panel import Content
from pyrovae.plots.style import as_array
from pyrovae.plots.subject import Subject
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_ROWS = 16


def samples(
    vae: VAE,
    *context: object,
    num_rows: int = NUM_ROWS,
    image_shape: ImageShape | None = None,
    site: str | None = None,
    num_columns: int = 8,
    seed: int | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    cmap: str | None = None,
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
        columns: names of a row's entries; for rows that are no images.
        title: of the picture; None says what it shows.
        cmap: matplotlib's name of the colours, see `image_grid`.
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
    drawn = as_array(shown_values(draws, vae, site))
    try:
        means = as_array(shown_values(vae.decode(latents, *context), vae, site))
    except NoMeanError:
        means = None
    lines, labels = [], []
    across = min(num_columns, num_rows)
    for first in range(0, num_rows // across * across, across):
        some = slice(first, first + across)
        lines += ([] if means is None else [means[some]]) + [drawn[some]]
        labels += ([] if means is None else ["E[x|z]"]) + ["draw"]
    if is_strips(drawn, image_shape):
        lines, labels = ([drawn], ["draw"]) if means is None else ([means, drawn], ["E[x|z]", "draw"])
    if len(sites_shown(vae, site)) > 1:
        lines = by_column(lines)
    title = "Drawn from the model: z ~ p(z)" if title is None else title
    return image_grid(lines, image_shape, labels=labels, columns=columns, title=title, cmap=cmap, ax=ax)


def samples_panel(subject: Subject) -> Content:
    """With the context of the first rows."""
    first = subject.data.take(slice(0, NUM_ROWS))
    of = f"{len(first)} rows of the model's own, one draw each"
    if len(subject.data.arguments) > 1:
        said = in_context(subject.vae, subject.data, range(len(first)))
        of += f", in the context of {rows_in_words(0, len(first))}" + (f" ({said})" if said else "")
    return Content(
        lambda ax: samples(
            subject.vae,
            *first.context,
            num_rows=len(first),
            site=subject.site,
            seed=subject.seed,
            image_shape=subject.image_shape,
            columns=subject.names,
            cmap=subject.cmap,
            ax=ax,
        ),
        "Rows that the model makes up, z from the prior. If reconstructions look right and these do not, the prior "
        "gives mass where no row's posterior lies: try another prior, or less rate.",
        of=of,
    )
