"""What a trace may look at: numbers that are the same in each call; and what transforms keep of their last draw."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.traced.tracing import NotTraceableError, trace
from tests.traced.test_tracing import assert_same_as_pyro

T = dist.transforms
X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
BOUND = torch.tensor([1.0, 2.0])

CONSTANT = {
    "a sum of ones": lambda x: torch.ones(3).sum().item(),
    "a bound's next": lambda x: (BOUND + 1).max().item(),
    "a range's entry": lambda x: float(torch.arange(4)[2]),
    "a list": lambda x: torch.tensor([1.0, 2.0]).mul(2).tolist()[1],
    "an array": lambda x: float((BOUND * 2).numpy().sum()),
    "a branch": lambda x: 1.0 if (BOUND > 0).all() else 2.0,
    "of a shape": lambda x: torch.tensor(x.shape).prod().item(),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_numbers_that_are_the_same_in_each_call_are_looked_at(name):
    look = CONSTANT[name]
    graph = trace(lambda x: [x * look(x)], [X])
    assert torch.equal(graph(X + 1)[0], (X + 1) * look(X))


def changed_in_place(x):
    total = torch.zeros(3)
    first = total[0]
    total.add_(x[0])
    return first.item()


MOVING = {
    "an input": lambda x: x.sum().item(),
    "made of an input": lambda x: (torch.ones(3) + x).max().item(),
    "random": lambda x: torch.rand(2).mean().item(),
    "changed in place": changed_in_place,
    "a list": lambda x: (x * 2).tolist()[0][0],
}


@pytest.mark.parametrize("name", MOVING)
def test_numbers_that_may_change_are_not(name):
    with pytest.raises(NotTraceableError, match="looks at values of a tensor"):
        trace(lambda x: [x * MOVING[name](x)], [X])


class Flowing(nn.Module):
    """p(x, z) and q(z|x), either's normal sent through a transform."""

    def __init__(self, of_model=None, of_guide=None):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 2)
        self.of_model, self.of_guide = of_model, of_guide

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.through(self.of_model, dist.Normal(torch.zeros(2), 1.0).to_event(1)))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.through(self.of_guide, dist.Normal(self.encoder(x), 1.0).to_event(1)))

    @staticmethod
    def through(transform, normal):
        return normal if transform is None else dist.TransformedDistribution(normal, [transform])


FLOWS = {
    "autoregressive guide": lambda: Flowing(of_guide=T.affine_autoregressive(2, [8])),
    "planar guide": lambda: Flowing(of_guide=T.planar(2)),
    "householder guide": lambda: Flowing(of_guide=T.householder(2)),
    "coupling prior": lambda: Flowing(of_model=T.affine_coupling(2, hidden_dims=[8])),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_that_keep_their_last_draw_are_traced(name):
    torch.manual_seed(0)
    flowing = FLOWS[name]()
    assert_same_as_pyro(pv.VAE(flowing.model, flowing.guide), (X,))
