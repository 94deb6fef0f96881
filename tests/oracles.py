"""Pairs whose every figure is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pv


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x|z ~ N(W z + b, s^2 I), in float64: evidence and posterior by linear algebra."""

    def __init__(self, K=2, D=3, scale=0.5, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(D, K, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(D, generator=generator, dtype=torch.float64))
        self.scale = scale

    def forward(self, x):
        K = self.W.shape[1]
        with pyro.plate("rows", len(x)):
            zero = torch.zeros(K, dtype=torch.float64)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.T + self.b, self.scale).to_event(1), obs=x)

    def evidence(self):
        D = len(self.b)
        covariance = self.W @ self.W.T + self.scale**2 * torch.eye(D, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b.detach(), covariance.detach())

    def posterior(self, x):
        K = self.W.shape[1]
        precision = torch.eye(K, dtype=torch.float64) + self.W.T @ self.W / self.scale**2
        location = (x - self.b) @ self.W / self.scale**2 @ torch.linalg.inv(precision)
        return dist.MultivariateNormal(location, precision_matrix=precision)

    def data(self, N, seed=1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.evidence().sample((N,))


class ExactGuide(nn.Module):
    """q(z|x) = p(z|x)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.model.posterior(x))


class WideGuide(nn.Module):
    """A diagonal normal around the exact mean, its scale off by a factor: weights vary, moderately."""

    def __init__(self, model, factor=1.3, shift=0.2):
        super().__init__()
        self.model, self.factor, self.shift = model, factor, shift

    def forward(self, x):
        exact = self.model.posterior(x)
        scale = self.factor * exact.variance.sqrt()
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(exact.mean + self.shift * scale, scale).to_event(1))

    def kl(self, x):
        """KL from the guide to the prior in closed form."""
        exact = self.model.posterior(x)
        scale = self.factor * exact.variance.sqrt()
        location = exact.mean + self.shift * scale
        return (0.5 * (scale**2 + location**2 - 1) - scale.log()).sum(-1)

    def reconstruction(self, x):
        """E_q[log p(x|z)] in closed form."""
        exact = self.model.posterior(x)
        scale = self.factor * exact.variance.sqrt()
        location = exact.mean + self.shift * scale
        W, s = self.model.W, self.model.scale
        residual = x - location @ W.T - self.model.b
        spread = ((scale[:, None, :] * W) ** 2).sum((-1, -2))
        squares = (residual**2).sum(-1) + spread
        return -0.5 * squares / s**2 - x.shape[1] * math.log(s * math.sqrt(2 * math.pi))


class NarrowGuide(WideGuide):
    """A guide whose scales are far too small."""

    def __init__(self, model):
        super().__init__(model, factor=0.25, shift=1.0)


N = 400  # rows are repetitions: a 95% interval covers 380, give or take 4.4


def linear_gaussian():
    model = LinearGaussian(scale=1.5)
    x = model.data(N)
    return pv.VAE(model, WideGuide(model)), x, model.evidence().log_prob(x)


def enumerated():
    """k ~ Categorical, z ~ N(m_k, s_k), x ~ N(z, 0.5), k summed out: a mixture of normals."""
    shares, means, scales = torch.tensor([0.3, 0.7]), torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 1.0])

    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(shares), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[k], scales[k]))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.6))

    components = torch.distributions.Normal(means, (scales**2 + 0.25).sqrt())
    exact = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(shares), components)
    x = exact.sample((N,))
    return pv.VAE(model, guide), x, exact.log_prob(x).double()


def constrained():
    """rate ~ Gamma(2, 1), x ~ Poisson(rate), guide LogNormal; log p(x) by quadrature over log rate."""

    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("rate", dist.LogNormal(((x + 2) / 2).log() - 0.2, 0.7))

    prior = torch.distributions.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0)
    x = torch.poisson(prior.sample((N,))).float()
    u = torch.linspace(-12, 5, 20001, dtype=torch.float64)[:, None]
    joint = prior.log_prob(u.exp()) + u + torch.distributions.Poisson(u.exp()).log_prob(x.double())
    return pv.VAE(model, guide), x, torch.trapezoid(joint.exp(), u, dim=0).log()


TRUTHS = {f.__name__: f for f in (linear_gaussian, enumerated, constrained)}


def exact_pair(truth):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TRUTHS[truth]()
