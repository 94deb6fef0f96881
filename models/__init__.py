"""Declared p(z) and p(x|z): priors, likelihoods, and the models that they compose.

Priors and likelihoods are *conditional distributions*: modules that map tensors to a Pyro distribution
over one row's event. They know no plates; the models do.
"""

if __name__ != "pyrovae.models":
    raise ImportError("import this package as pyrovae.models: under another name it would be a second copy.")

from pyrovae.models.hierarchical import HierarchicalModel
from pyrovae.models.latent_variable import LatentVariableModel
from pyrovae.models.likelihoods import Bernoulli, Normal
from pyrovae.models.priors import StandardNormal

__all__ = ["Bernoulli", "HierarchicalModel", "LatentVariableModel", "Normal", "StandardNormal"]
