"""A pair whose figures are known exactly."""

import numpy as np
import pytest

import pyrovae as pv
from pyrovae import plots
from tests.oracles import LinearGaussian, WideGuide
from tests.plots.examples import curve, history, ranks


@pytest.fixture(scope="module")
def linear():
    model = LinearGaussian(K=3, D=16)
    return pv.VAE(model, WideGuide(model)), model.data(30)


@pytest.fixture(scope="module")
def page(linear):
    vae, x = linear
    more = plots.Panel(
        "Ranks & <more>", lambda ax: plots.calibration_ranks(ranks(), 100, ax=ax), "They rise."
    )
    return plots.report(
        vae,
        x,
        history=history(),
        labels=np.arange(30) % 3,
        rate_distortion=curve(),
        extra=[more],
        image_shape=(4, 4),
        num_samples=100,
        seed=0,
    )
