"""Pairs whose every figure is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn


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
