"""The page without a browser: how large it is, which rows it has, what it says; and where Bokeh is missing."""

import json
import re

import numpy as np
import pytest
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots.colours import Scale
from pyrovae.plots.interactive import need
from pyrovae.plots.interactive.columns import Column, classes_of, in_order
from pyrovae.plots.interactive.rows import MOST_ROWS, PICTURE_BYTES, chosen_places
from pyrovae.plots.interactive.sliders import BYTES, _points
from pyrovae.plots.interactive.thumbnails import thumbnails
from tests.oracles import LinearGaussian, WideGuide
from tests.plots.interactive.conftest import BAD, NO_CALIBRATION, WORSE


def test_no_value_is_markup(made):
    for kind in made:
        text = made[kind].html
        assert BAD not in text
        assert WORSE not in text
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
        assert policy.startswith("default-src 'none'; script-src 'unsafe-eval' 'sha256-")
        assert "http" not in policy
        body = text[text.rindex("<body>") :]
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=[\"'](?!data:)", body)


def test_two_thousand_rows_of_images_take_five_megabytes(made):
    """Scripts and markup are those of a small page; pictures and grids keep to their bytes, whatever they are."""
    of_small = len(made["images"].html)
    columns = 2000 * 12 * 8  # bytes of 12 columns of numbers, as text
    assert of_small + 2 * PICTURE_BYTES + BYTES + columns < 5e6


def test_pictures_keep_to_their_bytes_or_to_every_shade():
    noise = np.random.default_rng(0).random((60, 32, 32, 3))
    exact = thumbnails(list(noise), Scale(0, 1), None, 10_000_000)
    small = thumbnails(list(noise), Scale(0, 1), None, 60_000)
    assert exact.exact
    assert not small.exact
    assert small.num_bytes < 1.1 * 60_000 < exact.num_bytes


def test_a_seed_decides_and_the_random_state_is_left(made):
    before = torch.get_rng_state()
    grids = [re.findall(r'id="walks">(.*?)</script>', made["sequences"].report.page().html) for _ in range(2)]
    assert grids[0] == grids[1]
    assert torch.equal(before, torch.get_rng_state())


def test_of_many_rows_the_strangest_are_on_the_page():
    model = LinearGaussian(K=2, D=3)
    x = model.data(3000)
    x[1234] += 50.0
    quality = pv.log_marginal(pv.VAE(model, WideGuide(model)), x, num_samples=30, seed=0)
    places = chosen_places(quality)
    assert len(places) == MOST_ROWS
    assert 1234 in places
    assert np.all(np.diff(places) > 0)
    np.testing.assert_array_equal(
        chosen_places(pv.log_marginal(pv.VAE(model, WideGuide(model)), x[:30], num_samples=30)), np.arange(30)
    )


@pytest.mark.parametrize(
    "mean, low, high", [(0.3, -1.0, 2.0), (-5.0, -1.0, 2.0), (9.0, -1.0, 2.0), (0.0, 0.0, 0.0)]
)
def test_a_slider_passes_its_rows_own_mean(mean, low, high):
    points, start = _points(mean, low, high)
    assert points[start] == mean
    assert points == sorted(points)
    assert len(points) == (1 if low == high else 15)
    assert points[0] == min(low, mean)
    assert points[-1] == max(high, mean)


def test_classes_are_told_from_numbers():
    assert Column("a", np.array([1, 2, 2])).classes
    assert Column("a", np.array(["x", "y"], dtype=object)).classes
    assert not Column("a", np.array([0.5, 1.0])).classes
    assert not Column("a", np.arange(50)).classes
    many = classes_of(np.repeat([f"kind {i}" for i in range(35)], np.arange(1, 36)))
    assert "16 others" in many
    assert in_order(np.array(["10", "9", "b", "a"], dtype=object)) == ["9", "10", "a", "b"]


def test_a_table_of_several_sites_keeps_its_columns(made):
    report = made["table"].report
    assert report.subject.names == ["visits", "@height $x", WORSE, "kind"]
    titles = [panel.title for panel in report.panels]
    assert {"Reconstructions", "Samples"} <= set(titles)
    assert [t for t in titles if t.startswith("Predictive")] == [f"Predictive check: x_{n}" for n in range(3)]
    axes = {ax.get_title(): ax for ax in report.figure().axes if ax.get_title()}
    ticks = [tick.get_text() for tick in axes["Rows and their reconstructions"].get_xticklabels()]
    assert ticks == ["visits", "@height $x", "<img src=x on…", "kind"]
    checked = [axes[f"Prior predictive check of x_{n}"].get_xlabel() for n in range(3)]
    assert checked == ["visits", f"mean of @height $x, {WORSE}", "kind"]


def test_every_panel_says_which_rows_and_draws(made):
    for kind in made.values():
        for panel in kind.report.panels:
            assert re.search(r"row|epochs", panel.of), panel.title
            assert re.search(r"\d", panel.of), panel.title
    said = {panel.title: panel.of for panel in made["sequences"].report.panels}
    lengths = made["sequences"].data[1]
    assert f"lengths {lengths[0]}, {lengths[1]}" in said["Samples"]


def test_what_cannot_be_shown_is_said():
    model = pv.models.GaussianMixture(3, 4)
    vae = pv.VAE(model, pv.guides.EmptyGuide())
    page = plots.report(vae, torch.randn(25, 4), num_samples=20, seed=0, panels=NO_CALIBRATION).page()
    assert "Latent map. the latents [&#x27;k&#x27;] are discrete" in page.html
    assert "Sliders. " in page.html


def test_without_bokeh_the_sheet_is_made_and_the_page_says_what_is_needed(made, monkeypatch, tmp_path):
    vae, (x,), report = made["images"].vae, made["images"].data, made["images"].report
    monkeypatch.setattr(need, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs Bokeh: pip install 'pyrovae\[page\]'"):
        report.save(tmp_path / "report.html")
    with pytest.warns(UserWarning, match=r"pip install 'pyrovae\[page\]'.*report.png, goes without"):
        sheet = plots.report(vae, x, panels=["Samples"], image_shape=(6, 5), num_samples=20, seed=0)
    sheet.save(tmp_path / "report.png")
    assert [file.name for file in tmp_path.iterdir()] == ["report.png"]


def test_a_notebook_shows_the_page_in_a_frame(made):
    shown = made["table"].report.page()._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2
    assert BAD not in shown


def test_grids_are_json_that_ends_no_script(made):
    (text,) = re.findall(r'id="walks">(.*?)</script>', made["images"].html)
    assert "<" not in text
    walks = json.loads(text)
    assert [base["said"].split(", ")[1] for base in walks["bases"]] == [
        "label " + BAD,
        "label three",
        "label two",
    ]
