"""Pictures: what they draw is what the numbers say; no text over text; nothing of pyplot's."""

import html.parser
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots import panels
from pyrovae.plots.style import COLOURS
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows


def history(epochs=40):
    elbo = -20 - 60 * np.exp(-np.arange(epochs) / 3)
    table = {"epoch": np.arange(1, epochs + 1), "elbo": elbo, "elbo_valid": elbo - 1}
    return pd.DataFrame({**table, "reconstruction": elbo + 5, "rate": 5.0})


def rates(K=8, name="z"):
    rate = np.linspace(2, 0, K)
    columns = {
        "site": name,
        "dimension": range(K),
        "rate": rate,
        "verdict": np.where(rate > 0.3, "active", "collapsed"),
    }
    return pd.DataFrame(columns)


def curve():
    return pd.DataFrame(
        {
            "beta": [0.25, 0.5, 1.0, 2.0, 4.0],
            "rate": [12.0, 9.5, 7.0, 4.0, 1.5],
            "distortion": [7.0, 8.0, 9.9, 13.5, 17.5],
            "rate_error": 0.2,
            "distortion_error": 0.3,
        }
    )


def ranks(quantities=3):
    return torch.randint(0, 101, (300, quantities), generator=torch.Generator().manual_seed(0))


def groups(x):
    """The sign of a row's mean by group, summed out, and two scalar latents."""
    with pyro.plate("rows", len(x)):
        group = pyro.sample("group", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
        shift = pyro.sample("shift", dist.Normal(torch.tensor(0.0), 0.3))
        scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), 0.1))
        mean = (4 * group - 2 + shift).unsqueeze(-1) * torch.ones(4)
        pyro.sample("x", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1), obs=x)


