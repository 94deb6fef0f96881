"""A report: any pair has a page, which says what had to be left out."""

import re
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots import panels
from pyrovae.plots.panel import Content
from tests.oracles import LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows
from tests.plots.examples import labels_of, of_groups


def test_panels_and_their_numbers(page, linear):
    vae, x = linear
    assert [panel.title for panel in page.panels] == [
        *("Training", "Reconstructions", "Samples", "Latent map", "Traversals", "Interpolation"),
        *("Predictive check", "Rate by latent dimension", "Importance weights", "Resemblance"),
        *("Calibration", "TARP coverage", "Contraction", "Rate and distortion", "Ranks & <more>"),
    ]
    assert page.left_out == ()
    # Which rows, or how many, and how many draws: but for the user's own panel.
    assert [
        panel.title
        for panel in page.panels
        if not re.search(r"\d+ (?:rows|epochs|models|quantities)", panel.of)
    ] == [
        panel.title
        for panel in page.panels
        if panel.title in ("Reconstructions", "Interpolation", "Ranks & <more>")
    ]
    assert all(panel.of for panel in page.panels[:-1])
    exact = float(vae.model.evidence().log_prob(x).mean())
    summary = page.summary.iloc[0]
    assert summary["log p(x)"] == pytest.approx(exact, abs=5 * summary["Monte Carlo error"])
    assert summary["ELBO"] == pytest.approx(summary["reconstruction"] - summary["rate"])
    said = {panel.title: panel.sentence for panel in page.panels}
    assert "1.00 below" in said["Training"]
    assert "3 of 3 latent dimensions are active" in said["Rate by latent dimension"]
    assert "ELBO is best, -16.90, at beta = 1" in said["Rate and distortion"]


def test_a_seed_decides_and_the_random_state_is_left(linear):
    before = torch.get_rng_state()
    one, two = (plots.report(*linear, num_samples=20, seed=3).html() for _ in range(2))
    assert one == two
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", PAIRS)
def test_any_pair_has_a_page(name):
    make, context = PAIRS[name]
    page = plots.report(make(), binary_rows(12), *context(12), num_samples=20, seed=0)
    assert page.left_out == ()


def test_labels_of_other_rows_are_refused(linear):
    vae, x = linear
    with pytest.raises(ValueError, match="labels has 1 rows and x 30"):
        plots.report(vae, x, labels=[1])


def test_what_cannot_be_drawn_is_said():
    model = pv.models.GaussianMixture(3, 4)
    page = plots.report(pv.VAE(model, pv.guides.EmptyGuide()), torch.randn(12, 4), num_samples=20, seed=0)
    assert len(page.left_out) == 1
    assert page.left_out[0].startswith(
        "Latent map, Traversals, Interpolation. the latents ['k'] are discrete"
    )
    assert "Left out: Latent map" in page.html()


def test_summed_out_latents_beside_others():
    """All panels; the same draws for the same seed; names of sites, of which scalars have no place."""
    x = 0.1 * torch.randn(40, 4)  # of either group, so that draws differ
    vae = of_groups()
    page, again = (plots.report(vae, x, num_samples=50, seed=0) for _ in range(2))
    assert page.left_out == ()
    assert page.html() == again.html()
    axes = {panel.title: panel.draw(Figure().subplots()) for panel in page.panels}
    assert axes["Latent map"].get_xlabel() == "E[shift|x]"
    assert axes["Latent map"].get_ylabel() == "E[scale|x]"
    assert [label.split("\n")[0] for label in labels_of(axes["Traversals"])] == ["shift"]
    assert "[]" not in page.html()


def test_one_row_has_a_page():
    model = LinearGaussian(K=3, D=16)
    page = plots.report(pv.VAE(model, WideGuide(model)), model.data(1), num_samples=20, seed=0)
    assert [line.split(".")[0] for line in page.left_out] == ["Interpolation", "Resemblance"]
    assert page.summary.index.tolist() == ["these rows"]


def test_a_panel_is_one_function_in_the_table(linear, monkeypatch):
    """It is given the report's subject; with nothing to show it is not mentioned, and a refusal is said."""

    def refused(subject):
        raise ValueError("these rows have no weight")

    vae, x = linear
    shown = {"Rows": lambda subject: Content(lambda ax: ax, f"{len(subject.data)} rows.")}
    for title, panel in {**shown, "Nothing": lambda subject: None, "Refused": refused}.items():
        monkeypatch.setitem(panels.PANELS, title, panel)
    page = plots.report(vae, x, num_samples=20, seed=0)
    assert (page.panels[-1].title, page.panels[-1].sentence) == ("Rows", "30 rows.")
    assert page.left_out == ("Refused. these rows have no weight",)
    assert "Nothing" not in page.html()


def test_the_readme_shows_the_demos_report():
    root = Path(__file__).parents[2]
    assert re.search(r"!\[.*\]\(docs/report.png\)", (root / "README.md").read_text())


def test_a_page_has_the_panels_that_are_chosen_and_pays_for_no_others(linear, monkeypatch, capsys):
    vae, x = linear

    def never(*arguments, **choices):
        raise AssertionError

    monkeypatch.setattr(sys.modules["pyrovae.plots.report"], "calibrate", never)
    without = plots.PANELS.keys() - {"Calibration"}
    page = plots.report(vae, x, panels=without, num_samples=100, seed=0, progress=True)
    titles = [panel.title for panel in page.panels]
    assert titles == [title for title in plots.PANELS if title in titles]  # in the order of the page
    assert {"Samples", "Importance weights"} <= set(titles)
    shown = capsys.readouterr().err
    assert "report" in shown
    assert "13/13" in shown
    few = plots.report(vae, x, panels=["Samples"], num_samples=100, seed=0)
    assert [panel.title for panel in few.panels] == ["Samples"]
    assert few.left_out == ()
    with pytest.raises(ValueError, match=r"no panels \['Sample'\]: expected some of \['Training', "):
        plots.report(vae, x, panels=["Sample"])
    with pytest.raises(TypeError, match=r"expected titles, panels=\['Samples'\]"):
        plots.report(vae, x, panels="Samples")
