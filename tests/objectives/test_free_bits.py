"""Free bits: values by hand for groups above and below, and a rate that training cannot push under the floor."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, FreeBits
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed
from tests.components import MODELS

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


class TwoSites(nn.Module):
    """Site a of two numbers, site b in an inner plate of two; their rates are spread over four sizes."""

    def __init__(self):
        super().__init__()
        self.locs = nn.Parameter(torch.tensor([0.1, 1.0, 0.2, 2.0]))

    def model(self, x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("inner", 2, dim=-2):
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
            loc = a.sum(-1) + b.sum(-2, keepdim=b.dim() > 2)
            loc = loc if loc.dim() < 3 else loc[:, 0].unsqueeze(1)
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).expand([*loc.shape, 3]).to_event(1), obs=x)

    def guide(self, x):
        size = x.abs().mean(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("a", dist.Normal(self.locs[:2] * size.unsqueeze(-1), 1.0).to_event(1))
            with pyro.plate("inner", 2, dim=-2):
                pyro.sample("b", dist.Normal(self.locs[2:].unsqueeze(-1) * size, 1.0))

    def rates(self, x):
        """[B,4]: (loc^2) / 2 by number."""
        return (self.locs * x.abs().mean(-1, keepdim=True)) ** 2 / 2


@pytest.mark.parametrize("broadcasts", [True, False])
@pytest.mark.parametrize("num_samples", [1, 3])
def test_groups_of_every_kind(broadcasts, num_samples):
    pair = TwoSites()
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X)
    vae._layout = replace(vae.layout, guide_broadcasts=broadcasts, model_broadcasts=broadcasts)
    rates, floor = pair.rates(X), 0.1
    mean = rates.detach().mean(0)
    assert ((mean > floor).tolist()) == [False, True, False, True]
    groups = {
        True: [rates[:, [j]] for j in range(4)],
        False: [rates[:, :2], rates[:, 2:]],
    }
    for per_dimension, group in groups.items():
        for nats in (floor, 0.0, 100.0):
            objective = ELBO(num_samples, free_bits=FreeBits(nats, per_dimension=per_dimension))
            with vae.scope(), fixed_seed(0, vae.device):
                losses = objective.evaluate(vae, Batch((X,)))
            paid = losses.value + losses.log_likelihood.mean(0)
            expected = torch.stack([torch.clamp(g.sum(1).mean(), min=nats) for g in group]).sum()
            torch.testing.assert_close(paid.mean(), expected)
            likelihood = rows_likelihood(vae, num_samples)
            gradient = torch.autograd.grad(losses.value.mean() + likelihood, pair.locs)[0]
            kept = sum(g.sum(1).mean() * float(g.detach().sum(1).mean() > nats) for g in group)
            (by_hand,) = torch.autograd.grad(kept, pair.locs, retain_graph=True)
            torch.testing.assert_close(gradient, by_hand, atol=1e-6, rtol=1e-4)


def rows_likelihood(vae, num_samples):
    """The reconstruction of the same draws, with its gradient."""
    with vae.scope(), fixed_seed(0, vae.device):
        return row_terms(vae, Batch((X,)), num_samples).log_likelihood.mean()


def test_a_floor_of_zero_changes_nothing():
    vae = pv.VAE(*MODELS["HierarchicalModel"].make())
    (x,) = MODELS["HierarchicalModel"].data(6)
    vae.rows(x)
    values = []
    for free_bits in (None, FreeBits(0.0), FreeBits(0.0, per_dimension=True)):
        with vae.scope(), fixed_seed(0, vae.device):
            values.append(ELBO(2, free_bits=free_bits).evaluate(vae, Batch((x,))).value)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


def trained_rates(objective, steps=150):
    """Rates by dimension after training on noise, which no latent can explain: collapse is the optimum."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((100, 6), 0.5))
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6, hidden=[8]))
    )
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2), hidden=[8]))))
    vae.rows(x)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.02)
    with vae.scope():
        for _ in range(steps):
            losses = objective.evaluate(vae, Batch((x,)))
            optimizer.zero_grad()
            losses.surrogate.mean().backward()
            optimizer.step()
        with torch.no_grad():
            return row_terms(vae, Batch((x,)), 1).dimension_rates("z")[0].mean(0)


def test_the_rate_holds_above_its_floor_in_training():
    """A step may overshoot the floor, and the next has no pull from below: a tenth of slack."""
    plain = trained_rates(ELBO())
    assert float(plain.sum()) < 0.1
    assert float(trained_rates(ELBO(free_bits=FreeBits(1.0))).sum()) > 0.9
    assert bool((trained_rates(ELBO(free_bits=FreeBits(0.5, per_dimension=True))) > 0.45).all())


def test_latents_without_a_rate_of_their_own_are_refused():
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 3)))
    vae = pv.VAE(model, pv.guides.AutoGuide(model, joint=True, hidden=(5,)))
    x = torch.zeros(5, 3)
    vae.rows(x)
    with vae.scope(), pytest.raises(ValueError, match="free bits need a rate for each latent site.*has none"):
        ELBO(free_bits=FreeBits(1.0)).evaluate(vae, Batch((x,)))


def test_by_dimension_needs_dimensions():
    prior = pv.models.NormalMixture(2, num_components=3)
    model = pv.models.LatentVariableModel(prior, pv.models.Bernoulli(pv.nn.MLP(2, 3)))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(3, (2, 2)))))
    x = torch.zeros(5, 3)
    vae.rows(x)
    with vae.scope(), pytest.raises(ValueError, match=r"'z' has no rate by dimension.*FreeBits\(nats\)"):
        ELBO(free_bits=FreeBits(1.0, per_dimension=True)).evaluate(vae, Batch((x,)))
    with vae.scope():
        assert ELBO(free_bits=FreeBits(1.0)).evaluate(vae, Batch((x,))).value.shape == (5,)


@pytest.mark.parametrize("per_dimension", [True, False])
def test_a_guide_in_another_order_is_refused(per_dimension):
    torch.manual_seed(0)
    model, _ = MODELS["HierarchicalModel"].make()
    (x,) = MODELS["HierarchicalModel"].data(6)
    heads = [pv.guides.DiagonalNormal(pv.nn.MLP(size, (2, 2))) for size in (2, 3)]
    vae = pv.VAE(model, pv.guides.BottomUpGuide(heads))
    vae.rows(x)
    with vae.scope(), pytest.raises(ValueError, match="before latents that the model draws before it"):
        ELBO(free_bits=FreeBits(0.1, per_dimension=per_dimension)).evaluate(vae, Batch((x,)))
