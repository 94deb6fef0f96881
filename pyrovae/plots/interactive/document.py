"""The page as one file: its parts in order, Bokeh's scripts inside, and a policy by which a browser fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import pandas as pd
from bokeh.document import Document
from bokeh.embed import components
from bokeh.events import DocumentReady
from bokeh.models import ColumnDataSource, CustomJS, DataTable, Select, Slider, TableColumn
from bokeh.resources import Resources

from pyrovae.plots.interactive.curves import limit_of_k, rate_bars, training_curves
from pyrovae.plots.interactive.row_map import row_map
from pyrovae.plots.interactive.rows import PageRows, page_rows
from pyrovae.plots.interactive.sliders import Walks, as_json, walks_of
from pyrovae.plots.interactive.widgets import style, table_of_frame
from pyrovae.plots.panel import Panel
from pyrovae.plots.panels.rates import rates_shown
from pyrovae.plots.subject import Subject, views
from pyrovae.random_state import fixed_seed

# In a browser's words: scripts by their sums alone, so that none can slip in with a value; nothing from anywhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-eval' {sums}; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:"
)


@dataclass
class _Parts:
    """What a page is made of while it is being put together."""

    roots: dict[str, object] = field(default_factory=dict)
    script: dict[str, object] = field(default_factory=dict)
    sections: list[tuple[str, str, str]] = field(default_factory=list)  # id, heading, HTML with {roots} in it
    left_out: list[str] = field(default_factory=list)
    walks: Walks | None = None

    def place(self, name: str, model: object) -> str:
        """Put a model of Bokeh's on the page; where it stands."""
        self.roots[name] = model
        return f"<!--{name}-->"


def document(
    title: str,
    summary: pd.DataFrame,
    diagnosis: str,
    panels: Sequence[Panel],
    left_out: Iterable[str],
    subject: Subject,
) -> str:
    """The page of a report, as HTML; the same draws for the same seed of the report."""
    with fixed_seed(subject.seed, subject.vae.device):
        return _assembled(title, _parts(summary, diagnosis, panels, left_out, subject))


def _parts(
    summary: pd.DataFrame,
    diagnosis: str,
    panels: Sequence[Panel],
    left_out: Iterable[str],
    subject: Subject,
) -> _Parts:
    shown = views(subject.vae)[0]
    if shown is not None:
        subject = subject.of_site(shown)
    parts = _Parts(left_out=list(left_out))
    if shown is not None:
        parts.left_out.append(
            f"The sites {[name for name in subject.vae.layout.observed if name != shown]} on the map and the sliders, "
            f"which show '{shown}'; the sheet below has them all."
        )
    rows = page_rows(subject)
    parts.left_out += rows.notes
    _rows_section(parts, rows, subject)
    _sliders_section(parts, rows, subject)
    _training_section(parts, subject)
    _latents_section(parts, subject)
    _sheet_section(parts, panels)
    _tables_section(parts, summary, panels, subject)
    said = "".join(f"<p>{html.escape(line)}</p>" for line in parts.left_out)
    text = f"<pre>{html.escape(diagnosis)}</pre>" + (f"<h3>Left out</h3>{said}" if said else "")
    parts.sections.append(("diagnosis", "Diagnosis", text))
    return parts


def _rows_section(parts: _Parts, rows: PageRows, subject: Subject) -> None:
    found = row_map(rows)
    limit = limit_of_k(subject.diagnosis.quality.good_k)
    found.roots["of_k"].add_layout(limit)  # type: ignore[attr-defined]
    parts.script |= {**found.script, "rules": [limit]}
    place = {name: parts.place(name, model) for name, model in found.roots.items()}
    quality = subject.diagnosis.quality
    of = f"{len(rows.places)} rows" + (f" of {rows.of}" if len(rows.places) < rows.of else "")
    text = f"""
<p>Point at a row to see it; drag with the box or the lasso to choose some; the table lists those that are chosen and
sorts by its heads. The row in full stands on the right: by a click on a point or on a line of the table, or by its
number.</p>
<p class="of">{of}, posterior means; log p(x) and Pareto k by {quality.num_samples} draws a row (k below
{quality.good_k:.2f} is good); clusters by k-means.</p>
<div class="controls">{place["colour"]}{place["row"]}{place["measure"]}{place["count"]}{place["search"]}
<span id="missing" role="status"></span></div>
<div class="side"><div class="grow">{place["map"]}{place["of_k"]}</div><div id="card" aria-live="polite"
 aria-label="one row in full" tabindex="0"></div></div>
<h3 id="listed" role="status"></h3>{place["listing"]}"""
    parts.sections.append(("rows", "Rows", text))


def _sliders_section(parts: _Parts, rows: PageRows, subject: Subject) -> None:
    try:
        walks = walks_of(subject, rows.look)
    except ValueError as error:
        parts.left_out.append(f"Sliders. {error}")
        return
    parts.walks = walks
    base = Select(
        title="Start from",
        value="0",
        options=[(str(place), one["said"]) for place, one in enumerate(walks["bases"])],
        stylesheets=style(),
        name="base",
    )
    base.js_on_change("value", CustomJS(code="pyrovae.base()"))
    sliders = []
    for place, name in enumerate(walks["dimensions"]):
        slider = Slider(
            title=name,
            start=0,
            end=1,
            step=1,
            value=0,
            show_value=False,
            sizing_mode="stretch_width",
            max_width=460,
            stylesheets=style(),
            name=f"slider{place}",
        )
        slider.js_on_change("value", CustomJS(code=f"pyrovae.slide({place})"))
        sliders.append(slider)
    parts.script |= {"base": base, "sliders": sliders}
    shown = _decoded(parts, walks)
    K = sum(site.numel for site in subject.vae.layout.latents.values())
    chosen = f", the {len(sliders)} of {K} whose posterior means vary most" if len(sliders) < K else ""
    text = f"""
<p>What the decoder makes of a row, E[x|z], while one latent dimension moves and the others stay at the row's posterior
means; another slider starts from there again. These are the numbers of <code>vae.decode</code>, made beforehand.</p>
<p class="of">A slider for each latent dimension{chosen}; each goes at least from the 1% to the 99% quantile of one
posterior draw of each of {len(subject.data)} rows.</p>
<div class="controls">{parts.place("base", base)}</div>
<div class="side"><div class="grow">{"".join(parts.place(f"slider{n}", one) for n, one in enumerate(sliders))}</div>
<div class="grow">{shown}</div></div>"""
    parts.sections.append(("sliders", "Sliders", text))


