"""The public names of what needs scikit-learn: `from pyrovae.estimator import TabularVAE, VAEEstimator`."""

from pyrovae.exchange.estimator import VAEEstimator
from pyrovae.tables.estimator import TabularVAE

__all__ = ["TabularVAE", "VAEEstimator"]
