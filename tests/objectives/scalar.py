"""A scalar pair with all its gradients by hand: z ~ N(0, 1), x|z ~ N(w z, s^2), q(z|x) = N(a x, exp(l)^2)."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Scalar(nn.Module):
    """In float64; the row plate is a plain one, or a subsample of `plate_size`."""

    def __init__(self, a=0.3, log_scale=-0.4, w=1.3, s=0.8, plate_size=None):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(log_scale, dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.s, self.plate_size = s, plate_size

    def plate(self, x):
        if self.plate_size is None:
            return pyro.plate("rows", len(x))
        return pyro.plate("rows", self.plate_size, subsample_size=len(x))

    def model(self, x):
        pyro.module("scalar", self)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, self.s), obs=x)

    def guide(self, x):
        pyro.module("scalar", self)
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.a * x, self.log_scale.exp()))

    def exact_posterior(self):
        """The a and log scale at which q(z|x) = p(z|x)."""
        w = float(self.w.detach())
        precision = 1 + w**2 / self.s**2
        return w / self.s**2 / precision, -0.5 * math.log(precision)

    def log_evidence(self, x):
        scale = math.sqrt(float(self.w.detach()) ** 2 + self.s**2)
        return torch.distributions.Normal(torch.zeros((), dtype=torch.float64), scale).log_prob(x)

    @torch.no_grad()
    def by_hand(self, x, noise):
        """What every gradient is made of, for noise [S,B]: log w and its derivatives, [S,B]."""
        scale = self.log_scale.exp()
        z = self.a * x + scale * noise
        residual = (x - self.w * z) / self.s**2
        normal = torch.distributions.Normal
        log_likelihood = normal(self.w * z, self.s).log_prob(x)
        log_prior = normal(torch.zeros_like(z), 1.0).log_prob(z)
        log_guide = normal(self.a * x, scale).log_prob(z)
        return {
            "log_likelihood": log_likelihood,
            "log_prior": log_prior,
            "log_guide": log_guide,
            "kl": 0.5 * (scale**2 + (self.a * x) ** 2 - 1) - self.log_scale,
            # by z
            "dz_likelihood": residual * self.w,
            "dz_prior": -z,
            "dz_guide": -noise / scale,
            # by w, a, log_scale at fixed z
            "w_likelihood": residual * z,
            "a_guide": noise / scale * x,
            "l_guide": noise**2 - 1,
            # of z by a, log_scale
            "a_z": x.expand_as(z),
            "l_z": scale * noise,
        }

    def scale_and_slope(self):
        return float(self.log_scale.detach().exp()), float(self.a.detach())

    def parameters_by_name(self):
        return {"a": self.a, "l": self.log_scale, "w": self.w}


def noise_of(seed, S, B):
    """What a normal's rsample draws at this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.normal(torch.zeros(S, B, dtype=torch.float64), torch.ones(S, B, dtype=torch.float64))
