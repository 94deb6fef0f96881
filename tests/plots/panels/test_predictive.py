"""Predictive checks: right models pass, wrong ones are found."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyrovae as pv
from pyrovae import plots
from pyrovae.plots.panels.predictive import of_predictive
from tests.oracles import ExactGuide, LinearGaussian


def predictive(observed, drawn):
    """The sentence on rows [N, D] and data sets drawn, [n, N, D]."""
    tree = SimpleNamespace(observed_data={"x": observed}, prior_predictive={"x": drawn[None]})
    return of_predictive(tree, "x").sentence


def test_predictive_check_shows_the_statistics(linear):
    vae, x = linear
    tree = pv.to_arviz(vae, x, num_samples=30, seed=0)
    ax = plots.predictive_check(tree, num_draws=7, statistic=lambda rows: rows.max(1))
    assert len(ax.lines) == 8
    np.testing.assert_allclose(np.unique(ax.lines[-1].get_xdata()[1:]), np.unique(x.numpy().max(1)))
    drawn = tree.posterior_predictive["x"].values[0, 0].max(1)
    np.testing.assert_allclose(np.unique(ax.lines[0].get_xdata()[1:]), np.unique(drawn))


def test_a_right_model_is_said_to_miss_rarely():
    generator = np.random.default_rng(0)
    alarms = sum(
        "misses" in predictive(generator.gamma(1.0, size=(10, 3)), generator.gamma(1.0, size=(100, 10, 3)))
        for _ in range(400)
    )
    # Each of two figures is the most extreme of 101 on either side: 4% together, 16 +- 4 of 400.
    assert 3 < alarms < 33


def test_figures_that_cannot_differ_are_not_missed():
    generator = np.random.default_rng(0)
    one_row = generator.normal(size=(1, 3)), generator.normal(size=(100, 1, 3))
    shares = generator.dirichlet(np.ones(3), size=20), generator.dirichlet(np.ones(3), size=(100, 20))
    for observed, drawn in (one_row, shares):
        assert "such as the model draws" in predictive(observed, drawn)


def test_a_wrong_figure_is_missed():
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(100, 50, 3))
    assert "misses the statistic's mean over rows:" in predictive(generator.normal(size=(50, 3)) + 1, drawn)
    assert "misses the statistic's standard deviation" in predictive(
        3 * generator.normal(size=(50, 3)), drawn
    )


def test_the_predictive_panel_finds_a_wrong_prior():
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
