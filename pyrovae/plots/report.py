"""One page on a VAE: what it makes of some rows, in pictures, tables and a sentence on each."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from pyrovae.checks import check_count
from pyrovae.criticism.calibration import Calibration, calibrate
from pyrovae.criticism.diagnosis import Diagnosis, diagnose
from pyrovae.exchange.arviz_bridge import to_arviz
from pyrovae.exchange.features import feature_names, features
from pyrovae.files import write_atomically
from pyrovae.plots import panels, pictures
from pyrovae.plots.grids import ImageShape
from pyrovae.plots.panels import Panel
from pyrovae.plots.style import axes_or_new
from pyrovae.random_state import fixed_seed, seeds_from
from pyrovae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
PANEL_SIZE = (5.4, 4.1)  # inches
# Rows and data sets of the predictive check.
PREDICTIVE_ROWS, PREDICTIVE_DRAWS = 500, 100

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1500px; margin: 0 auto; padding: 1em; }
main { display: flex; flex-wrap: wrap; column-gap: 2em; }
section { flex: 1 1 420px; min-width: 0; max-width: 700px; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.85em; display: block; overflow-x: auto; }
th, td { text-align: right; padding: 0.15em 0.7em; border-bottom: 1px solid #ddd; font-weight: normal; white-space: nowrap; }
thead th { border-bottom: 1px solid #444; }
pre { font-size: 0.85em; white-space: pre-wrap; }
h1, h2 { font-weight: 600; margin-bottom: 0.2em; }
"""  # noqa: E501


