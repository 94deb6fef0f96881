"""pyrovae: variational autoencoders declared as Pyro programs.

A VAE is a pair of Pyro programs, a generative model p(x, z) and an amortized guide q(z|x). `fit` trains it,
`elbo` and `log_marginal` evaluate it row by row, each figure with its error, `refine` finds each row a posterior of
its own, `to_arviz` hands it to ArviZ.
"""

from pyrovae import guides, models, nn
from pyrovae._version import __version__
from pyrovae.annealing import AnnealedImportanceSampling
from pyrovae.arviz_bridge import to_arviz
from pyrovae.evidence import Elbo, LogMarginal, elbo, log_marginal
from pyrovae.importance import ImportanceSampling
from pyrovae.refinement import Refinement, refine
from pyrovae.simulated_bounds import SimulatedBounds, simulated_bounds
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = [
    "VAE",
    "AnnealedImportanceSampling",
    "Elbo",
    "ImportanceSampling",
    "LogMarginal",
    "Refinement",
    "SimulatedBounds",
    "__version__",
    "elbo",
    "fit",
    "guides",
    "log_marginal",
    "models",
    "nn",
    "refine",
    "simulated_bounds",
    "to_arviz",
]
