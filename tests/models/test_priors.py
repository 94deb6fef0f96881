"""A mixture as the prior: every estimate of log p(x) against exact truth. `tests/test_verbs.py` has all priors."""

import torch

import pyrovae as pv
from pyrovae.guides import AutoGuide
from pyrovae.guides.families import mixture_of_normals
from pyrovae.models import LatentVariableModel, Normal, NormalMixture
from tests.components import D, K


def mixture_model():
    """A mixture of three normals, seen through a linear map, and log p(x) of it."""
    torch.manual_seed(0)
    prior, network = NormalMixture(K, num_components=3), torch.nn.Linear(K, D)
    with torch.no_grad():
        prior.locations.mul_(2.0)
        prior.logits.copy_(torch.tensor([0.5, 0.0, -0.5]))

    def truth(x):
        W, b, z = network.weight, network.bias, prior()
        noise = 0.7**2 * torch.eye(D)
        scales = z.component_distribution.base_dist.scale
        covariances = W @ torch.diag_embed(scales**2) @ W.T + noise
        means = prior.locations @ W.T + b
        seen = torch.distributions.MultivariateNormal(means, covariances)
        return (
            torch.distributions.MixtureSameFamily(z.mixture_distribution, seen).log_prob(x).detach().double()
        )

    return LatentVariableModel(prior, Normal(network, scale=0.7)), truth


def test_mixtures_against_exact_truth():
    model, truth = mixture_model()
    guide = AutoGuide(model, family=mixture_of_normals)
    vae = pv.VAE(model, guide, example=torch.zeros(2, D))
    x = vae.generate(150, seed=0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adam = lambda parameters: torch.optim.Adam(parameters, lr=1e-2)  # noqa: E731
    pv.fit(vae, x, epochs=25, batch_size=50, optimizer=adam, seed=0, progress=False, compile=False)
    annealed = pv.AnnealedImportanceSampling(num_temperatures=20, num_leapfrog_steps=3)
    refined = pv.refine(vae, x, num_steps=100, num_samples=100, seed=0)
    estimates = {
        "guide": pv.log_marginal(vae, x, num_samples=500, seed=1),
        "annealing": pv.log_marginal(vae, x, num_samples=20, method=annealed, seed=1),
        "refined": pv.log_marginal(refined.vae, x, num_samples=500, seed=1),
    }
    for name, estimate in estimates.items():
        difference = estimate.log_marginal - truth(x)
        error = float((estimate.std_error**2).sum().sqrt() / len(x))
        # Weights of refined posteriors, which are narrow, err low.
        bias = 0.1 if name == "refined" else 0.01
        assert abs(float(difference.mean())) < 5 * error + bias, name
    assert float((refined.elbo_after - truth(x)).mean()) < 5 * float(refined.std_error_after.max())
    bounds = pv.simulated_bounds(vae, 100, num_samples=4, method=annealed, seed=0)
    exact = truth(bounds.x)
    spread = float((bounds.upper - bounds.lower).std() / 10)
    assert float((bounds.lower - exact).mean()) < 5 * spread
    assert float((bounds.upper - exact).mean()) > -5 * spread
    assert bounds.gap[0] < 2.0  # chains hardly change modes: at most log 3 and the noise of few of them
