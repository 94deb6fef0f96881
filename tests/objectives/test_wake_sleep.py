"""Reweighted wake-sleep with discrete latents: against enumeration, and learning the truth."""

import itertools

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ReweightedWakeSleep

C = 3
X = 0.6


class Mixture(nn.Module):
    """k ~ Categorical, x|k ~ N(m_k, 0.8^2); q(k|x) has logits linear and quadratic in x, as the posterior has."""

    def __init__(
        self, means=(-1.0, 0.2, 1.5), logits=(0.3, -0.2, 0.0), guide=((0.1, -0.3, 0.2), (0.5, 0.0, -0.4))
    ):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means, dtype=torch.float64))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))
        self.guide_weights = nn.Parameter(torch.tensor(guide, dtype=torch.float64))

    def log_joint(self, x):
        """[..., C]"""
        log_prior = self.logits.log_softmax(0)
        return log_prior + torch.distributions.Normal(self.means, 0.8).log_prob(x.unsqueeze(-1))

    def guide_logits(self, x):
        return self.guide_weights[0] + self.guide_weights[1] * x.unsqueeze(-1)

    def model(self, x):
        pyro.module("mixture", self)
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.means[k], 0.8), obs=x)

    def guide(self, x):
        pyro.module("mixture", self)
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.guide_logits(x)))

    def log_evidence(self, x):
        return self.log_joint(x).logsumexp(-1)


def exact_gradients(pair):
    """-E_p(k|x)[grad log p(x, k) + grad log q(k|x)], over the three values of k."""
    x = torch.tensor(X, dtype=torch.float64)
    log_joint = pair.log_joint(x)
    posterior = log_joint.detach().softmax(-1)
    loss = -(posterior * (log_joint + pair.guide_logits(x).log_softmax(-1))).sum()
    return gradients_of(loss, pair)


def expected_at(pair, K):
    """What the estimator gives on average with K draws: over all C^K outcomes of the draws."""
    x = torch.tensor(X, dtype=torch.float64)
    log_p, log_q = pair.log_joint(x), pair.guide_logits(x).log_softmax(-1)
    outcomes = torch.tensor(list(itertools.product(range(C), repeat=K)))
    probability = log_q.detach()[outcomes].sum(1).exp()
    share = (log_p - log_q).detach()[outcomes].softmax(1)
    loss = -(probability * (share * (log_p + log_q)[outcomes]).sum(1)).sum()
    return gradients_of(loss, pair)


def gradients_of(loss, pair):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(pair.parameters()))])


def estimate(pair, K, repeats=40, rows=3000):
    x = torch.full((rows,), X, dtype=torch.float64)
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(x)
    torch.manual_seed(1)
    with vae.scope():
        found = [
            gradients_of(ReweightedWakeSleep(K).evaluate(vae, Batch((x,))).surrogate.mean(), pair)
            for _ in range(repeats)
        ]
    stacked = torch.stack(found)
    return stacked.mean(0), stacked.std(0) / repeats**0.5


def test_the_mean_gradient_is_that_of_enumerating_every_outcome():
    """Two-sided at 5 errors with 39 degrees of freedom, 24 comparisons: a false alarm in 3 thousand runs."""
    for K in (2, 5):
        pair = Mixture()
        mean, error = estimate(pair, K)
        exact = expected_at(pair, K)
        assert bool(((mean - exact).abs() < 5 * error + 1e-12).all()), K
        assert float(error.max()) < 0.01


def test_it_nears_the_exact_gradient_with_more_samples():
    pair = Mixture()
    exact = exact_gradients(pair)
    distance = [float((expected_at(pair, K) - exact).norm()) for K in (2, 4, 8)]
    assert distance[0] > 1.5 * distance[1] > 1.5**2 * distance[2]  # bias O(1/K)
    mean, error = estimate(pair, 500, repeats=20, rows=400)
    assert bool(((mean - exact).abs() < 6 * error + 0.005).all())


def test_it_learns_the_truth():
    """A mixture with known means: weights and posteriors come out, held against maximum likelihood by enumeration."""
    torch.manual_seed(0)
    truth = Mixture(means=(-2.0, 0.0, 2.0), logits=(0.5, -1.0, 0.2))
    with torch.no_grad():
        k = torch.distributions.Categorical(logits=truth.logits).sample((400,))
        x = truth.means[k] + 0.8 * torch.randn(400, dtype=torch.float64)
    pair = Mixture(means=(-1.0, 0.3, 1.0), logits=(0.0, 0.0, 0.0), guide=((0.0,) * 3,) * 2)
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), loss=ReweightedWakeSleep(20))
    for _ in range(400):
        svi.step(x)
    pyro.clear_param_store()
    best = Mixture(means=(-1.0, 0.3, 1.0), logits=(0.0, 0.0, 0.0))
    optimizer = torch.optim.LBFGS([best.means, best.logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -best.log_evidence(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        evidence = [float(m.log_evidence(x).mean()) for m in (pair, best, truth)]
        assert evidence[1] - 0.005 < evidence[0] <= evidence[1] + 1e-6
        # The posterior of equal variances is linear in x: the guide can be exact.
        exact = pair.log_joint(x).log_softmax(-1)
        guide = pair.guide_logits(x).log_softmax(-1)
        assert float((exact.exp() * (exact - guide)).sum(-1).mean()) < 0.01


def test_two_levels_of_discrete_latents():
    """Bernoulli layers of a sigmoid belief network: a step runs, and every parameter of both learns."""

    class Belief(nn.Module):
        def __init__(self):
            super().__init__()
            self.top = nn.Parameter(torch.zeros(2))
            self.down, self.out = nn.Linear(2, 3), nn.Linear(3, 5)
            self.up, self.over = nn.Linear(5, 3), nn.Linear(3, 2)

        def model(self, x):
            with pyro.plate("rows", len(x)):
                h2 = pyro.sample("h2", dist.Bernoulli(logits=self.top).to_event(1))
                h1 = pyro.sample("h1", dist.Bernoulli(logits=self.down(h2)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.out(h1)).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("rows", len(x)):
                h1 = pyro.sample("h1", dist.Bernoulli(logits=self.up(x)).to_event(1))
                pyro.sample("h2", dist.Bernoulli(logits=self.over(h1)).to_event(1))

    pair = Belief()
    vae = pv.VAE(pair.model, pair.guide)
    x = torch.bernoulli(torch.full((50, 5), 0.5))
    vae.rows(x)
    with vae.scope():
        losses = ReweightedWakeSleep(6).evaluate(vae, Batch((x,)))
    for name, p in pair.named_parameters():
        (gradient,) = torch.autograd.grad(losses.surrogate.sum(), p, retain_graph=True)
        assert bool((gradient != 0).any()), name
    assert losses.rate.shape == (6, 50)


def test_a_delta_has_no_density_to_fit():
    pair = Mixture()

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Delta(pair.means[0].float() * x))

    with pytest.raises(ValueError, match="'z' from a Delta"):
        ReweightedWakeSleep(3).loss_and_grads(model, guide, torch.zeros(4))
