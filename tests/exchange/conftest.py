"""Pairs with exact answers, one of them a VAE whose posterior means are the principal components of the digits."""

import pytest

import pyrovae as pv
from tests.exchange.digits import digits
from tests.oracles import LinearGaussian, WideGuide


@pytest.fixture(scope="module")
def exact():
    x, y = digits()
    model = pv.models.LinearGaussian(4, 64).set_maximum_likelihood(x)
    return pv.VAE(model, pv.guides.ExactGuide(model)), x[:300], y[:300]


@pytest.fixture
def linear():
    model = LinearGaussian(K=2, D=3)
    return pv.VAE(model, WideGuide(model)), model.data(5)
