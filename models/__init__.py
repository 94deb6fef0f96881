"""Declared p(z) and p(x|z): priors, likelihoods, and the models that they compose.

Priors and likelihoods are *conditional distributions*: modules that map tensors to a Pyro distribution
over one row's event. They know no plates; the models do.
"""

if __name__ != "pyrovae.models":
    raise ImportError("import this package as pyrovae.models: under another name it would be a second copy.")

from pyrovae.models.autoregressive import AutoregressiveCategorical
from pyrovae.models.counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyrovae.models.deep_markov import DeepMarkovModel
from pyrovae.models.discretized import DiscretizedLogistic
from pyrovae.models.flow import FlowPrior, affine_flow, spline_flow
from pyrovae.models.gaussian_mixture import GaussianMixture
from pyrovae.models.hierarchical import HierarchicalModel
from pyrovae.models.latent_variable import LatentVariableModel
from pyrovae.models.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Laplace,
    LogNormal,
    Normal,
    StudentT,
)
from pyrovae.models.linear_gaussian import LinearGaussian
from pyrovae.models.linear_gaussian_chain import LinearGaussianChain
from pyrovae.models.mixed_table import MixedTableModel
from pyrovae.models.mixture import NormalMixture, VampPrior
from pyrovae.models.ordered import Ordered
from pyrovae.models.priors import LearnedNormal, StandardNormal
from pyrovae.models.truncated import TruncatedNormal

__all__ = [
    "AutoregressiveCategorical",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DeepMarkovModel",
    "DiscretizedLogistic",
    "FlowPrior",
    "GaussianMixture",
    "HierarchicalModel",
    "Laplace",
    "LatentVariableModel",
    "LearnedNormal",
    "LinearGaussian",
    "LinearGaussianChain",
    "LogNormal",
    "MixedTableModel",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "NormalMixture",
    "Ordered",
    "Poisson",
    "StandardNormal",
    "StudentT",
    "TruncatedNormal",
    "VampPrior",
    "ZeroInflatedNegativeBinomial",
    "affine_flow",
    "spline_flow",
]
