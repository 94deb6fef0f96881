"""Tensors that a pair uses and does not hold: what is not trained is said."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from tests.pairs import binary_rows, composed

OUTSIDE = nn.Linear(2, 6)


class Model(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.bias = way, nn.Parameter(torch.zeros(6))
        self.layers = [nn.Linear(2, 6)] if way == "list" else nn.ModuleList([nn.Linear(2, 6)])
        self.free = torch.zeros(6, requires_grad=way == "free")

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            layer = OUTSIDE if self.way == "global" else self.layers[0]
            logits = layer(z).detach() if self.way == "detached" else layer(z)
            pyro.sample("x", dist.Bernoulli(logits=logits + self.bias + self.free).to_event(1), obs=x)


def train(way):
    vae = pv.VAE(Model(way))
    state = torch.get_rng_state()
    pv.fit(vae, binary_rows(16), epochs=1, progress=False, compile=False, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


SAID = {
    "list": r"use 'Model.layers\[0\].weight', 'Model.layers\[0\].bias', which want gradients",
    "global": "use 'OUTSIDE.weight', 'OUTSIDE.bias', which want gradients",
    "detached": "what depends on 'model.layers.0.weight', 'model.layers.0.bias' is detached.* freeze them",
    "free": "use 'Model.free', which want gradients .* nn.Parameter",
}


@pytest.mark.parametrize("way", SAID)
def test_what_no_module_holds_is_said_not_to_be_trained(way):
    with pytest.warns(UserWarning, match=SAID[way]):
        train(way)


def test_nothing_is_said_where_all_is_held_or_frozen():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("held")
        OUTSIDE.requires_grad_(False)
        try:
            train("global")
        finally:
            OUTSIDE.requires_grad_(True)
        pv.fit(composed(), binary_rows(16), epochs=1, progress=False, compile=False)
