"""Pairs in the styles that people write them."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pyrovae as pv


def composed(K=2, D=6, hidden=()):
    """Level 1: parts."""
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(K), pv.models.Bernoulli(pv.nn.MLP(K, D, hidden))
    )
    return pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(D, (K, K), hidden))))


def tutorial(D=6):
    """In the style of Pyro's VAE tutorial: pyro.module inside plain functions, names and reshapes of its own."""
    decoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, D), nn.Sigmoid())
    encoder = nn.ModuleDict({"hidden": nn.Linear(D, 8), "loc": nn.Linear(8, 3), "scale": nn.Linear(8, 3)})

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            zero, one = x.new_zeros((x.shape[0], 3)), x.new_ones((x.shape[0], 3))
            z = pyro.sample("latent", dist.Normal(zero, one).to_event(1))
            pyro.sample("obs", dist.Bernoulli(decoder(z)).to_event(1), obs=x.reshape(-1, D))

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            hidden = nn.functional.softplus(encoder["hidden"](x.reshape(-1, D)))
            loc, scale = encoder["loc"](hidden), encoder["scale"](hidden).exp()
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))

    return pv.VAE(model, guide)


def with_param(D=6):
    """Plain functions with pyro.param, constrained too, of one latent a row; subsampled plate."""

    def model(x):
        scale = pyro.param("noise", torch.tensor(0.7), constraint=constraints.positive)
        slope = pyro.param("model.slope", torch.linspace(-1, 1, D))
        with pyro.plate("rows", 1000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * slope, scale).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("weight", torch.zeros(D))
        scale = pyro.param("guide/scale", torch.tensor(0.9), constraint=constraints.interval(0.1, 2.0))
        with pyro.plate("rows", 1000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ weight, scale))

    return pv.VAE(model, guide)


class Declared(PyroModule):
    """Level 2: an own PyroModule with a PyroParam."""

    def __init__(self, D=6):
        super().__init__()
        self.decoder = pv.nn.MLP(2, D, hidden=[4])
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)


class DeclaredGuide(PyroModule):
    def __init__(self, D=6):
        super().__init__()
        self.encoder = pv.nn.MLP(D, (2, 2))
        self.width = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            loc, _ = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, self.width).to_event(1))


def declared():
    return pv.VAE(Declared(), DeclaredGuide())


class Methods(nn.Module):
    """model and guide as methods of one module, with context and two latents."""

    def __init__(self, D=6):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2 + 1 + 3, D), nn.Linear(D + 3, 3)

    def model(self, x, y, temperature=1.0):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a.sum(-1), 1.0))
            features = pv.nn.join(a, b.unsqueeze(-1), y)
            logits = self.decoder(features) / temperature
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y, temperature=1.0):
        with pyro.plate("rows", len(x)):
            mean = self.encoder(torch.cat([x, y], -1))
            a = pyro.sample("a", dist.Normal(mean[..., :2], 0.7).to_event(1))
            pyro.sample("b", dist.Normal(mean[..., 2] + a.sum(-1) / 2, 0.8))


def methods():
    module = Methods()
    return pv.VAE(module.model, module.guide)


def binary_rows(N=40, D=6):
    return torch.bernoulli(torch.full((N, D), 0.4), generator=torch.Generator().manual_seed(0))


# name: constructor, context for N rows
PAIRS = {
    "composed": (composed, lambda N: ()),
    "tutorial": (tutorial, lambda N: ()),
    "with_param": (with_param, lambda N: ()),
    "declared": (declared, lambda N: ()),
    "methods": (methods, lambda N: (torch.eye(3)[torch.arange(N) % 3], 2.0)),
}