def _decoded(parts: _Parts, walks: Walks) -> str:
    """Where stands what sliders decode: pictures, or a table of the row's entries."""
    shown = '<div id="decoded" aria-live="polite"></div>'
    if walks["size"] is None:
        numbers = [float("nan")] * len(walks["entries"])
        source = ColumnDataSource({"entry": walks["entries"], "own": numbers, "decoded": numbers})
        heads = (("entry", "entry"), ("own", "the row"), ("decoded", "decoded"))
        table = DataTable(
            source=source,
            columns=[TableColumn(field=key, title=head) for key, head in heads],
            index_position=None,
            reorderable=False,
            height=330,
            width=480,
            stylesheets=style(),
            name="decoded",
        )
        parts.script["entries"] = source
        shown += parts.place("entries", table)
    return shown


def _training_section(parts: _Parts, subject: Subject) -> None:
    if subject.history is None:
        return
    found = training_curves(subject.history)
    parts.script |= found.script
    place = {name: parts.place(name, model) for name, model in found.roots.items()}
    text = f"""<p class="of">{len(subject.history)} epochs: training rows while they were trained on, validation rows
(elbo_valid) after each epoch.</p>
<div class="side"><div class="grow">{place["training"]}</div><div>{place["toggles"]}{place["early"]}</div></div>"""
    parts.sections.append(("training", "Training", text))


def _latents_section(parts: _Parts, subject: Subject) -> None:
    rates = subject.diagnosis.rates
    if len(rates) and (rates["rate"].notna().any() or subject.diagnosis.sites["rate"].notna().any()):
        rates = rates_shown(subject.diagnosis)
        text = f"""<p class="of">{len(subject.data)} rows, {subject.draws_of_rates} draws a row where there is no closed
form.</p>{parts.place("rates", rate_bars(rates))}"""
        parts.sections.append(("latents", "Rate by latent dimension", text))


def _sheet_section(parts: _Parts, panels: Sequence[Panel]) -> None:
    shown = [
        f"<article><h3>{html.escape(panel.title)}</h3><p class='of'>{html.escape(panel.of)}</p>"
        f"<p>{html.escape(panel.sentence)}</p>{panel.picture()}</article>"
        for panel in panels
    ]
    if shown:
        parts.sections.append(("sheet", "The sheet", f"<div class='sheet'>{''.join(shown)}</div>"))


def _tables_section(parts: _Parts, summary: pd.DataFrame, panels: Sequence[Panel], subject: Subject) -> None:
    tables = {"All rows, nats per row": summary, "Latent sites": subject.diagnosis.sites}
    tables |= {panel.title: panel.table for panel in panels if panel.table is not None}
    text = "".join(
        f"<h3>{html.escape(name)}</h3>{parts.place(f'table{place}', table_of_frame(table, f'table{place}'))}"
        for place, (name, table) in enumerate(tables.items())
        if len(table)
    )
    parts.sections.append(("tables", "Tables", f"<p>A click on a head sorts.</p>{text}"))


def _assembled(title: str, parts: _Parts) -> str:
    whole = Document(title=title)
    with whole.models.freeze():  # else Bokeh goes through all models once for each
        for model in parts.roots.values():
            whole.add_root(model)
    parts.script["figures"] = [model for name, model in parts.roots.items() if name in FIGURES]
    whole.js_on_event(DocumentReady, CustomJS(args={"given": parts.script}, code="pyrovae.start(given)"))
    embedded, places = components(parts.roots, wrap_script=False, wrap_plot_info=True)
    scripts = [*_bokeh(), _own("page.js"), embedded]
    sums = " ".join(f"'sha256-{_sum(script)}'" for script in scripts)
    sections = "\n".join(
        f'<section id="{name}"><h2>{heading}</h2>{text}</section>' for name, heading, text in parts.sections
    )
    for name, div in places.items():
        sections = sections.replace(f"<!--{name}-->", div)
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in parts.sections)
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(sums=sums)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{_own('page.css')}</style>",
        *(f"<script>{script}</script>" for script in scripts[:-1]),
        f'</head>\n<body>\n<header><h1>{html.escape(title)}</h1><button id="look" type="button">Dark look</button>',
        f"<nav>{links}</nav></header>\n<main>{sections}</main>",
    ]
    if parts.walks is not None:
        lines.append(f'<script type="application/json" id="walks">{as_json(parts.walks)}</script>')
    lines.append(f"<script>{embedded}</script>\n</body>\n</html>\n")
    return "\n".join(lines)


FIGURES = ("map", "of_k", "training", "rates")


def _bokeh() -> list[str]:
    """Bokeh's own scripts: plots, widgets and tables."""
    found: list[str] = Resources(mode="inline", components=["bokeh", "bokeh-widgets", "bokeh-tables"]).js_raw
    return found


def _own(name: str) -> str:
    return files("pyrovae.plots.interactive").joinpath(name).read_text(encoding="utf-8")


def _sum(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
