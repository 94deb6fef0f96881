"""Rates by dimension: the picture, the sentence and the diagnosis agree."""

import pytest
import torch

import pyrovae as pv
from pyrovae.plots.panels.latent_space import of_latents
from pyrovae.plots.panels.rates import of_rates
from pyrovae.plots.style import axes_or_new
from tests.oracles import ExactGuide, LinearGaussian, WideGuide


def test_rates_of_a_family_with_covariances_are_the_sites():
    model = LinearGaussian(K=3, D=4)
    found = pv.diagnose(pv.VAE(model, ExactGuide(model)), model.data(50), num_samples=50, seed=0)
    panel = of_rates(found)
    total = found.sites["rate"].sum()
    assert panel.sentence == f"3 of 3 latent dimensions are active; the rate is {total:.2f} nats in all."
    (bar,) = panel.draw(axes_or_new(None)).patches
    assert bar.get_height() == pytest.approx(total)


def test_collapse_is_the_diagnosis_word():
    """One row: whether means vary is unknown, and the rate says that it is not the prior."""
    model = LinearGaussian(K=2, D=4)
    found = pv.diagnose(pv.VAE(model, WideGuide(model)), model.data(1), num_samples=50, seed=0)
    assert "2 of 2 latent dimensions are active" in of_rates(found).sentence
    assert "collapsed" not in of_rates(found).sentence
    with torch.no_grad():
        model.W.zero_()
    exact = pv.VAE(model, ExactGuide(model))
    found = pv.diagnose(exact, model.data(20), num_samples=50, seed=0)
    assert "The posterior has collapsed onto the prior" in of_rates(found).sentence
    means = exact.encode(model.data(20))
    assert "none differs from row to row" in of_latents(means, None, ["z[0]", "z[1]"]).sentence
