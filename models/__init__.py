"""Declared p(z) and p(x|z): priors, likelihoods, and the models that they compose.

Priors and likelihoods are *conditional distributions*: modules that map tensors to a Pyro distribution
over one row's event. They know no plates; the models do.
"""

if __name__ != "pyrovae.models":
    raise ImportError("import this package as pyrovae.models: under another name it would be a second copy.")

from pyrovae.models.autoregressive import AutoregressiveCategorical
from pyrovae.models.deep_markov import DeepMarkovModel
from pyrovae.models.latent_variable import LatentVariableModel
from pyrovae.models.likelihoods import Bernoulli, Normal
from pyrovae.models.linear_gaussian import LinearGaussian
from pyrovae.models.priors import StandardNormal
from pyrovae.models.sequences import (
    CategoricalSequence,
    MarkovSequence,
    PaddedSequence,
    SequenceDistribution,
)

__all__ = [
    "AutoregressiveCategorical",
    "Bernoulli",
    "CategoricalSequence",
    "DeepMarkovModel",
    "LatentVariableModel",
    "LinearGaussian",
    "MarkovSequence",
    "Normal",
    "PaddedSequence",
    "SequenceDistribution",
    "StandardNormal",
]
