"""Latents above the rows: which they are, their terms beside those of rows, and what is refused."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.pair.running import row_terms
from tests.shared_models import NOISE, PRIOR, SPREAD, Regression, amortized, hierarchy

X = torch.randn(20, generator=torch.Generator().manual_seed(0)) + 1.0


def rows(x):
    return pyro.plate("rows", len(x))


def test_terms_of_rows_are_given_one_draw_of_what_they_share():
    vae = pv.VAE(hierarchy, amortized, example=X)
    assert {n: s.shape for n, s in vae.layout.shared.items()} == {"mean": ()}
    assert list(vae.layout.latents) == ["z"]
    with vae.evaluating():
        terms = row_terms(vae, Batch((X,)), 5)
    mean, z = terms.shared.values["mean"], terms.latents["z"]
    assert mean.shape == ()
    assert z.shape == (5, 20)
    torch.testing.assert_close(terms.log_likelihood, dist.Normal(z, NOISE).log_prob(X))
    torch.testing.assert_close(terms.log_prior, dist.Normal(mean, SPREAD).log_prob(z))
    torch.testing.assert_close(terms.log_guide, dist.Normal(0.6 * X + 0.3 * mean, 0.5).log_prob(z))
    torch.testing.assert_close(terms.shared.log_prior, dist.Normal(0.0, PRIOR).log_prob(mean))
    torch.testing.assert_close(terms.shared.log_guide, dist.Normal(0.3, 0.7).log_prob(mean))


def groups(dim, G=7):
    """Effects of groups, as many as the rows that a pair is looked at with, indexed by context."""

    def model(x, group):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("groups", G, dim=dim):
            effect = pyro.sample("effect", dist.Normal(0.0, scale))
        with rows(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            mean = effect.reshape(G)[group] + z.sum(-1)
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    return model


@pytest.mark.parametrize("dim", [None, -1, -2, -3])
@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal])
def test_plates_over_groups_stand_at_any_dim(dim, family):
    model, group = groups(dim), torch.arange(20) % 7
    vae = pv.VAE(model, pv.guides.AutoGuide(model, shared_family=family), example=(X, group))
    assert {n: s.shape for n, s in vae.layout.shared.items()} == {"scale": (), "effect": (7,)}
    with vae.evaluating():
        terms = row_terms(vae, Batch((X, group)), 4)
        effect = terms.shared.values["effect"].reshape(7)
        scale = terms.shared.values["scale"]
    expected = dist.HalfNormal(1.0).log_prob(scale) + dist.Normal(0.0, scale).log_prob(effect).sum()
    torch.testing.assert_close(terms.shared.log_prior, expected)
    mean = effect[group] + terms.latents["z"].squeeze().sum(-1)
    torch.testing.assert_close(terms.log_likelihood, dist.Normal(mean, 0.5).log_prob(X))
    draws = vae.sample_shared(3, seed=0)
    assert draws["effect"].shape == (3, 7)
    one = vae.given_shared({name: draw[1] for name, draw in draws.items()})
    with one.evaluating():
        given = row_terms(one, Batch((X, group)), 1)
        mean = draws["effect"][1][group] + given.latents["z"].reshape(20, 2).sum(-1)
    torch.testing.assert_close(given.log_likelihood[0], dist.Normal(mean, 0.5).log_prob(X))


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, AutoDelta, None])
def test_priors_on_weights(guide):
    x, model = torch.randn(20, 2, generator=torch.Generator().manual_seed(1)), Regression()
    vae = pv.VAE(model, None if guide is None else guide(model), example=(x, X))
    assert {n: s.shape for n, s in vae.layout.shared.items()} == {
        "linear.weight": (1, 2),
        "linear.bias": (1,),
    }
    assert not vae.layout.latents
    with vae.evaluating():
        terms = row_terms(vae, Batch((x, X)), 3)
    weight, bias = terms.shared.values["linear.weight"], terms.shared.values["linear.bias"]
    expected = dist.Normal(x @ weight[0] + bias, 0.5).log_prob(X)
    torch.testing.assert_close(terms.log_likelihood, expected.expand(3, -1))


def test_the_density_of_a_draw_of_an_automatic_guide_is_that_of_the_latent():
    """Of a positive one through its logarithm."""

    def model(x):
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        with rows(x):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    vae = pv.VAE(model, AutoNormal(model), example=X)
    with vae.evaluating():
        terms = row_terms(vae, Batch((X,)), 1)
        loc, width = vae.guide.locs.scale, vae.guide.scales.scale
    value = terms.shared.values["scale"]
    torch.testing.assert_close(terms.shared.log_guide, dist.LogNormal(loc, width).log_prob(value))


def test_enumerated_and_inner_latents_stand_below_shared_ones():
    def model(x):
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        with rows(x):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[k], 0.5), obs=x)

    vae = pv.VAE(model, example=X)
    assert list(vae.layout.shared) == ["loc"]
    assert list(vae.layout.enumerated) == ["k"]
    with vae.evaluating():
        terms = row_terms(vae, Batch((X,)), 2)
    loc = terms.shared.values["loc"]
    each = torch.stack(
        [math.log(p) + dist.Normal(m, 0.5).log_prob(X) for p, m in zip((0.3, 0.7), loc, strict=True)]
    )
    torch.testing.assert_close(terms.log_likelihood, each.logsumexp(0).expand(2, -1))


def latent_that_follows_the_batch(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    with rows(x):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_by_row(x):
    with rows(x):
        pyro.sample("mean", dist.Normal(x, 1.0))
        pyro.sample("z", dist.Normal(x, 1.0))


def guide_that_reads_rows(x):
    pyro.sample("mean", dist.Normal(x.mean(), 1.0))
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0))


def guide_of_other_shape(x):
    pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with rows(x):
        pyro.sample("z", dist.Normal(x, 1.0))


def guide_of_another_support(x):
    pyro.sample("scale", dist.Normal(0.0, 5.0))


def scales(x):
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    with rows(x):
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)


def prior_that_reads_rows(x):
    mean = pyro.sample("mean", dist.Normal(x.mean(), 1.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def rows_beside_each_other(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with rows(x):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z - z.mean(-1, keepdim=True), 1.0), obs=x)


def coin_of_all_rows(x):
    coin = pyro.sample("coin", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    with rows(x):
        pyro.sample("x", dist.Normal(coin, 1.0), obs=x)


WRONG = {
    "follows the batch": (latent_that_follows_the_batch, None, "'z' of the model stands outside a row plate"),
    "by row in the guide": (
        hierarchy,
        guide_by_row,
        "'mean' of the model stands outside a row plate.*the guide",
    ),
    "guide reads rows": (
        hierarchy,
        guide_that_reads_rows,
        "'mean' in the guide.*depends on the rows at hand",
    ),
    "prior reads rows": (
        prior_that_reads_rows,
        amortized,
        "'mean' in the model.*depends on the rows at hand",
    ),
    "other shape": (hierarchy, guide_of_other_shape, r"'mean' in shape \[2\]: in the model a draw has \[\]"),
    "other support": (scales, guide_of_another_support, "guide draws the latent 'scale' from Normal"),
    "rows coupled": (rows_beside_each_other, amortized, "'x' of the model in one row depends on the other"),
    "summed out": (coin_of_all_rows, None, "'coin' stands above the rows and is to be summed out"),
    "automatic rows": (hierarchy, AutoNormal(hierarchy), "AutoNormal, which does not read x"),
    "forgotten": (hierarchy, lambda x: guide_by_row(x), "outside a row plate"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_programs(wrong):
    model, guide, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        pv.VAE(model, guide, example=X)


def test_a_part_of_pyros_automatic_guides_may_draw_what_rows_share():
    shared = AutoNormal(poutine.block(hierarchy, hide=["z"]))

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.rows = shared, torch.nn.Linear(1, 1)

        def forward(self, x):
            mean = self.shared(x)["mean"]
            with rows(x):
                pyro.sample("z", dist.Normal(self.rows(x[:, None])[:, 0] + mean, 0.5))

    vae = pv.VAE(hierarchy, Guide(), example=X)
    assert vae.layout.shared_statements == ("mean_unconstrained", "mean") or set(
        vae.layout.shared_statements
    ) == {
        "mean_unconstrained",
        "mean",
    }
