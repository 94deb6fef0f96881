"""A report: the page on a VAE and some rows, made of the panels that they allow."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from pyrovae.checks import check_count
from pyrovae.criticism.calibration import Calibration, calibrate
from pyrovae.criticism.diagnosis import Diagnosis, diagnose
from pyrovae.data import Rows
from pyrovae.exchange.arviz_bridge import to_arviz
from pyrovae.pair.inspected import refuse_other_than_vae
from pyrovae.plots.entries import entry_names
from pyrovae.plots.grids import ImageShape
from pyrovae.plots.interactive.need import HOW, has_bokeh
from pyrovae.plots.page import Report
from pyrovae.plots.panel import Panel
from pyrovae.plots.panels import EACH_SITE, EACH_VIEW, PANELS
from pyrovae.plots.style import Values, as_array, axes_or_new
from pyrovae.plots.subject import FEW_ROWS, Subject, views
from pyrovae.progress import Bar
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA_SETS = 100  # drawn from the prior, for predictive checks


def report(
    vae: VAE,
    x: object,
    *context: object,
    history: pd.DataFrame | None = None,
    labels: Values | None = None,
    image_shape: ImageShape | None = None,
    columns: Sequence[str] | None = None,
    frame: pd.DataFrame | None = None,
    cmap: str | None = None,
    diagnosis: Diagnosis | None = None,
    calibration: Calibration | None = None,
    rate_distortion: pd.DataFrame | None = None,
    panels: Collection[str] | None = None,
    extra: Sequence[Panel] = (),
    num_samples: int = 500,
    title: str = "A variational autoencoder",
    seed: int | None = None,
    progress: bool = False,
) -> Report:
    """One page on a VAE: pictures of what it does, and whether the fit is any good by `diagnose` and `calibrate`.

    A panel that this pair does not allow (such as reconstructions where p(x|z) has no mean) is left out, and the
    page says why.

    Args:
        vae: the pair.
        x: [N, ...]; rows that it was trained on flatter it, and the page cannot tell.
        context: what the pair takes beside `x`.
        history: what `fit` returned, for a panel on training.
        labels: [N], shown on the latent map.
        image_shape: of a row, if it is an image, see `image_grid`.
        columns: names of a row's entries, if it is none; a data frame's own if None.
        frame: the same rows as people know them, of whom the page shows the columns: those of `columns` by their
            values there, such as the names of categories, and others beside the figures of a row; `x` itself if that
            is a data frame.
        cmap: the colours of rows, see `image_grid`.
        diagnosis: what `diagnose` gave for these rows; made here if None.
        calibration: what `calibrate` gave; made here if None.
        rate_distortion: columns `beta, rate, distortion`, for a panel on them.
        panels: which, by title; None shows all. `plots.PANELS` has them, so that `plots.PANELS.keys() -
            {"Calibration"}` leaves out the one that takes longest: 500 simulations of 99 draws, and ten times as many
            weighted ones (`calibrate(num_simulations=...)` makes fewer, for `calibration`).
        extra: panels of your own.
        num_samples: S, of the ELBO and of log p(x).
        title: of the page.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show progress bars, over the panels and within those that take long.

    Returns:
        A `Report`: `figure()`, `html()`, and `save(path)` to `.png` or `.html`.

    Raises:
        ValueError, TypeError: as `diagnose`; labels, a frame or a diagnosis of another number of rows; panels that
            there are not.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> page = report(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4), num_samples=20)
        >>> [panel.title for panel in page.panels][:2]
        ['Reconstructions', 'Samples']

    """
    check_count("num_samples", num_samples)
    chosen = _chosen(panels)
    _say_without_bokeh()
    refuse_other_than_vae(vae)
    data = vae.rows(x, *context)
    _check_same_rows(data, labels, frame, diagnosis)
    seeds = seeds_from(seed)
    of_panels = next(seeds)
    _check_columns(vae, data, columns)
    if diagnosis is None:
        diagnosis = diagnose(vae, data, num_samples=num_samples, seed=next(seeds), progress=progress)
    subject = Subject(
        vae,
        data,
        diagnosis,
        _simulations(vae, data, calibration, next(seeds), progress),
        functools.cache(lambda: to_arviz(vae, data[:FEW_ROWS], num_samples=DATA_SETS, seed=of_panels)),
        history=history,
        rate_distortion=rate_distortion,
        labels=labels,
        image_shape=image_shape,
        columns=columns,
        cmap=cmap,
        seed=of_panels,
        frame=x if frame is None and isinstance(x, pd.DataFrame) else frame,
        calibrates=calibration is not None or "Calibration" in chosen,
    )
    made, left_out = _panels(subject, chosen, progress)
    return Report(title, _summary(diagnosis), str(diagnosis), (*made, *extra), left_out, subject)


def _simulations(
    vae: VAE, data: Rows, calibration: Calibration | None, seed: int, progress: bool
) -> Callable[[], Calibration]:
    @functools.cache
    def simulations() -> Calibration:
        if calibration is not None:
            return calibration
        return calibrate(vae, *data.arguments[1:], tarp=True, seed=seed, progress=progress)

    return simulations


def _say_without_bokeh() -> None:
    """Before work starts: the page cannot be made afterwards."""
    if not has_bokeh():
        warnings.warn(
            f"report.html needs Bokeh, which is not there: {HOW}. The printable sheet, report.png, goes without.",
            stacklevel=3,
        )


def _check_columns(vae: VAE, data: Rows, columns: Sequence[str] | None) -> None:
    """Raise ValueError where names are given that no site's entries can have."""
    if columns is not None and all(len(columns) != site.numel for site in vae.layout.observed.values()):
        entry_names(vae, data, views(vae)[0], columns)


