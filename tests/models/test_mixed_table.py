"""Tables of several families: absent entries neither train nor count, and tables that do not fit are named."""

from __future__ import annotations

import pytest
import torch

import pyrovae as pv
from pyrovae import models
from pyrovae.data import Batch
from pyrovae.nn import MLP, MissingAsZero
from pyrovae.pair.running import row_terms, run_model
from pyrovae.random_state import fixed_seed
from tests.components import MIXED_COLUMNS, MODELS, mixed_rows, net


@pytest.fixture
def pair():
    torch.manual_seed(0)
    (x,) = mixed_rows(12)
    model, guide = MODELS["MixedTableModel"].make()
    return pv.VAE(model, guide), x


def densities(vae, x):
    """Log densities [S,B] of latents and observations, and all gradients of their sum."""
    vae.rows(x)
    vae.zero_grad()
    with fixed_seed(0, vae.device), vae.scope():
        terms = row_terms(vae, Batch((x,), absent=True), 3)
    (terms.log_likelihood.sum() - terms.rate.sum()).backward()
    gradients = [p.grad.clone() for p in vae.parameters()]
    return terms.log_likelihood.detach(), terms.log_prior.detach(), terms.log_guide.detach(), gradients


def test_a_row_counts_its_observed_entries_alone(pair):
    vae, x = pair
    vae.rows(x)
    with vae.evaluating():
        latents = {"z": torch.randn(3, 12, 2)}
        sites = run_model(vae, Batch((x,), absent=True), latents, 3)
        for part, (columns, likelihood) in enumerate(zip(MIXED_COLUMNS, vae.model.likelihoods, strict=True)):
            some = x[:, columns]
            entries = likelihood(latents["z"]).base_dist.log_prob(some.nan_to_num())
            exact = (entries * ~some.isnan()).sum(-1)
            torch.testing.assert_close(sites[f"x_{part}"].log_prob, exact)


def test_an_entry_trains_its_own_column_alone(pair):
    vae, x = pair
    only = torch.full_like(x, torch.nan)
    only[:, 3] = x[:, 3].nan_to_num(0.3)  # the second column of part 0
    *_, gradients = densities(vae, only)
    named = dict(zip((name for name, _ in vae.named_parameters()), gradients, strict=True))
    location = named["model.likelihoods.0.network.heads.0.weight"]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert bool((location[0] == 0).all())
    assert bool((location[1] != 0).all())
    for part in (1, 2):
        for name, gradient in named.items():
            if name.startswith(f"model.likelihoods.{part}."):
                assert bool((gradient == 0).all()), name


def test_likelihoods_with_positive_support_keep_gradients_finite():
    class LogNormal(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return pv.models.likelihoods.dist.LogNormal(self.network(z), 1.0).to_event(1)

    torch.manual_seed(0)
    guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(MissingAsZero(net(4, (2, 2)))))
    vae = pv.VAE(models.MixedTableModel(models.StandardNormal(2), [([0, 1], LogNormal(net(2, 2)))]), guide)
    x = torch.rand(6, 2) + 0.1
    x[:, 1] = torch.nan
    *_, gradients = densities(vae, x)
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_observed_entries_outside_the_support_are_named(pair):
    vae, x = pair
    x[4, 2] = -1.0
    with pytest.raises(ValueError, match=r"row 4 of the data lies outside the support of site 'x_2'"):
        pv.elbo(vae, x)
    x[4, 2], x[4, 0] = torch.nan, 0.0
    pv.elbo(vae, x)


def test_new_rows_are_drawn_with_every_entry_and_make_a_table(pair):
    vae, x = pair
    vae.rows(x)
    drawn = vae.generate(7, seed=0)
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {
        "x_0": (7, 2),
        "x_1": (7, 1),
        "x_2": (7, 2),
    }
    table = vae.model.table(drawn)
    assert table.shape == (7, 5)
    for part, columns in enumerate(MIXED_COLUMNS):
        torch.testing.assert_close(table[:, columns], drawn[f"x_{part}"].float())


def test_rows_without_observed_entries_are_named(pair):
    vae, x = pair
    x[5] = torch.nan
    with pytest.raises(ValueError, match=r"row 5 of the data has nothing observed"):
        pv.elbo(vae, x)
    x[5, 0] = 0.0
    x[9] = torch.nan
    with pytest.raises(ValueError, match=r"row 9 of the data has nothing observed"):
        pv.fit(vae, x, epochs=1, progress=False)


def test_wrong_tables_are_named(pair):
    vae, x = pair
    with pytest.raises(ValueError, match=r"x has shape \[7, 6\].*5 columns"):
        pv.elbo(vae, torch.cat([x, x[:, :1]], 1))


@pytest.mark.parametrize("columns", [[[0], [0, 1]], [[0], [2]], [[1], [2]], [[]], [[0, -1]]])
def test_wrong_columns_are_named(columns):
    with pytest.raises(ValueError, match=r"expected each of 0, 1, ..., D - 1 once"):
        models.MixedTableModel(models.StandardNormal(2), [(c, models.Bernoulli(MLP(2, 1))) for c in columns])


@pytest.mark.parametrize(
    ("likelihood", "error", "message"),
    [
        (
            lambda: models.Bernoulli(MLP(2, 3)),
            ValueError,
            r"part 0 has 2 columns, \[0, 1\], .*Bernoulli.*\[3\]",
        ),
        (
            lambda: models.Multinomial(MLP(2, 2), 5),
            TypeError,
            r"Multinomial, does not have independent entries",
        ),
    ],
)
def test_likelihoods_that_do_not_fit_their_columns_are_named(likelihood, error, message):
    model = models.MixedTableModel(models.StandardNormal(2), [([0, 1], likelihood())])
    with pytest.raises(error, match=message):
        model(torch.zeros(4, 2))
