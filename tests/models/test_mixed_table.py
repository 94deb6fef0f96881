"""Missing entries neither train nor count, and masks that do not fit are named."""

from __future__ import annotations

import pytest
import torch

import pyrovae as pv
from pyrovae import models
from pyrovae.data import Batch
from pyrovae.nn import MLP
from pyrovae.pair.running import row_terms, run_model
from pyrovae.random_state import fixed_seed
from tests.components import MIXED_COLUMNS, MODELS, mixed_rows, net


@pytest.fixture
def pair():
    torch.manual_seed(0)
    x, observed = mixed_rows(12)
    model, guide = MODELS["MixedTableModel"].make()
    return pv.VAE(model, guide), x, observed


def densities(vae, x, observed):
    """Log densities [S,B] of latents and observations, and all gradients of their sum."""
    vae.rows(x, observed)
    vae.zero_grad()
    with fixed_seed(0, vae.device), vae.scope():
        terms = row_terms(vae, Batch((x, observed)), 3)
    (terms.log_likelihood.sum() - terms.rate.sum()).backward()
    gradients = [p.grad.clone() for p in vae.parameters()]
    return terms.log_likelihood.detach(), terms.log_prior.detach(), terms.log_guide.detach(), gradients


@pytest.mark.parametrize("garbage", [-7.5, 0.0, 1e6, 3e38])
def test_garbage_in_missing_entries_changes_nothing(pair, garbage):
    vae, x, observed = pair
    spoiled = torch.where(observed, x, garbage)
    before, after = densities(vae, x, observed), densities(vae, spoiled, observed)
    for one, other in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for one, other in zip(before[3], after[3], strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(
        pv.elbo(vae, x, observed, seed=0).elbo, pv.elbo(vae, spoiled, observed, seed=0).elbo, rtol=0, atol=0
    )


def test_a_row_counts_its_observed_entries_alone(pair):
    vae, x, observed = pair
    model = vae.model
    vae.rows(x, observed)
    with vae.evaluating():
        latents = {"z": torch.randn(3, 12, 2)}
        sites = run_model(vae, Batch((x, observed)), latents, 3)
        for part, (columns, likelihood) in enumerate(zip(MIXED_COLUMNS, model.likelihoods, strict=True)):
            entries = likelihood(latents["z"]).base_dist.log_prob(x[:, columns])
            exact = (entries * observed[:, columns]).sum(-1)
            torch.testing.assert_close(sites[f"x_{part}"].log_prob, exact)


def test_an_entry_trains_its_own_column_alone(pair):
    vae, x, observed = pair
    observed = torch.zeros_like(observed)
    observed[:, 3] = True  # the second column of part 0
    *_, gradients = densities(vae, x, observed)
    named = dict(zip((name for name, _ in vae.named_parameters()), gradients, strict=True))
    location = named["model.likelihoods.0.network.heads.0.weight"]
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
    guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(models.MissingAsZero(net(4, (2, 2)))))
    vae = pv.VAE(models.MixedTableModel(models.StandardNormal(2), [([0, 1], LogNormal(net(2, 2)))]), guide)
    x, observed = torch.rand(6, 2) + 0.1, torch.tensor([[True, False]] * 6)
    *before, gradients = densities(vae, x, observed)
    assert all(bool(g.isfinite().all()) for g in gradients)
    after = densities(vae, torch.where(observed, x, 0.0), observed)
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=0)


def test_observed_entries_outside_the_support_are_still_named(pair):
    vae, x, observed = pair
    x[4, 2], observed[4, 2] = -1.0, True
    with pytest.raises(ValueError, match=r"row 4 of the data lies outside the support of site 'x_2'"):
        pv.elbo(vae, x, observed)
    observed[4, 2] = False
    observed[4, 0] = True
    pv.elbo(vae, x, observed)


def test_new_rows_are_drawn_with_every_entry(pair):
    vae, x, observed = pair
    vae.rows(x, observed)
    drawn = vae.generate(7, torch.ones(7, 5, dtype=torch.bool))
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {
        "x_0": (7, 2),
        "x_1": (7, 1),
        "x_2": (7, 2),
    }


def test_rows_without_observed_entries_are_named(pair):
    vae, x, observed = pair
    observed[5] = False
    with pytest.raises(
        ValueError, match=r"row 5 of the 7 rows at hand has no observed entry .*keep = observed"
    ):
        pv.elbo(vae, x, observed)
    observed[5, 0] = True
    observed[9] = False
    with pytest.raises(ValueError, match=r"row 9 of the 12 rows at hand has no observed entry"):
        pv.fit(vae, (x, observed), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            lambda m: m[:, :4],
            ValueError,
            r"mask of observed entries has shape \[7, 4\] and x has shape \[7, 5\]",
        ),
        (lambda m: m[:, 0], ValueError, r"mask of observed entries has shape \[7\] and x has shape \[7, 5\]"),
        (lambda m: m.float(), ValueError, r"TypeError: the mask of observed entries is torch.float32"),
        (lambda m: m[:3], ValueError, r"x has 12 rows and context 1 has 3"),
    ],
)
def test_wrong_masks_are_named(pair, mask, error, message):
    vae, x, observed = pair
    with pytest.raises(error, match=message):
        pv.elbo(vae, x, mask(observed))


def test_wrong_tables_are_named(pair):
    vae, x, _ = pair
    with pytest.raises(ValueError, match=r"x has shape \[7, 6\].*5 columns"):
        pv.elbo(vae, torch.cat([x, x[:, :1]], 1), torch.ones(12, 6, dtype=torch.bool))


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
        model(torch.zeros(4, 2), torch.ones(4, 2, dtype=torch.bool))