def guide_of_groups(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("shift", dist.Normal(0.1 * x.mean(1), 0.2))
        pyro.sample("scale", dist.LogNormal(0.05 * x.std(1), 0.1))


def labels_of(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


@pytest.fixture(scope="module")
def linear():
    model = LinearGaussian(K=3, D=16)
    return pv.VAE(model, WideGuide(model)), model.data(30)


def three_kinds(result):
    """The same with rows whose k is good, bad and unknown (inf of many different weights)."""
    good, bad, unknown = [0.1, 0.4, -np.inf] * 8, [0.9, 0.55, np.inf], [np.inf, np.nan, np.inf]
    ess = torch.tensor([50.0] * 24 + [20.0, 20.0, 1.0] + [50.0] * 3).double()
    return replace(result, khat=torch.tensor(good + bad + unknown).double(), ess=ess, num_samples=100)


@pytest.fixture(scope="module")
def pictures(linear):
    """Every picture of the package: name to a function that draws it."""
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=60, seed=0)
    marginal = pv.log_marginal(vae, x, num_samples=200, seed=0)
    shape = {"image_shape": (4, 4)}
    labels = np.arange(30) % 5
    return {
        "training_history": lambda ax: plots.training_history(history(), ax=ax),
        "image_grid": lambda ax: plots.image_grid([x[:4], x[4:8]], (4, 4), labels=["one", "two"], ax=ax),
        "reconstructions": lambda ax: plots.reconstructions(vae, x, **shape, ax=ax),
        "reconstructions, strips": lambda ax: plots.reconstructions(vae, x, ax=ax),
        "samples": lambda ax: plots.samples(vae, **shape, seed=0, ax=ax),
        "samples, strips": lambda ax: plots.samples(vae, num_rows=5, seed=0, ax=ax),
        "samples, many strips": lambda ax: plots.samples(vae, num_rows=16, seed=0, ax=ax),
        "traversals, strips": lambda ax: plots.traversals(vae, x, seed=0, ax=ax),
        "interpolation, strips": lambda ax: plots.interpolation(vae, x, ax=ax),
        "traversals": lambda ax: plots.traversals(vae, x, **shape, seed=0, ax=ax),
        "interpolation": lambda ax: plots.interpolation(vae, x, **shape, ax=ax),
        "latent_map": lambda ax: plots.latent_map(vae.encode(x), labels, ax=ax),
        "latent_map, names": lambda ax: plots.latent_map(
            vae.encode(x), np.array(["ape", "bee", "cat"])[labels % 3], ax=ax
        ),
        "latent_map, numbers": lambda ax: plots.latent_map(vae.encode(x), np.linspace(0, 1, 30), ax=ax),
        "rate_per_dimension": lambda ax: plots.rate_per_dimension(rates(), ax=ax),
        "rate_per_dimension, all verdicts": lambda ax: plots.rate_per_dimension(
            rates(4).assign(verdict=["active", "constant", "unknown", "collapsed"]), ax=ax
        ),
        "rate_per_dimension, 20 of long names": lambda ax: plots.rate_per_dimension(
            rates(20, "latent"), ax=ax
        ),
        "rate_per_dimension, 50": lambda ax: plots.rate_per_dimension(rates(50), ax=ax),
        "rate_distortion": lambda ax: plots.rate_distortion(curve(), ax=ax),
        "khat": lambda ax: plots.khat(marginal, ax=ax),
        "khat, unknown": lambda ax: plots.khat(three_kinds(marginal), ax=ax),
        "predictive_check": lambda ax: plots.predictive_check(tree, ax=ax),
        "predictive_check, prior": lambda ax: plots.predictive_check(tree, group="prior_predictive", ax=ax),
        "calibration_ranks": lambda ax: plots.calibration_ranks(
            ranks(), 100, ["z[0]", "z[1]", "z[2]"], ax=ax
        ),
        "calibration_ranks, many": lambda ax: plots.calibration_ranks(ranks(20), 100, ax=ax),
    }


NAMES = [
    *(
        "training_history",
        "image_grid",
        "reconstructions",
        "reconstructions, strips",
        "samples",
        "samples, strips",
        "samples, many strips",
        "traversals, strips",
        "interpolation, strips",
    ),
    *("traversals", "interpolation", "latent_map", "latent_map, names", "latent_map, numbers"),
    *(
        "rate_per_dimension",
        "rate_per_dimension, all verdicts",
        "rate_per_dimension, 20 of long names",
        "rate_per_dimension, 50",
        "rate_distortion",
    ),
    *(
        "khat",
        "khat, unknown",
        "predictive_check",
        "predictive_check, prior",
        "calibration_ranks",
        "calibration_ranks, many",
    ),
]


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


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_fits_and_no_text_lies_on_another(name, pictures):
    assert set(pictures) == set(NAMES)
    figure = Figure(figsize=(5.4, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    assert pictures[name](ax) is ax
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
    drawn = {name.split(",")[0] for name in NAMES}
    assert drawn == set(plots.__all__) - {"Panel", "Report", "report"}


def test_axes_are_made_without_pyplot():
    code = (
        "import sys, pandas as pd, pyrovae as pv\n"
        "ax = pv.plots.rate_distortion(pd.DataFrame({'beta': [1.0], 'rate': [2.0], 'distortion': [3.0]}))\n"
        "ax.figure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_colours_differ_in_lightness_or_to_a_dichromat():
    # Viénot, Brettel & Mollon (1999): protanopia and deuteranopia as linear maps of linear RGB.
    hexes = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])
    linear_rgb = np.where(hexes <= 0.04045, hexes / 12.92, ((hexes + 0.055) / 1.055) ** 2.4)
    maps = {
        "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
    }
    for kind, matrix in maps.items():
        seen = np.clip(linear_rgb @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        for a, b in itertools.combinations(range(len(COLOURS)), 2):
            assert np.abs(seen[a] - seen[b]).max() > 0.08, (kind, COLOURS[a], COLOURS[b])


class TestNumbers:
    """What is drawn, read back from the picture."""

    def test_reconstructions_are_the_pairs(self, linear):
        vae, x = linear
        page = plots.reconstructions(vae, x, image_shape=(4, 4), num_columns=3).images[0].get_array()
        first = np.asarray(page[1:5, 1:5], dtype=float)  # inside one pixel of gap
        below = np.asarray(page[7:11, 1:5], dtype=float)
        np.testing.assert_allclose(first.ravel(), x[0])
        np.testing.assert_allclose(below.ravel(), vae.reconstruct(x)[0])

    def test_traversals_change_one_dimension(self, linear):
        vae, x = linear
        page = plots.traversals(vae, x, dimensions=[1], num_steps=5, seed=0).images[0].get_array()
        means = vae.encode(x)
        slopes = np.diff(np.asarray(page, dtype=float), axis=0)
        direction = vae.model.W[:, 1].detach().numpy()  # the decoder is linear
        for slope in slopes:
            np.testing.assert_allclose(slope / slope[0], direction / direction[0], rtol=1e-6)
        draws = means[:, 1]
        step = slopes[0][0] / direction[0] * 4
        assert float(draws.max() - draws.min()) * 0.5 < step < 3 * float(draws.max() - draws.min())

    def test_traversals_of_strips_say_what_moves(self, linear):
        ax = plots.traversals(*linear, dimensions=[0, 2], num_steps=5, seed=0)
        assert labels_of(ax) == ["z[0]", "z[2]"]
        np.testing.assert_allclose(ax.get_yticks(), [2, 7])  # the middles of five strips each

    def test_strips_say_what_columns_and_lines_are(self, linear):
        vae, x = linear
        vae.rows(x)
        few, many = plots.samples(vae, num_rows=5, seed=0), plots.samples(vae, num_rows=16, seed=0)
        assert labels_of(few) == ["E[x|z]", "draw"] * 5
        assert labels_of(many) == []
        assert many.get_ylabel() == "each row: E[x|z] over draw"
        assert many.get_xlabel() == "entry of the row"
        assert many.get_xticks().tolist() == list(range(0, 16, 2))

    def test_the_latent_map_names_its_axes(self):
        ax = plots.latent_map(torch.randn(9, 2), names=["log_ec50", "slope"])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("E[log_ec50|x]", "E[slope|x]")

    def test_interpolation_begins_and_ends_at_the_rows(self, linear):
        vae, x = linear
        page = np.asarray(
            plots.interpolation(vae, x, num_pairs=1, num_steps=3).images[0].get_array(), dtype=float
        )
        a, b = vae.reconstruct(x[:2])
        for shown, expected in zip(page, [x[0], a, (a + b) / 2, b, x[1]], strict=True):
            np.testing.assert_allclose(shown, expected)

    def test_khat_counts_the_rows_above(self, linear):
        vae, x = linear
        ax = plots.khat(three_kinds(pv.log_marginal(vae, x, num_samples=100, seed=0)))
        drawn = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
        assert drawn == {
            "below 0.50: 80.0% of rows": 24,
            "0.50 or above: 10.0% of rows": 3,
            "unknown: 10.0% of rows": 3,
        }
        assert all(np.isfinite(c.get_offsets()).all() for c in ax.collections)

    def test_predictive_check_shows_the_statistics(self, linear):
        vae, x = linear
        tree = pv.to_arviz(vae, x, num_samples=30, seed=0)
        ax = plots.predictive_check(tree, num_draws=7, statistic=lambda rows: rows.max(1))
        assert len(ax.lines) == 8
        np.testing.assert_allclose(np.unique(ax.lines[-1].get_xdata()[1:]), np.unique(x.numpy().max(1)))
        drawn = tree.posterior_predictive["x"].values[0, 0].max(1)
        np.testing.assert_allclose(np.unique(ax.lines[0].get_xdata()[1:]), np.unique(drawn))

    @pytest.mark.parametrize("factor, outside", [(1.0, False), (0.5, True), (2.0, True)])
    def test_calibration_tells_right_from_wrong_widths(self, factor, outside):
        # The truth is standard normal and so are the right draws.
        generator = np.random.default_rng(0)
        truth, draws = generator.normal(size=(400, 1)), factor * generator.normal(size=(400, 100))
        ax = plots.calibration_ranks((draws < truth).sum(1, keepdims=True), 100)
        band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
        difference = ax.lines[0].get_ydata()
        assert (np.abs(difference).max() > band) == outside
        if outside:
            assert (difference[25] > 0) == (factor < 1)

    def test_the_band_is_massarts(self):
        ax = plots.calibration_ranks(ranks(1), 100)
        band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
        assert 2 * np.exp(-2 * 300 * band**2) == pytest.approx(0.05)

    def test_the_band_holds_the_worst_of_many_right_curves(self):
        """The 6 worst of 100 right quantities, 20 times: a band for one curve let some of them out every time."""
        generator = np.random.default_rng(0)
        outside = 0
        for _ in range(20):
            table = generator.integers(0, 101, size=(300, 100))
            places = (np.arange(101) + 1) / 101
            distance = np.abs((table[:, :, None] <= np.arange(101)).mean(0) - places).max(1)
            worst = table[:, np.argsort(-distance)[:6]]
            ax = plots.calibration_ranks(worst, 100, chosen_from=100)
            band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
            outside += any(np.abs(line.get_ydata()).max() > band for line in ax.lines)
        # At most 5% of 20: five or more have a probability below 0.003.
        assert outside < 5
        assert "all 100 curves" in ax.collections[0].get_label()

    def test_simulations_without_a_rank_are_left_out(self):
        table = ranks(2)
        table[:100, 1] = -1
        ax = plots.calibration_ranks(table, 100)
        alone = plots.calibration_ranks(table[100:, 1:], 100, chosen_from=2)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), alone.lines[0].get_ydata())
        bands = [one.collections[0].get_paths()[0].vertices[:, 1].max() for one in (ax, alone)]
        assert bands[0] == bands[1]

    def test_the_line_of_equal_elbo_goes_through_beta_one(self):
        ax = plots.rate_distortion(curve())
        dotted = next(line for line in ax.lines if str(line.get_label()).startswith("ELBO"))
        assert dotted.get_label() == "ELBO -16.90"
        np.testing.assert_allclose(np.add(dotted.get_xdata(), dotted.get_ydata()), 16.9)


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
    "file ending": (
        lambda v, x: plots.report(v, x, num_samples=20).save("page.pdf"),
        "expected .png or .html",
    ),
    "report's labels": (lambda v, x: plots.report(v, x, labels=[1]), "labels has 1 rows and x 30"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case, linear):
    draw, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        draw(*linear)


class Balanced(html.parser.HTMLParser):
    """Every tag that opens closes; collects the addresses that the page refers to."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(linear):
    vae, x = linear
    more = plots.Panel(
        "Ranks & <more>", lambda ax: plots.calibration_ranks(ranks(), 100, ax=ax), "They rise."
    )
    return plots.report(
        vae,
        x,
        history=history(),
        labels=np.arange(30) % 3,
        rate_distortion=curve(),
        extra=[more],
        image_shape=(4, 4),
        num_samples=100,
        seed=0,
    )


class TestReport:
    def test_panels_and_their_numbers(self, page, linear):
        vae, x = linear
        assert [panel.title for panel in page.panels] == [
            *("Training", "Reconstructions", "Samples", "Latent map", "Traversals", "Interpolation"),
            *("Predictive check", "Rate by latent dimension", "Importance weights", "Calibration"),
            *("Rate and distortion", "Ranks & <more>"),
        ]
        assert page.left_out == ()
        exact = float(vae.model.evidence().log_prob(x).mean())
        summary = page.summary.iloc[0]
        assert summary["log p(x)"] == pytest.approx(exact, abs=5 * summary["Monte Carlo error"])
        assert summary["ELBO"] == pytest.approx(summary["reconstruction"] - summary["rate"])
        said = {panel.title: panel.sentence for panel in page.panels}
        assert "1.00 below" in said["Training"]
        assert "3 of 3 latent dimensions are active" in said["Rate by latent dimension"]
        assert "ELBO is best, -16.90, at beta = 1" in said["Rate and distortion"]

    def test_the_page_is_one_file(self, page, tmp_path):
        page.save(tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        parser = Balanced()
        parser.feed(text)
        assert parser.open == []
        assert "script" not in parser.tags
        assert len(parser.sources) == parser.tags.count("img") == len(page.panels)
        assert all(source.startswith("data:image/png;base64,iVBOR") for source in parser.sources)
        assert "url(" not in text
        assert "Ranks &amp; &lt;more&gt;" in text
        assert parser.tags.count("table") == 1 + sum(panel.table is not None for panel in page.panels)

    def test_the_picture_has_every_panel(self, page, tmp_path):
        figure = page.figure()
        titled = [ax for ax in figure.axes if ax.get_title()]
        assert len(titled) == len(page.panels)
        page.save(tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
        assert [file.name for file in tmp_path.iterdir()] == ["page.png"]

    def test_a_failed_write_leaves_the_old_file(self, page, tmp_path, monkeypatch):
        (tmp_path / "page.html").write_text("old")

        def fails(*arguments, **choices):
            raise OSError("no space left")

        monkeypatch.setattr(Path, "write_text", fails)
        with pytest.raises(OSError, match="no space left"):
            page.save(tmp_path / "page.html")
        assert (tmp_path / "page.html").read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_seed_decides_and_the_random_state_is_left(self, linear):
        before = torch.get_rng_state()
        one, two = (plots.report(*linear, num_samples=20, seed=3).html() for _ in range(2))
        assert one == two
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("name", PAIRS)
    def test_any_pair_has_a_page(self, name):
        make, context = PAIRS[name]
        page = plots.report(make(), binary_rows(12), *context(12), num_samples=20, seed=0)
        assert page.left_out == ()

    def test_what_cannot_be_drawn_is_said(self):
        model = pv.models.GaussianMixture(3, 4)
        page = plots.report(pv.VAE(model, pv.guides.EmptyGuide()), torch.randn(12, 4), num_samples=20, seed=0)
        assert len(page.left_out) == 1
        assert page.left_out[0].startswith(
            "Latent map, Traversals, Interpolation. the latents ['k'] are discrete"
        )
        assert "Left out: Latent map" in page.html()

    def test_summed_out_latents_beside_others(self):
        """All panels; the same draws for the same seed; names of sites, of which scalars have no place."""
        x = 0.1 * torch.randn(40, 4)  # of either group, so that draws differ
        vae = pv.VAE(groups, guide_of_groups)
        page, again = (plots.report(vae, x, num_samples=50, seed=0) for _ in range(2))
        assert page.left_out == ()
        assert page.html() == again.html()
        axes = {panel.title: panel.draw(Figure().subplots()) for panel in page.panels}
        assert axes["Latent map"].get_xlabel() == "E[shift|x]"
        assert axes["Latent map"].get_ylabel() == "E[scale|x]"
        assert labels_of(axes["Traversals"]) == ["shift"]
        assert "[]" not in page.html()

    def test_interpolation_mixes_the_rows_draws(self):
        x = torch.tensor([[-2.0] * 4, [2.0] * 4])  # each row's group is certain
        vae = pv.VAE(groups, guide_of_groups)
        page = plots.interpolation(vae, x, num_pairs=1, num_steps=5).images[0].get_array()
        means = vae.encode(x)["shift"]
        for step, share in enumerate([0.0, 0.25, 0.5, 0.75, 1.0], 1):
            expected = torch.lerp(means[0], means[1], share) - 2 * (1 - share) + 2 * share
            np.testing.assert_allclose(page[step], expected.expand(4), atol=1e-5)

    def test_the_predictive_panel_finds_a_wrong_prior(self):
        model = LinearGaussian(K=3, D=16)
        x = model.data(200)

        def moved(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.full((3,), 4.0, dtype=torch.float64), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ model.W.T + model.b, model.scale).to_event(1), obs=x)

        right, wrong = (
            next(
                p.sentence
                for p in plots.report(vae, x, num_samples=20, seed=0).panels
                if p.title == "Predictive check"
            )
            for vae in (pv.VAE(model, ExactGuide(model)), pv.VAE(moved, ExactGuide(model)))
        )
        assert "such as the model draws" in right
        assert "misses the statistic's mean" in wrong


def predictive(observed, drawn):
    """The sentence on rows [N, D] and data sets drawn, [n, N, D]."""
    tree = SimpleNamespace(observed_data={"x": observed}, prior_predictive={"x": drawn[None]})
    return panels.of_predictive(tree, "x").sentence


class TestPanels:
    """Sentences against the numbers that they are about."""

    def test_a_right_model_is_said_to_miss_rarely(self):
        generator = np.random.default_rng(0)
        alarms = sum(
            "misses"
            in predictive(generator.gamma(1.0, size=(10, 3)), generator.gamma(1.0, size=(100, 10, 3)))
            for _ in range(400)
        )
        # Each of two figures is the most extreme of 101 on either side: 4% together, 16 +- 4 of 400.
        assert 3 < alarms < 33

    def test_figures_that_cannot_differ_are_not_missed(self):
        generator = np.random.default_rng(0)
        one_row = generator.normal(size=(1, 3)), generator.normal(size=(100, 1, 3))
        shares = generator.dirichlet(np.ones(3), size=20), generator.dirichlet(np.ones(3), size=(100, 20))
        for observed, drawn in (one_row, shares):
            assert "such as the model draws" in predictive(observed, drawn)

    def test_a_wrong_figure_is_missed(self):
        generator = np.random.default_rng(0)
        drawn = generator.normal(size=(100, 50, 3))
        assert "misses the statistic's mean over rows:" in predictive(
            generator.normal(size=(50, 3)) + 1, drawn
        )
        assert "misses the statistic's standard deviation" in predictive(
            3 * generator.normal(size=(50, 3)), drawn
        )

    def test_rates_of_a_family_with_covariances_are_the_sites(self):
        model = LinearGaussian(K=3, D=4)
        found = pv.diagnose(pv.VAE(model, ExactGuide(model)), model.data(50), num_samples=50, seed=0)
        panel = panels.of_rates(found)
        total = found.sites["rate"].sum()
        assert panel.sentence == f"3 of 3 latent dimensions are active; the rate is {total:.2f} nats in all."
        (bar,) = panel.draw(plots.style.axes_or_new(None)).patches
        assert bar.get_height() == pytest.approx(total)

    def test_collapse_is_the_diagnosis_word(self):
        """One row: whether means vary is unknown, and the rate says that it is not the prior."""
        model = LinearGaussian(K=2, D=4)
        found = pv.diagnose(pv.VAE(model, WideGuide(model)), model.data(1), num_samples=50, seed=0)
        assert "2 of 2 latent dimensions are active" in panels.of_rates(found).sentence
        assert "collapsed" not in panels.of_rates(found).sentence
        with torch.no_grad():
            model.W.zero_()
        exact = pv.VAE(model, ExactGuide(model))
        found = pv.diagnose(exact, model.data(20), num_samples=50, seed=0)
        assert "The posterior has collapsed onto the prior" in panels.of_rates(found).sentence
        means = exact.encode(model.data(20))
        assert "none differs from row to row" in panels.of_latents(means, None, ["z[0]", "z[1]"]).sentence

    def test_too_few_weights_are_not_called_bad(self, linear):
        vae, x = linear
        sentence = panels.of_weights(pv.log_marginal(vae, x, num_samples=10, seed=0)).sentence
        assert "unknown" in sentence
        assert "too low" not in sentence

    def test_a_late_best_epoch_is_not_called_a_rise(self):
        assert "best in the last tenth of the epochs" in panels.of_history(history()).sentence
        falling = history()
        falling["elbo_valid"] = -np.arange(40.0)
        assert "it was best at epoch 1, and has lost 38.50" in panels.of_history(falling).sentence

    def test_one_row_has_a_page(self):
        page = plots.report(*_of_one_row(), num_samples=20, seed=0)
        assert [line.split(".")[0] for line in page.left_out] == ["Interpolation"]
        assert page.summary.index.tolist() == ["these rows"]


def _of_one_row():
    model = LinearGaussian(K=3, D=16)
    return pv.VAE(model, WideGuide(model)), model.data(1)


def test_the_readme_shows_the_demos_report():
    root = Path(__file__).parents[2]
    assert re.search(r"!\[.*\]\(docs/report.png\)", (root / "README.md").read_text())
