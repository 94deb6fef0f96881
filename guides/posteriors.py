"""Posteriors q(z|x) for a vector latent: conditional distributions of the data (and of context)."""

from pyrovae.models.likelihoods import Normal as DiagonalNormal

# A normal with a network inside is a likelihood of z and a posterior of x alike; guides know it by this name.
__all__ = ["DiagonalNormal"]
