"""Linear-Gaussian chains, whose figures are known, and guides that are off by as much as is asked for."""

import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pv
from pyrovae.guides import ExactGuide
from pyrovae.models import LinearGaussianChain
from pyrovae.models.sequences import MarkovSequence

K, D = 2, 3


def chain_model(noise=1.0, latent_size=K, num_features=D):
    """A chain that turns and forgets, with parameters that are all different."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LinearGaussianChain(latent_size, num_features)
        with torch.no_grad():
            turn = torch.tensor([[0.8, -0.4], [0.4, 0.8]])
            model.transition_matrix[:2, :2] = turn[:latent_size, :latent_size]
            for parameter in (model.initial_mean, model.transition_offset, model.mean):
                parameter.copy_(0.3 * torch.randn_like(parameter))
            for scale in (model.initial_scale, model.transition_scale, model.noise_scale):
                scale.raw.add_(0.3 * torch.randn_like(scale.raw))
            model.noise_scale.raw.copy_(pv.nn.PositiveParameter(noise * model.noise_scale()).raw)
    return model.requires_grad_(False)


class Off(nn.Module):
    """The exact posterior's chain, each step wider or narrower by a factor and shifted by so many scales."""

    def __init__(self, model, factor=1.0, shift=0.0):
        super().__init__()
        self.model, self.factor, self.shift = model, factor, shift

    def posterior(self, x, lengths=None):
        exact = self.model.posterior(x, lengths)

        def moved(*inputs):
            return self.changed(exact.transition(*inputs))

        return MarkovSequence(self.changed(exact.initial), moved, x.shape[1], exact.inputs, lengths)

    def changed(self, step):
        location = step.loc + self.shift * step.variance.sqrt()
        return dist.MultivariateNormal(location, scale_tril=self.factor * step.scale_tril)


def chain_vae(factor=1.0, shift=0.0, **parts):
    model = chain_model(**parts)
    return pv.VAE(model, ExactGuide(Off(model, factor, shift)))


def chain_rows(model, num_rows, num_steps, seed=0):
    """Rows drawn from the model, [B,T,D]."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        initial = dist.Normal(model.initial_mean, model.initial_scale()).to_event(1)
        z = MarkovSequence(initial, model.transition, num_steps).expand([num_rows]).sample()
        return model.emission(z).sample()


def with_holes(x, seed=0):
    """A third of the entries, and two whole steps of the second row, are absent."""
    generator = torch.Generator().manual_seed(seed)
    x = x.masked_fill(torch.rand(x.shape, generator=generator) < 0.3, torch.nan)
    x[1, 1:3] = torch.nan
    return x