@dataclass(frozen=True)
class Report:
    """What `report` gives: a summary, the diagnosis in words, panels, and what had to be left out and why."""

    title: str
    summary: pd.DataFrame
    diagnosis: str
    panels: tuple[Panel, ...]
    left_out: tuple[str, ...]

    def figure(self) -> Figure:
        """All pictures on one page."""
        from matplotlib.figure import Figure

        lines = math.ceil(len(self.panels) / COLUMNS)
        columns = min(COLUMNS, len(self.panels))
        figure = Figure(figsize=(columns * PANEL_SIZE[0], lines * PANEL_SIZE[1] + 0.5), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        figure.suptitle(self.title, fontsize=15)
        places = figure.subplots(lines, columns, squeeze=False).flat
        for place, ax in enumerate(places):
            if place < len(self.panels):
                self.panels[place].draw(ax)
            else:
                ax.remove()
        return figure

    def html(self) -> str:
        """The page as one file: pictures inside, no scripts, nothing from elsewhere."""
        parts = [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{html.escape(self.title)}</h1>\n<p>Nats per row, higher is better, but for the rate.</p>",
            _table(self.summary),
            "<main>",
        ]
        for panel in self.panels:
            name = html.escape(panel.title)
            parts.append(f"<section>\n<h2>{name}</h2>\n<p>{html.escape(panel.sentence)}</p>")
            parts.append(f'<img alt="{name}: {html.escape(panel.sentence)}" src="{_data_uri(panel)}">')
            parts.append("" if panel.table is None else _table(panel.table))
            parts.append("</section>")
        parts.append("</main>")
        parts.append(f"<h2>Diagnosis</h2>\n<pre>{html.escape(self.diagnosis)}</pre>")
        parts += [f"<p>Left out: {html.escape(line)}</p>" for line in self.left_out]
        return "\n".join([*parts, "</body>\n</html>\n"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, atomically: the pictures as `.png`, or everything as `.html`.

        Raises:
            ValueError: another ending.
            OSError: the file cannot be written; an older one is left as it was.

        """
        ending = Path(path).suffix.lower()
        if ending == ".png":
            figure = self.figure()
            write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
        elif ending == ".html":
            page = self.html()
            write_atomically(path, lambda file: file.write_text(page, encoding="utf-8"))
        else:
            raise ValueError(f"path ends in '{ending}': expected .png or .html.")


def report(
    vae: VAE,
    x: Any,
    *context: Any,
    history: pd.DataFrame | None = None,
    labels: Any = None,
    image_shape: ImageShape | None = None,
    diagnosis: Diagnosis | None = None,
    calibration: Calibration | None = None,
    rate_distortion: pd.DataFrame | None = None,
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
        diagnosis: what `diagnose` gave for these rows; made here if None.
        calibration: what `calibrate` gave; made here if None.
        rate_distortion: columns `beta, rate, distortion`, for a panel on them.
        extra: panels of your own.
        num_samples: S, of the ELBO and of log p(x).
        title: of the page.
        seed: draws are the same for the same seed; None takes one from torch's random state.
        progress: show a progress bar.

    Returns:
        A `Report`: `figure()`, `html()`, and `save(path)` to `.png` or `.html`.

    Raises:
        ValueError, TypeError: as `diagnose`; labels or a diagnosis of another number of rows.

    Example:
        >>> import pyrovae as pv
        >>> model = pv.models.LinearGaussian(2, 4)
        >>> page = report(pv.VAE(model, pv.guides.ExactGuide(model)), torch.randn(9, 4), num_samples=20)
        >>> [panel.title for panel in page.panels][:2]
        ['Reconstructions', 'Samples']

    """
    check_count("num_samples", num_samples)
    data = vae.rows(x, *context)
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"labels has {len(labels)} rows and x {len(data)}: expected those of the same rows.")
    if diagnosis is not None and len(diagnosis.quality) != len(data):
        raise ValueError(
            f"the diagnosis is of {len(diagnosis.quality)} rows and x has {len(data)}: expected one of the same rows."
        )
    seeds = seeds_from(seed)
    chosen = next(seeds)
    if diagnosis is None:
        diagnosis = diagnose(vae, x, *context, num_samples=num_samples, seed=next(seeds), progress=progress)
    found, means = diagnosis, diagnosis.summary["value"]
    of_calibration = _calibration(vae, data.arguments[1:], calibration, next(seeds), progress)
    makers: dict[str, Callable[[], Panel]] = {}
    if history is not None:
        makers["Training"] = lambda: panels.of_history(history)
    makers |= dict(_of_pair(vae, data.arguments, labels, image_shape, float(means["reconstruction"]), chosen))
    if len(found.rates):
        makers["Rate by latent dimension"] = lambda: panels.of_rates(found)
    makers["Importance weights"] = lambda: panels.of_weights(found.quality)
    makers["Calibration"] = lambda: panels.of_calibration(of_calibration())
    if rate_distortion is not None:
        makers["Rate and distortion"] = lambda: panels.of_rate_distortion(rate_distortion)
    made: list[Panel] = []
    left_out: dict[str, list[str]] = {}  # why, and which panels
    for name, make in makers.items():
        try:
            with fixed_seed(chosen, vae.device):
                panel = _from_seed(make(), chosen, vae.device)
            panel.draw(axes_or_new(None))
            made.append(panel)
        except ValueError as error:
            left_out.setdefault(str(error), []).append(name)
    summary = pd.DataFrame(
        {
            "rows": [len(data)],
            **{name: [float(means[name])] for name in ("ELBO", "reconstruction", "rate", "log p(x)")},
            "Monte Carlo error": [found.quality.total[1] / len(data)],
            "errs low by about": [-found.quality.total_bias / len(data)],
            f"Pareto k below {found.quality.good_k:.2f}": [found.quality.share_good],
        },
        index=["these rows"],
    )
    return Report(title, summary, str(found), (*made, *extra), _said_once(left_out))


def _from_seed(panel: Panel, seed: int, device: torch.device) -> Panel:
    """The panel with a picture that is the same each time."""

    def draw(ax: Axes) -> Axes:
        with fixed_seed(seed, device):
            return panel.draw(ax)

    return replace(panel, draw=draw)


def _said_once(left_out: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{', '.join(names)}. {why}" for why, names in left_out.items())


def _calibration(
    vae: VAE, context: tuple[Any, ...], given: Calibration | None, seed: int, progress: bool
) -> Callable[[], Calibration]:
    return lambda: calibrate(vae, *context, seed=seed, progress=progress) if given is None else given


def _of_pair(
    vae: VAE, data: tuple[Any, ...], labels: Any, shape: ImageShape | None, reconstruction: float, seed: int
) -> Iterator[tuple[str, Callable[[], Panel]]]:
    """The panels that draw from the pair, made when called."""
    x, *context = data
    site = next(iter(vae.layout.observed))
    few = tuple(a[:PREDICTIVE_ROWS] if isinstance(a, Tensor) else a for a in data)

    def reconstructions() -> Panel:
        means = pictures.one_site(vae.reconstruct(*few), vae, site)
        originals = pictures.observed_rows(vae, *few)[site]
        return panels.of_reconstructions(
            originals,
            means,
            reconstruction,
            lambda ax: pictures.reconstructions(vae, x, *context, image_shape=shape, site=site, ax=ax),
        )

    def samples() -> Panel:
        count = min(16, len(x))
        given = [a[:count] if isinstance(a, Tensor) else a for a in context]
        return Panel(
            "Samples",
            lambda ax: pictures.samples(
                vae, *given, num_rows=count, image_shape=shape, site=site, seed=seed, ax=ax
            ),
            "Rows that the model makes up, z from the prior. If reconstructions look right and these do not, the prior "
            "gives mass where no row's posterior lies: try another prior, or less rate.",
        )

    def traversals() -> Panel:
        latent = next(iter(vae.layout.latents), None)
        return Panel(
            "Traversals",
            lambda ax: pictures.traversals(
                vae, x, *context, image_shape=shape, site=site, latent=latent, seed=seed, ax=ax
            ),
            "The first row's reconstruction while one latent dimension goes through the range that posteriors fill. "
            "A line in which nothing changes belongs to a dimension that the decoder does not use.",
        )

    def interpolation() -> Panel:
        return Panel(
            "Interpolation",
            lambda ax: pictures.interpolation(vae, x, *context, image_shape=shape, site=site, ax=ax),
            "Steps on the straight line between two rows' posterior means. Where the middle looks like neither row nor "
            "any other, the line leaves what the decoder has been trained on.",
        )

    def predictive() -> Panel:
        tree = to_arviz(vae, *few, num_samples=PREDICTIVE_DRAWS, seed=seed)
        return panels.of_predictive(tree, str(next(iter(tree.observed_data.data_vars))))

    yield "Reconstructions", reconstructions
    yield "Samples", samples
    yield "Latent map", lambda: panels.of_latents(features(vae, x, *context), labels, feature_names(vae))
    yield "Traversals", traversals
    yield "Interpolation", interpolation
    yield "Predictive check", predictive


def _data_uri(panel: Panel) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=PANEL_SIZE, layout="constrained")
    panel.draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png", bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(table: pd.DataFrame) -> str:
    return table.to_html(border=0, float_format=lambda value: f"{value:.4g}", na_rep="")
