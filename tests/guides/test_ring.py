"""On a posterior shaped like a ring, flows and mixtures close most of the diagonal normal's gap."""

import pyro
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import guides
from pyrovae.nn import MLP

K, H, S = 2, 8, 0.3


class Radius(nn.Module):
    def forward(self, z):
        return z.norm(dim=-1, keepdim=True)


def network(sizes):
    return MLP(1, sizes, hidden=[16])


GUIDES = {
    "mixture": (lambda: guides.MixtureOfNormals(network((16 * K, 16 * K, 16)))),
    "inverse autoregressive": lambda: guides.InverseAutoregressiveFlow(
        network((K, K, H)), K, H, num_layers=3
    ),
    "coupling": lambda: guides.CouplingFlow(network((K, K, H)), K, H, num_layers=4),
    "neural spline": lambda: guides.NeuralSplineFlow(network((K, K, H)), K, H),
}
X = torch.linspace(1.5, 2.5, 64).unsqueeze(-1)


def exact_log_marginal():
    """Quadrature over a grid of z, whose error is far below rounding for a smooth integrand."""
    axis = torch.linspace(-7, 7, 561, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * torch.log(axis[1] - axis[0])
    normal = torch.distributions.Normal(z.norm(dim=-1), S)
    return torch.stack([torch.logsumexp(prior + normal.log_prob(x), 0) for x in X[:, 0].double()])


def gap(posterior, steps=((2e-2, 120), (4e-3, 60))):
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), pv.models.Normal(Radius(), scale=S))
    vae = pv.VAE(model, guides.AmortizedGuide(posterior))
    objective = pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    for rate, epochs in steps:
        pv.fit(
            vae, X, epochs=epochs, objective=objective, seed=0, progress=False,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
        )  # fmt: skip
    return float((exact_log_marginal() - pv.elbo(vae, X, num_samples=300, seed=0).elbo).mean())


@pytest.fixture(scope="module")
def diagonal_gap():
    torch.manual_seed(0)
    return gap(guides.DiagonalNormal(network((K, K))))


@pytest.mark.parametrize("name", GUIDES)
def test_closes_four_fifths_of_the_diagonal_gap(name, diagonal_gap):
    assert diagonal_gap > 1.0
    torch.manual_seed(0)
    # At larger steps components of a mixture merge, for one seed in six.
    steps = {"steps": ((1e-2, 200), (2e-3, 80))} if name == "mixture" else {}
    found = gap(GUIDES[name](), **steps)
    assert -0.01 < found < 0.2 * diagonal_gap, (name, found, diagonal_gap)
