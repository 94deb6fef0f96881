"""Predictive checks: right models pass, wrong ones are found."""

import functools
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
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
    assert ax.get_xlabel() == "statistic of a row, see name="
    largest = plots.predictive_check(tree, statistic=lambda rows: rows.max(1), name="largest entry")
    assert largest.get_xlabel() == "largest entry"
    by_name = functools.partial(np.max, axis=1)
    assert plots.predictive_check(tree, statistic=by_name).get_xlabel() == "max"
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


def masked_pair(share):
    """Bits of which a mask leaves some out, by a second argument."""

    def model(x, observed):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            logits = (0 * z + np.log(share / (1 - share))).expand(*z.shape[:-1], x.shape[-1])
            pyro.sample("x", dist.Bernoulli(logits=logits).mask(observed).to_event(1), obs=x)

    def guide(x, observed):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    return pv.VAE(model, guide)


def test_fillers_are_no_data():
    """633 of 1000 bits are 1; with zeros in place of the missing ones a right model was said to miss the mean."""
    torch.manual_seed(0)
    x, observed = torch.bernoulli(torch.full((300, 20), 0.633)), torch.rand(300, 20) > 0.18
    observed[0] = False  # a row of which nothing is known
    filled = torch.where(observed, x, 0.0)
    tree = pv.to_arviz(masked_pair(0.633), filled, observed, num_samples=60, seed=0)
    content = of_predictive(tree, "x")
    assert "such as the model draws" in content.sentence
    assert "against 299 rows" in content.sentence
    exact = torch.where(observed, x, 0.0).sum(1)[1:] / observed.sum(1)[1:]
    ax = plots.predictive_check(tree)
    np.testing.assert_allclose(np.sort(exact), np.sort(ax.lines[-1].get_xdata()[1:]), rtol=1e-6)
    zeros = plots.predictive_check(tree, statistic=lambda rows: (rows == 0).sum(1) / np.isfinite(rows).sum(1))
    assert float(zeros.lines[-1].get_xdata()[1:].mean()) == pytest.approx(1 - float(exact.mean()))
    with pytest.raises(ValueError, match="such as np.nanmean"):
        plots.predictive_check(tree, statistic=lambda rows: rows.sum(1) * np.nan)
    right, wrong = (
        next(p for p in page.panels if p.title == "Reconstructions")
        for page in (
            plots.report(masked_pair(s), filled, observed, num_samples=20, seed=0) for s in (0.633, 0.1)
        )
    )
    # E[x|z] is the mean of what is observed: all of its variance, p (1 - p), is left.
    assert "leaves 100% of the variance" in right.sentence
    share = (0.633 * 0.367 + (0.633 - 0.1) ** 2) / (0.633 * 0.367)
    assert abs(float(wrong.sentence.split("leaves ")[1].split("%")[0]) / 100 - share) < 0.15
