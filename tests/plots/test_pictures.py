"""Pictures: no text over text, nothing of pyplot's, wrong input refused before anything is drawn."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import pyrovae as pv
from pyrovae import plots
from tests.plots.examples import curve, history, ranks, rates, three_kinds

COUNTS = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).normal(0, 2, (4, 100))))
STATISTICS = {"mean": lambda x: x.mean(), "largest": lambda x: x.max()}
SHAPE, LABELS = {"image_shape": (4, 4)}, np.arange(30) % 5
# Every picture of the package, drawn in every manner that has texts of its own.
PICTURES = {
    "training_history": lambda ax, given: plots.training_history(history(), ax=ax),
    "image_grid": lambda ax, given: plots.image_grid(
        [given.x[:4], given.x[4:8]], (4, 4), labels=["one", "two"], ax=ax
    ),
    "reconstructions": lambda ax, given: plots.reconstructions(given.vae, given.x, **SHAPE, ax=ax),
    "reconstructions, strips": lambda ax, given: plots.reconstructions(given.vae, given.x, ax=ax),
    "samples": lambda ax, given: plots.samples(given.vae, **SHAPE, seed=0, ax=ax),
    "samples, strips": lambda ax, given: plots.samples(given.vae, num_rows=5, seed=0, ax=ax),
    "samples, many strips": lambda ax, given: plots.samples(given.vae, num_rows=16, seed=0, ax=ax),
    "traversals, strips": lambda ax, given: plots.traversals(given.vae, given.x, seed=0, ax=ax),
    "interpolation, strips": lambda ax, given: plots.interpolation(given.vae, given.x, ax=ax),
    "traversals": lambda ax, given: plots.traversals(given.vae, given.x, **SHAPE, seed=0, ax=ax),
    "interpolation": lambda ax, given: plots.interpolation(given.vae, given.x, **SHAPE, ax=ax),
    "latent_map": lambda ax, given: plots.latent_map(given.vae.encode(given.x), LABELS, ax=ax),
    "latent_map, names": lambda ax, given: plots.latent_map(
        given.vae.encode(given.x), np.array(["ape", "bee", "cat"])[LABELS % 3], ax=ax
    ),
    "latent_map, 40 long names": lambda ax, given: plots.latent_map(
        np.random.default_rng(0).normal(size=(200, 2)),
        [f"a long name of a kind, {i % 40}" for i in range(200)],
        ax=ax,
    ),
    "reconstructions, counts": lambda ax, given: plots.reconstructions(
        given.vae, given.x, columns=[f"gene number {i}" for i in range(16)], ax=ax
    ),
    "image_grid, counts": lambda ax, given: plots.image_grid(
        [COUNTS], columns=[f"g{i}" for i in range(100)], ax=ax
    ),
    "latent_map, numbers": lambda ax, given: plots.latent_map(
        given.vae.encode(given.x), np.linspace(0, 1, 30), ax=ax
    ),
    "rate_per_dimension": lambda ax, given: plots.rate_per_dimension(rates(), ax=ax),
    "rate_per_dimension, all verdicts": lambda ax, given: plots.rate_per_dimension(
        rates(4).assign(verdict=["active", "constant", "unknown", "collapsed"]), ax=ax
    ),
    "rate_per_dimension, 20 of long names": lambda ax, given: plots.rate_per_dimension(
        rates(20, "latent"), ax=ax
    ),
    "rate_per_dimension, 50": lambda ax, given: plots.rate_per_dimension(rates(50), ax=ax),
    "rate_distortion": lambda ax, given: plots.rate_distortion(curve(), ax=ax),
    "khat": lambda ax, given: plots.khat(given.marginal, ax=ax),
    "khat, unknown": lambda ax, given: plots.khat(three_kinds(given.marginal), ax=ax),
    "predictive_check": lambda ax, given: plots.predictive_check(given.tree, ax=ax),
    "predictive_check, prior": lambda ax, given: plots.predictive_check(
        given.tree, group="prior_predictive", ax=ax
    ),
    "calibration_ranks": lambda ax, given: plots.calibration_ranks(
        ranks(), 100, ["z[0]", "z[1]", "z[2]"], ax=ax
    ),
    "calibration_ranks, many": lambda ax, given: plots.calibration_ranks(ranks(20), 100, ax=ax),
    "tarp_coverage": lambda ax, given: plots.tarp_coverage(given.calibration, ax=ax),
    "recovery": lambda ax, given: plots.recovery(given.calibration.recovery, ax=ax),
    "contraction": lambda ax, given: plots.contraction(given.calibration.recovery, ax=ax),
    "resemblance": lambda ax, given: plots.resemblance(pv.resembles(given.vae, given.x, seed=0), ax=ax),
    "predictive_statistics": lambda ax, given: plots.predictive_statistics(
        pv.predictive_check(given.vae, given.x, statistics=STATISTICS, num_draws=20, seed=0), ax=ax
    ),
    "tails": lambda ax, given: plots.tails(pv.tail_check(given.vae, given.x, seed=0), ax=ax),
}


@pytest.fixture(scope="module")
def given(linear):
    """What pictures are drawn of."""
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=60, seed=0)
    return SimpleNamespace(
        vae=vae,
        x=x,
        tree=tree,
        marginal=pv.log_marginal(vae, x, num_samples=200, seed=0),
        calibration=pv.calibrate(vae, num_simulations=60, num_draws=9, tarp=True, seed=0),
    )


def texts(ax):
    """Each text that is shown, with the box it fills."""
    renderer = ax.figure.canvas.get_renderer()
    found = list(ax.texts)
    for one in ax.figure.axes:  # its colour bar's as well
        found += [one.title, one.xaxis.label, one.yaxis.label]
        # Ticks beyond the limits are kept by matplotlib and not drawn.
        for axis, limits in ((one.xaxis, one.get_xlim()), (one.yaxis, one.get_ylim())):
            ticks = [tick for tick in axis.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
            found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    if ax.get_legend() is not None:
        found += ax.get_legend().get_texts()
    return [(t.get_text(), t.get_window_extent(renderer)) for t in found if t.get_text() and t.get_visible()]


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_fits_and_no_text_lies_on_another(name, given):
    figure = Figure(figsize=(5.4, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    assert PICTURES[name](ax, given) is ax
    figure.canvas.draw()
    shown = texts(ax)
    assert shown
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        assert not a.shrunk(0.95, 0.95).overlaps(b.shrunk(0.95, 0.95)), f"{one!r} lies on {other!r}"
    for text, box in shown:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text


def test_every_picture_of_the_package_is_in_the_table():
    drawn = {name.split(",")[0] for name in PICTURES}
    assert drawn == set(plots.__all__) - {"PANELS", "Page", "Panel", "Report", "report", "table_panels"}


def test_axes_are_made_without_pyplot():
    code = (
        "import sys, pandas as pd, pyrovae as pv\n"
        "ax = pv.plots.rate_distortion(pd.DataFrame({'beta': [1.0], 'rate': [2.0], 'distortion': [3.0]}))\n"
        "ax.figure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


WRONG = {
    "no such columns": (
        lambda v, x: plots.training_history(pd.DataFrame({"epoch": [1]})),
        "lacks the columns",
    ),
    "image shape": (
        lambda v, x: plots.reconstructions(v, x, image_shape=(3, 3)),
        r"\(3, 3\): a row has 16 entries",
    ),
    "site": (lambda v, x: plots.reconstructions(v, x, site="y"), r"site is 'y': the model has \['x'\]"),
    "dimension": (lambda v, x: plots.traversals(v, x, dimensions=[3]), "expected numbers from 0 to 2"),
    "one row": (lambda v, x: plots.interpolation(v, x[:1]), "needs two rows"),
    "labels": (lambda v, x: plots.latent_map(x, [1, 2]), "got 2 labels for 30 rows"),
    "names": (lambda v, x: plots.latent_map(x, names=["z"]), "got 1 names for 16 columns"),
    "ranks beyond": (lambda v, x: plots.calibration_ranks(ranks(), 50), "expected 0 to num_draws = 50"),
    "chosen from fewer": (
        lambda v, x: plots.calibration_ranks(ranks(), 100, chosen_from=2),
        "expected at least 3, the columns of ranks",
    ),
    "group": (lambda v, x: plots.predictive_check(None, group="prior"), "group is 'prior'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case, linear):
    draw, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        draw(*linear)
