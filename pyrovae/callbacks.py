"""The public name of `pyrovae.training.callbacks`: what a training calls between steps and epochs."""

from pyrovae.training.callbacks import Callback, EarlyStopping, EncoderSteps

__all__ = ["Callback", "EarlyStopping", "EncoderSteps"]
