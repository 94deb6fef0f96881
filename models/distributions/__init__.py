"""Distributions that torch and Pyro lack, or whose densities they lose at float32.

Plain Pyro distributions over tensors of parameters, without plates and networks; the conditional distributions
of `pyrovae.models` put networks in front of them.
"""

from pyrovae.models.distributions.bounded import ContinuousBernoulli
from pyrovae.models.distributions.circular import WrappedStudentT
from pyrovae.models.distributions.counts import Multinomial, NegativeBinomial, Poisson, ZeroInflated
from pyrovae.models.distributions.discretized import DiscretizedLogistic
from pyrovae.models.distributions.truncated import TruncatedNormal

__all__ = [
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "TruncatedNormal",
    "WrappedStudentT",
    "ZeroInflated",
]
