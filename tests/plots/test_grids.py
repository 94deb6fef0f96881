"""Rows as images and as strips: colours, ranges and names."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import SymLogNorm

from pyrovae import plots
from tests.pairs import composed

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("factor", [1.0, 255.0])
def test_images_of_one_channel_are_grey_and_have_no_frame(factor):
    ax = plots.image_grid([factor * GENERATOR.random((5, 8, 8)), factor * GENERATOR.random((5, 8, 8))])
    assert ax.images[0].get_cmap().name == "gray"  # bright where numbers are large, as in the photograph
    assert not any(spine.get_visible() for spine in ax.spines.values())
    low, high = ax.images[0].get_clim()
    assert (low, high) == (0, 1) if factor == 1 else (0 <= low < 10 and 245 < high <= 255)


def test_a_few_pixels_outside_do_not_darken_the_others():
    images = GENERATOR.random((5, 20, 20))
    images[0, 0, :2] = [-3.0, 40.0]
    assert plots.image_grid([images]).images[0].get_clim() == (0, 1)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_colours_are_those_of_the_image_whatever_its_range(low, high):
    image = np.linspace(low, high, 5 * 3 * 64).reshape(5, 3, 8, 8)
    page = plots.image_grid([image]).images[0].get_array()
    shares = (image[0, :, 3, 3] - low) / (high - low)
    np.testing.assert_allclose(page[4, 4], shares, atol=0.02)


def test_counts_have_a_log_scale_where_their_tail_is_long():
    counts, few = np.exp(GENERATOR.normal(0, 2, (5, 100))).round(), GENERATOR.poisson(5, (5, 100))
    assert isinstance(plots.image_grid([counts]).images[0].norm, SymLogNorm)
    assert not isinstance(plots.image_grid([counts], log=False).images[0].norm, SymLogNorm)
    for other in (few, GENERATOR.normal(size=(5, 100)), GENERATOR.random((5, 100))):
        assert not isinstance(plots.image_grid([other]).images[0].norm, SymLogNorm)
    assert isinstance(plots.image_grid([few], log=True).images[0].norm, SymLogNorm)


def names(ax):
    return [tick.get_text() for tick in ax.get_xticklabels()]


def test_strips_name_the_columns_of_a_frame():
    vae, x = composed(D=16), torch.as_tensor(GENERATOR.integers(0, 2, (30, 16))).float()
    frame = pd.DataFrame(x.numpy(), columns=[f"gene {i}" for i in range(16)])
    for draw in (plots.reconstructions, plots.traversals, plots.interpolation):
        assert names(draw(vae, frame)) == list(frame.columns)
        assert names(draw(vae, x, columns=list("abcdefghijklmnop"))) == list("abcdefghijklmnop")
    assert names(plots.samples(vae, columns=list(frame.columns))) == list(frame.columns)
    page = plots.report(vae, frame, panels=["Reconstructions", "Samples"], num_samples=20, seed=0)
    named = [ax for ax in page.figure().axes if ax.get_title()]
    assert [names(ax) for ax in named] == [list(frame.columns)] * 2
    for wrong in (plots.reconstructions, plots.report):
        with pytest.raises(ValueError, match="columns has 2 names: a row has 16 entries"):
            wrong(vae, x, columns=["a", "b"])


def test_of_many_columns_some_are_named():
    long = [f"a name too long to show {i}" for i in range(200)]
    shown = names(plots.image_grid([torch.rand(3, 200)], columns=long))
    assert 10 < len(shown) <= 24
    assert all(name.endswith("…") for name in shown)


def test_titles_and_colours_are_the_users(linear):
    vae, x = linear
    given = {"title": "Mine", "cmap": "magma", "image_shape": (4, 4)}
    drawn = [draw(vae, x, **given) for draw in (plots.reconstructions, plots.traversals, plots.interpolation)]
    for ax in (*drawn, plots.samples(vae, **given)):
        assert ax.get_title() == "Mine"
        assert ax.images[0].get_cmap().name == "magma"
    page = plots.report(vae, x, image_shape=(4, 4), cmap="magma", panels=["Samples"], num_samples=20, seed=0)
    assert page.figure().axes[0].images[0].get_cmap().name == "magma"


def test_every_picture_takes_a_title():
    for name in set(plots.__all__) - {"PANELS", "Page", "Panel", "Report", "table_panels"}:
        assert "title" in inspect.signature(getattr(plots, name)).parameters, name


def test_many_classes_have_a_legend_of_the_largest():
    labels = np.repeat([f"kind {i}" for i in range(35)], np.arange(1, 36))
    ax = plots.latent_map(GENERATOR.normal(size=(len(labels), 2)), labels)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(shown) == 20
    assert shown[0] == "16 others"
    assert set(shown[1:]) == {f"kind {i}" for i in range(16, 35)}
