"""Models with latents above their rows whose posterior, evidence and predictive density are known."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints

PRIOR, SPREAD, NOISE = 2.0, 1.0, 0.5  # of the mean, of rows around it, of observations


def hierarchy(x):
    """mean ~ N(0, 2), z_n ~ N(mean, 1), x_n ~ N(z_n, 0.5)."""
    mean = pyro.sample("mean", dist.Normal(0.0, PRIOR))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, SPREAD))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def subsampled_hierarchy(N):
    """The same as Pyro's own objectives take it: its plate sized by the data."""

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, PRIOR))
        with pyro.plate("rows", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(mean, SPREAD))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    return model


def amortized(x, plate=None):
    """A guide of parameters, whose rows read the mean as those of the posterior do."""
    loc = pyro.param("loc", torch.tensor(0.3))
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    slope = pyro.param("slope", torch.tensor([0.6, 0.3]))
    width = pyro.param("width", torch.tensor(0.5), constraint=constraints.positive)
    mean = pyro.sample("mean", dist.Normal(loc, scale))
    with plate or pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(slope[0] * x + slope[1] * mean, width))


def subsampled_guide(N):
    return lambda x: amortized(x, pyro.plate("rows", N, subsample_size=len(x)))


def posterior_of_mean(x):
    """Mean and standard deviation of p(mean|x)."""
    variance = SPREAD**2 + NOISE**2
    precision = 1 / PRIOR**2 + len(x) / variance
    return float(x.sum() / variance / precision), precision**-0.5


def exact_guide(train):
    """p(mean|train) p(z|x,mean), for the hierarchy."""
    loc, scale = posterior_of_mean(train)
    precision = 1 / SPREAD**2 + 1 / NOISE**2

    def guide(x):
        mean = pyro.sample("mean", dist.Normal(loc, scale))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((x / NOISE**2 + mean / SPREAD**2) / precision, precision**-0.5))

    return guide


def evidence(x):
    """log p(x) of all rows together, in float64."""
    N, x = len(x), x.double()
    covariance = PRIOR**2 * torch.ones(N, N) + (SPREAD**2 + NOISE**2) * torch.eye(N)
    return float(dist.MultivariateNormal(torch.zeros(N).double(), covariance.double()).log_prob(x))


def predictive(train, x):
    """log p(x_n|train) of new rows."""
    loc, scale = posterior_of_mean(train)
    return dist.Normal(loc, math.sqrt(scale**2 + SPREAD**2 + NOISE**2)).log_prob(x)


def counts(x):
    """rate ~ Gamma(2, 1), x_n ~ Poisson(rate): no latents of rows."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def offsets(x):
    """Binary rows, [B, D]: an offset of each entry that all rows share, and a latent number of each row."""
    offset = pyro.sample("offset", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=offset + z[..., None]).to_event(1), obs=x)


class Regression(PyroModule):
    """Pyro's Bayesian regression: priors on the weights of a linear layer, known noise."""

    def __init__(self, D=2):
        super().__init__()
        self.linear = PyroModule[nn.Linear](D, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, D]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 2.0).expand([1]).to_event(1))

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, 0.5), obs=y)


def posterior_of_regression(x, y):
    """Mean and covariance of (weights, bias)."""
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    prior = torch.diag(torch.tensor([1.0] * x.shape[1] + [1 / 4.0]).double())
    precision = prior + design.T @ design / 0.25
    covariance = torch.linalg.inv(precision)
    return covariance @ design.T @ y.double() / 0.25, covariance
