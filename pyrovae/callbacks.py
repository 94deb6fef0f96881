"""The public name of `pyrovae.training.callbacks`: what a training calls between steps and epochs."""

from pyrovae.training.callbacks import Callback, EarlyStopping, EncoderSteps
from pyrovae.training.keep_best import KeepBest

__all__ = ["Callback", "EarlyStopping", "EncoderSteps", "KeepBest"]
