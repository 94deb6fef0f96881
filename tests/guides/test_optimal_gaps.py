"""Each family, trained, reaches the gap log p(x) - ELBO that is the least possible for it.

x ~ N(W z, s^2 I), z ~ N(0, I): the posterior is normal with precision L = I + W'W/s^2 in every row, and the
KL from the best member of a family to it is known.
"""

import pyro
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import guides
from pyrovae.nn import MLP

K, H, N, S = 3, 6, 128, 0.7
# W'W/s^2 = 6 * 1 1' + diag(0.5, 1, 8): strongly correlated, and of unequal precisions.
INFORMATION = 6.0 * torch.ones(K, K) + torch.diag(torch.tensor([0.5, 1.0, 8.0]))
W = S * torch.linalg.cholesky(INFORMATION).T
PRECISION = (torch.eye(K) + INFORMATION).double()
LOG_DET = float(torch.logdet(PRECISION))

DIAGONAL = (float(PRECISION.diagonal().log().sum()) - LOG_DET) / 2
ISOTROPIC = (K * float(torch.log(PRECISION.trace() / K)) - LOG_DET) / 2

LEAST_GAP = {
    # A linear encoder without hidden layers: locations are linear in x, scales constant.
    "isotropic": (lambda: guides.IsotropicNormal(MLP(K, (K, 1))), ISOTROPIC),
    "diagonal": (lambda: guides.DiagonalNormal(MLP(K, (K, K))), DIAGONAL),
    # Every covariance is a multiple of the identity plus rank K-1.
    "low rank": (lambda: guides.LowRankNormal(MLP(K, (K, K, K * (K - 1)))), 0.0),
    "full": (lambda: guides.FullNormal(MLP(K, (K, K, K * (K - 1) // 2))), 0.0),
    "inverse autoregressive": (lambda: guides.InverseAutoregressiveFlow(MLP(K, (K, K, H)), K, H), 0.0),
    "coupling": (lambda: guides.CouplingFlow(MLP(K, (K, K, H)), K, H), 0.0),
    "neural spline": (
        lambda: guides.NeuralSplineFlow(MLP(K, (K, K, H)), K, H, num_layers=1, hidden=[32]),
        0.0,
    ),
}


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(W.clone(), requires_grad=False)

    def forward(self, z):
        return z @ self.W.T


def evidence():
    return torch.distributions.MultivariateNormal(torch.zeros(K), W @ W.T + S**2 * torch.eye(K))


def trained(posterior, epochs=200):
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(K), pv.models.Normal(Linear(), scale=S))
    vae = pv.VAE(model, guides.AmortizedGuide(posterior))
    torch.manual_seed(1)
    x = evidence().sample((N,))
    objective = pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    for rate, num_epochs in ((3e-2, epochs), (5e-3, 75), (5e-4, 75)):
        pv.fit(
            vae, x, epochs=num_epochs, objective=objective, seed=0, progress=False,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
        )  # fmt: skip
    torch.testing.assert_close(model.likelihood.network.W.detach(), W, rtol=0, atol=0)
    return vae, x


def test_the_posterior_is_strongly_correlated():
    assert DIAGONAL > 0.6
    assert ISOTROPIC > DIAGONAL + 0.05


@pytest.mark.parametrize("name", LEAST_GAP)
def test_reaches_the_least_gap(name):
    make, least = LEAST_GAP[name]
    torch.manual_seed(0)
    vae, x = trained(make())
    result = pv.elbo(vae, x, num_samples=2000, seed=0)
    gap = float((evidence().log_prob(x) - result.elbo).mean())
    error = float((result.std_error**2).sum().sqrt()) / N
    assert error < 0.004
    assert least - 5 * error < gap < least + 0.02, (name, gap, least, error)


def test_mixture_contains_the_diagonal_normal():
    # Several diagonal normals beat one: its gap is below the diagonal law and above zero.
    torch.manual_seed(0)
    C = 6
    vae, x = trained(guides.MixtureOfNormals(MLP(K, (C * K, C * K, C))), epochs=400)
    gap = float((evidence().log_prob(x) - pv.elbo(vae, x, num_samples=1000, seed=0).elbo).mean())
    assert 0.0 < gap < DIAGONAL - 0.1
