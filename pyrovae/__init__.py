"""pyrovae: variational autoencoders declared as Pyro programs.

A VAE is a pair of Pyro programs, a generative model p(x, z) and an amortized guide q(z|x). `fit` trains it,
`elbo` and `log_marginal` evaluate it row by row, each figure with its error, `refine` finds each row a posterior of
its own, `to_arviz` hands it to ArviZ.
"""

from pyrovae import guides, models, nn, plots
from pyrovae._version import __version__
from pyrovae.arviz_bridge import to_arviz
from pyrovae.evidence import Elbo, LogMarginal, elbo, log_marginal
from pyrovae.refinement import Refinement, refine
from pyrovae.representation import Clustering, Probe, cluster, features, probe
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = [
    "VAE",
    "Clustering",
    "Elbo",
    "LogMarginal",
    "Probe",
    "Refinement",
    "__version__",
    "cluster",
    "elbo",
    "features",
    "fit",
    "guides",
    "log_marginal",
    "models",
    "nn",
    "plots",
    "probe",
    "refine",
    "to_arviz",
]
