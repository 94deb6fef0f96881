"""Declared models of every shape, their parameters fixed, with the truth about log p(x) where it is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints


@dataclass(frozen=True)
class Entry:
    """`factorization` is what AutoGuide prints; `truth(x)` is log p(x) by row, by other means.

    Where a diagonal normal in unconstrained space cannot be exact, `tolerance` is None for the models of one
    site, which are held against a diagonal guide written by hand on that `bijection`.
    """

    model: Callable[..., None]
    columns: int
    factorization: str
    truth: Callable[[Tensor], Tensor] | None = None
    coupled: bool = False
    tolerance: float | None = 0.02  # nats by which the trained guide may miss the truth
    bijection: Any = None


def gaussian(mean: list[float], covariance: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.distributions.MultivariateNormal(torch.tensor(mean), covariance).log_prob(x)


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale)


def quadrature(
    log_joint: Callable[[Tensor, Tensor], Tensor], low: float, high: float
) -> Callable[[Tensor], Tensor]:
    grid = torch.linspace(low, high, 20001, dtype=torch.float64)[1:-1]
    step = float(grid[1] - grid[0])
    return lambda x: torch.stack(
        [(log_joint(grid, row.double())).logsumexp(0) + math.log(step) for row in x]
    ).float()


MIX = torch.tensor([[1.0, 0.6], [-0.3, 0.8], [0.5, -0.7]])


def one_vector(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", normal(torch.zeros(2)).to_event(1))
        pyro.sample("x", normal(z @ MIX.T, 0.5).to_event(1), obs=x)


def chain(x):
    with pyro.plate("rows", len(x)):
        z1 = pyro.sample("z1", normal(0.0))
        z2 = pyro.sample("z2", normal(0.8 * z1, 0.6))
        pyro.sample("x", normal(torch.stack([z2, -z2], -1), 0.7).to_event(1), obs=x)


def fork(x):
    with pyro.plate("rows", len(x)):
        top = pyro.sample("top", normal(0.0))
        left = pyro.sample("left", normal(top, 0.5))
        right = pyro.sample("right", normal(-top, 0.5))
        pyro.sample("x1", normal(left, 0.5), obs=x[:, 0])
        pyro.sample("x2", normal(right, 0.5), obs=x[:, 1])


def collider(x):
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", normal(0.0))
        b = pyro.sample("b", normal(0.0))
        pyro.sample("x", normal(a + b, 0.3), obs=x[:, 0])


def positive(x):
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        pyro.sample("x", dist.Poisson(rate.unsqueeze(-1).expand([*rate.shape, 4])).to_event(1), obs=x)


def gamma_poisson(x):
    total, n = x.sum(-1), x.shape[-1]
    log_gamma = torch.lgamma
    return log_gamma(total + 3) - math.lgamma(3) - (total + 3) * math.log(n + 1) - log_gamma(x + 1).sum(-1)


def unit_interval(x):
    with pyro.plate("rows", len(x)):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        pyro.sample("x", dist.Bernoulli(p.unsqueeze(-1).expand([*p.shape, 5])).to_event(1), obs=x)


def beta_bernoulli(x):
    ones, n = x.sum(-1), x.shape[-1]

    def log_beta(a, b):
        return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)

    return log_beta(2 + ones, 3 + n - ones) - log_beta(torch.tensor(2.0), torch.tensor(3.0))


def simplex(x):
    with pyro.plate("rows", len(x)):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
        pyro.sample("x", dist.Multinomial(10, p, validate_args=False), obs=x)


def dirichlet_multinomial(x):
    return dist.DirichletMultinomial(torch.tensor([2.0, 3.0, 4.0]), 10).log_prob(x)


def circular(x):
    with pyro.plate("rows", len(x)):
        angle = pyro.sample("angle", dist.VonMises(0.3, 2.0))
        pyro.sample("x", normal(torch.stack([angle.cos(), angle.sin()], -1), 0.3).to_event(1), obs=x)


def circular_joint(angle, row):
    mean = torch.stack([angle.cos(), angle.sin()], -1)
    prior = torch.distributions.VonMises(torch.tensor(0.3, dtype=torch.float64), 2.0).log_prob(angle)
    return prior + torch.distributions.Normal(mean, 0.3).log_prob(row).sum(-1)


def ordered(x):
    with pyro.plate("rows", len(x)):
        base = normal(torch.zeros(3)).to_event(1)
        cuts = dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])
        cuts = pyro.sample("cuts", cuts)
        pyro.sample("x", normal(cuts, 1.0).to_event(1), obs=x)


def ordered_truth(x):
    """By 200,000 draws from the prior."""
    draws = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    cuts = torch.cat([draws[:, :1], draws[:, :1] + draws[:, 1:].exp().cumsum(-1)], -1)
    squares = (x.unsqueeze(1) - cuts).square().sum(-1) if len(x) < 2 else None
    if squares is not None:
        return (-squares / 2).logsumexp(1) - math.log(200_000) - 1.5 * math.log(2 * math.pi)
    return torch.cat([ordered_truth(row[None]) for row in x])


def scale_above(x):
    with pyro.plate("rows", len(x)):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.7))
        z = pyro.sample("z", dist.Normal(torch.zeros(2), scale.unsqueeze(-1)).to_event(1))
        pyro.sample("x", normal(z, 0.5).to_event(1), obs=x)


def inner_plate(x):
    with pyro.plate("rows", len(x)):
        w = pyro.sample("w", normal(0.0))
        with pyro.plate("steps", 3, dim=-2):
            z = pyro.sample("z", normal(w, 0.5))
            pyro.sample("x", normal(z, 0.5), obs=x.T)


def discrete(x):
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
        pyro.sample("x", normal(torch.tensor([-2.0, 0.0, 2.0])[k], 0.7), obs=x[:, 0])


def enumerated(x):
    with pyro.plate("rows", len(x)):
        weights = dist.Categorical(torch.tensor([0.5, 0.3, 0.2]))
        k = pyro.sample("k", weights, infer={"enumerate": "parallel"})
        z = pyro.sample("z", normal(torch.tensor([-2.0, 0.0, 2.0])[k], 0.5))
        pyro.sample("x", normal(z, 0.7), obs=x[:, 0])


def mixture_truth(scale):
    components = torch.distributions.Normal(torch.tensor([-2.0, 0.0, 2.0]), scale)
    weights = torch.distributions.Categorical(torch.tensor([0.5, 0.3, 0.2]))
    return lambda x: torch.distributions.MixtureSameFamily(weights, components).log_prob(x[:, 0])


def sequence(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z_0", normal(0.0))
        pyro.sample("x_0", normal(z, 0.5), obs=x[:, 0])
        for t in range(1, 4):
            z = pyro.sample(f"z_{t}", normal(0.9 * z, 0.5))
            pyro.sample(f"x_{t}", normal(z, 0.5), obs=x[:, t])


def sequence_covariance():
    step, T = torch.zeros(4, 4), 4
    for t in range(T):
        for s in range(T):
            variance = [1.0]
            for _ in range(3):
                variance.append(0.81 * variance[-1] + 0.25)
            step[t, s] = 0.9 ** abs(t - s) * variance[min(t, s)]
    return step + 0.25 * torch.eye(4)


def masked(x):
    """Rows whose first column is positive have a second latent."""
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", normal(torch.zeros(())))
        pyro.sample("x1", normal(a, 0.5), obs=x[:, 0])
        with poutine.mask(mask=x[:, 0] > 0):
            b = pyro.sample("b", normal(torch.zeros(())))
            pyro.sample("x2", normal(a + b, 0.5), obs=x[:, 1])


def masked_truth(x):
    both = torch.tensor([[1.25, 1.0], [1.0, 2.25]])
    first = torch.distributions.Normal(0.0, 1.25**0.5).log_prob(x[:, 0])
    return torch.where(x[:, 0] > 0, gaussian([0.0, 0.0], both)(x), first)


FORK = torch.tensor([[1.5, -1.0], [-1.0, 1.5]])
INNER = torch.ones(3, 3) + 0.5 * torch.eye(3)
CATALOGUE = {
    "one vector": Entry(
        one_vector, 3, "q(z|x)", gaussian([0.0] * 3, MIX @ MIX.T + 0.25 * torch.eye(3)), False, 0.2
    ),
    "chain": Entry(
        chain, 2, "q(z2|x) q(z1|z2)", gaussian([0.0] * 2, torch.tensor([[1.49, -1.0], [-1.0, 1.49]])), True
    ),
    "fork": Entry(
        fork, 2, "q(right|x1,x2) q(left|right,x1) q(top|left,right)", gaussian([0.0] * 2, FORK), True
    ),
    "collider": Entry(collider, 1, "q(b|x) q(a|b,x)", gaussian([0.0], torch.tensor([[2.09]])), True),
    "positive": Entry(positive, 4, "q(rate|x)", gamma_poisson),
    "unit interval": Entry(unit_interval, 5, "q(p|x)", beta_bernoulli),
    "simplex": Entry(
        simplex, 3, "q(p|x)", dirichlet_multinomial, False, None, biject_to(constraints.simplex)
    ),
    "circular": Entry(
        circular,
        2,
        "q(angle|x)",
        quadrature(circular_joint, -math.pi, math.pi),
        False,
        None,
        biject_to(constraints.interval(-math.pi, math.pi)),
    ),
    "ordered": Entry(ordered, 3, "q(cuts|x)", ordered_truth, False, None, dist.transforms.OrderedTransform()),
    "scale above": Entry(scale_above, 2, "q(z|x) q(scale|z)", None, True, 0.15),
    "inner plate": Entry(inner_plate, 3, "q(z|x) q(w|z)", gaussian([0.0] * 3, INNER), True, 0.2),
    "discrete": Entry(discrete, 1, "q(k|x)", mixture_truth(0.7), False, 0.05),
    "enumerated": Entry(enumerated, 1, "q(z|x)", mixture_truth(0.74**0.5), False, 0.1),
    "sequence": Entry(
        sequence,
        4,
        "q(z_3|x_0,x_1,x_2,x_3) q(z_2|z_3,x_0,x_1,x_2) q(z_1|z_2,x_0,x_1) q(z_0|z_1,x_0)",
        gaussian([0.0] * 4, sequence_covariance()),
        True,
        0.05,
    ),
    "masked": Entry(masked, 2, "q(a|x1,x2) q(b|a,x2)", masked_truth, True, 0.05),
}