def _check_same_rows(
    data: Rows, labels: Values | None, frame: pd.DataFrame | None, diagnosis: Diagnosis | None
) -> None:
    if frame is not None and len(frame) != len(data):
        raise ValueError(f"frame has {len(frame)} rows and x {len(data)}: expected those of the same rows.")
    if labels is not None and (found := len(as_array(labels))) != len(data):
        raise ValueError(f"labels has {found} rows and x {len(data)}: expected those of the same rows.")
    if diagnosis is not None and len(diagnosis.quality) != len(data):
        raise ValueError(
            f"the diagnosis is of {len(diagnosis.quality)} rows and x has {len(data)}: expected one of the same rows."
        )


def _chosen(panels: Collection[str] | None) -> list[str]:
    """The titles of the panels to make, in the order of the page."""
    if isinstance(panels, str):
        raise TypeError(f"panels is {panels!r}: expected titles, panels=[{panels!r}].")
    if unknown := set(panels or ()) - set(PANELS):
        raise ValueError(f"there are no panels {sorted(unknown)}: expected some of {list(PANELS)}.")
    return [title for title in PANELS if panels is None or title in panels]


def _panels(subject: Subject, chosen: list[str], progress: bool) -> tuple[list[Panel], tuple[str, ...]]:
    """The panels that there are, and which had to be left out and why, each reason said once."""
    made: list[Panel] = []
    left_out: dict[str, list[str]] = {}  # why, and which panels
    with Bar("report", " panel", shown=progress, total=len(chosen)) as bar:
        for title in chosen:
            bar.say(title)
            for named, shown in _by_site(title, subject):
                try:
                    with fixed_seed(subject.seed, subject.vae.device):
                        content = PANELS[title](shown)
                    if content is not None:
                        panel = _from_seed(Panel(named, *content), subject.seed, subject.vae.device)
                        panel.draw(axes_or_new(None))
                        made.append(panel)
                except ValueError as error:
                    left_out.setdefault(str(error), []).append(named)
            bar.update()
    return made, tuple(f"{', '.join(titles)}. {why}" for why, titles in left_out.items())


def _by_site(title: str, subject: Subject) -> Iterator[tuple[str, Subject]]:
    """The panels of one title and what they are about: one, or one for each of several observed sites."""
    sites: tuple[str | None, ...] = (None,)
    if title in EACH_VIEW:
        sites = views(subject.vae)
    elif title in EACH_SITE and len(subject.vae.layout.observed) > 1:
        sites = tuple(subject.vae.layout.observed)
    for site in sites:
        yield (title, subject) if site is None else (f"{title}: {site}", subject.of_site(site))


def _from_seed(panel: Panel, seed: int, device: torch.device) -> Panel:
    """The panel with a picture that is the same each time."""

    def draw(ax: Axes) -> Axes:
        with fixed_seed(seed, device):
            return panel.draw(ax)

    return replace(panel, draw=draw)


def _summary(diagnosis: Diagnosis) -> pd.DataFrame:
    """One line on all the rows."""
    means, quality = diagnosis.summary["value"], diagnosis.quality
    unknown = int(quality.unknown.sum())
    return pd.DataFrame(
        {
            "rows": [len(quality)],
            "draws a row": [quality.num_samples],
            **{name: [float(means[name])] for name in ("ELBO", "reconstruction", "rate", "log p(x)")},
            "Monte Carlo error": [quality.total[1] / len(quality)],
            "errs low by at least": [-quality.total_bias / len(quality)],
            f"Pareto k below {quality.good_k:.2f}" + (" where known" if unknown else ""): [
                quality.share_good
            ],
            **({"Pareto k unknown": [unknown / len(quality)]} if unknown else {}),
        },
        index=["these rows"],
    )
