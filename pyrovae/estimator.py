"""The public name of `pyrovae.exchange.estimator`: `from pyrovae.estimator import VAEEstimator`."""

from pyrovae.exchange.estimator import VAEEstimator

__all__ = ["VAEEstimator"]
