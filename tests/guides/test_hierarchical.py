"""Hierarchical guides: exact on a linear-Gaussian hierarchy, one contract for all of them."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import guides, models
from pyrovae.guides.hierarchical import product_of_normals
from pyrovae.nn import MLP

D, K1, K2 = 4, 1, 2


class Fixed(nn.Module):
    """z -> z A' + b, not trained."""

    def __init__(self, A, b=0.0):
        super().__init__()
        self.A = nn.Parameter(torch.as_tensor(A), requires_grad=False)
        self.b = b

    def forward(self, z):
        return z @ self.A.T + self.b


# The columns of W are orthogonal: given z1 the posterior of z2 is diagonal, and correlated without z1.
A = [[1.5], [-1.0]]
W = [[1.0, 0.0], [0.0, 1.0], [0.5, 1.0], [1.0, -0.5]]
Q, S = 0.5, 0.8


def linear_gaussian():
    return models.HierarchicalModel(
        [models.StandardNormal(K1), models.Normal(Fixed(A, b=0.3), scale=Q)],
        models.Normal(Fixed(W), scale=S),
    )


def evidence():
    a, w = torch.tensor(A), torch.tensor(W)
    covariance = w @ (a @ a.T + Q**2 * torch.eye(K2)) @ w.T + S**2 * torch.eye(D)
    return torch.distributions.MultivariateNormal(w @ torch.full((K2,), 0.3), covariance)


def top_down(model):
    posteriors = [
        guides.DiagonalNormal(MLP(D, (K1, K1))),
        guides.DiagonalNormal(MLP(K1 + D, (K2, K2))),
    ]
    return guides.HierarchicalGuide(posteriors)


def bottom_up(model):
    # Without z1 the dimensions of z2 are correlated.
    posteriors = [
        guides.DiagonalNormal(MLP(K2, (K1, K1))),
        guides.FullNormal(MLP(D, (K2, K2, 1))),
    ]
    return guides.BottomUpGuide(posteriors)


def ladder(model):
    estimates = [guides.DiagonalNormal(MLP(D, (K1, K1))), guides.DiagonalNormal(MLP(D, (K2, K2)))]
    return guides.LadderGuide(model, estimates, path=[MLP(D, D), nn.Identity()])


GUIDES = {"top-down": top_down, "bottom-up": bottom_up, "ladder": ladder}
every_guide = pytest.mark.parametrize("name", GUIDES)


def trained(name, make=None):
    torch.manual_seed(0)
    model = linear_gaussian()
    vae = pv.VAE(model, (make or GUIDES[name])(model))
    x = evidence().sample((128,))
    objective = pyro.infer.Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    for rate, epochs in ((3e-2, 180), (5e-3, 80), (5e-4, 60)):
        pv.fit(
            vae, x, epochs=epochs, objective=objective, seed=0, progress=False,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
        )  # fmt: skip
    result = pv.elbo(vae, x, num_samples=500, seed=0)
    return vae, x, float((evidence().log_prob(x) - result.elbo).mean())


@every_guide
def test_reaches_the_exact_posterior(name):
    vae, x, gap = trained(name)
    assert -0.005 < gap < 0.02
    result = pv.log_marginal(vae, x, num_samples=200, seed=0)
    assert float((result.log_marginal - evidence().log_prob(x)).abs().max()) < 0.1


def test_independent_levels_cannot():
    # q(z1|x) q(z2|x): what the chain is for. Its least gap is the mutual information of z1 and z2 given x, or more.
    def independent(model):
        class Apart(nn.Module):
            def __init__(self):
                super().__init__()
                self.posterior = guides.DiagonalNormal(MLP(D, (K2, K2)))

            def forward(self, z1, x):
                return self.posterior(x)

        return guides.HierarchicalGuide([guides.DiagonalNormal(MLP(D, (K1, K1))), Apart()])

    *_, gap = trained("independent", independent)
    a, w = torch.tensor(A), torch.tensor(W)
    precision = torch.zeros(3, 3)
    precision[0, 0] = 1 + float(a.T @ a) / Q**2
    precision[0, 1:] = precision[1:, 0] = -a[:, 0] / Q**2
    precision[1:, 1:] = torch.eye(2) / Q**2 + w.T @ w / S**2
    least = float((precision.diagonal().log().sum() - torch.logdet(precision)) / 2)
    assert least > 0.1
    assert abs(gap - least) < 0.02


@every_guide
def test_the_contract(name, tmp_path):
    torch.manual_seed(0)
    model = linear_gaussian()
    vae = pv.VAE(model, GUIDES[name](model))
    x = torch.randn(9, D)
    draws = vae.sample_posterior(x, num_samples=5)
    assert {site: value.shape for site, value in draws.items()} == {"z1": (5, 9, K1), "z2": (5, 9, K2)}
    assert vae.layout.guide_broadcasts
    assert vae.layout.model_broadcasts
    before = pv.elbo(vae, x, seed=0).elbo
    vae.save(tmp_path / "vae.safetensors")
    torch.manual_seed(1)
    other = linear_gaussian()
    loaded = pv.VAE(other, GUIDES[name](other))
    assert not torch.allclose(pv.elbo(loaded, x, seed=0).elbo, before)
    loaded.load(tmp_path / "vae.safetensors")
    torch.testing.assert_close(pv.elbo(loaded, x, seed=0).elbo, before, rtol=0, atol=0)
    assert vae.generate(3) is not None


def test_three_levels_with_context():
    sizes = [2, 3, 4]
    normals = [models.Normal(MLP(1 + a, (b, b))) for a, b in zip([0, *sizes], sizes, strict=False)]
    model = models.HierarchicalModel(normals, models.Normal(MLP(4 + 1, D), scale=1.0))
    chain = [models.Normal(MLP(above + D + 1, (k, k))) for above, k in zip([0, 2, 3], sizes, strict=True)]
    upward = [models.Normal(MLP(below + 1, (k, k))) for below, k in zip([3, 4, D], sizes, strict=True)]
    estimates = [models.Normal(MLP(h + 1, (k, k))) for h, k in zip([5, 6, 7], sizes, strict=True)]
    path = [MLP(6, 5), MLP(7, 6), MLP(D, 7)]
    x, context = torch.randn(8, D), torch.randn(8, 1)
    for guide in (
        guides.HierarchicalGuide(chain),
        guides.BottomUpGuide(upward),
        guides.LadderGuide(model, estimates, path),
    ):
        vae = pv.VAE(model, guide)
        draws = vae.sample_posterior(x, context, num_samples=2)
        assert [value.shape[-1] for value in draws.values()] == sizes
        started = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
        pv.fit(vae, (x, context), epochs=1, seed=0, progress=False)
        for name, parameter in vae.named_parameters():
            assert not torch.equal(parameter.detach(), started[name]), (type(guide).__name__, name)


def test_features_run_once():
    features = MLP(D, 5)
    calls = []
    features.register_forward_hook(lambda *_: calls.append(1))
    posteriors = [
        guides.DiagonalNormal(MLP(5, (K1, K1))),
        guides.DiagonalNormal(MLP(K1 + 5, (K2, K2))),
    ]
    vae = pv.VAE(linear_gaussian(), guides.HierarchicalGuide(posteriors, features=features))
    x = torch.randn(9, D)
    vae.sample_posterior(x)
    calls.clear()
    vae.sample_posterior(x, num_samples=3)
    assert len(calls) == 1


def test_the_ladder_shares_the_models_prior():
    model = linear_gaussian()
    guide = ladder(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in guide.parameters()}
    x = torch.randn(6, D)
    trace = pyro.poutine.trace(guide).get_trace(x)
    z1, q = trace.nodes["z1"]["value"], trace.nodes["z2"]["fn"].base_dist
    estimate, prior = guide.estimates[1](x).base_dist, model.priors[1](z1).base_dist
    precision = estimate.scale**-2 + prior.scale**-2
    torch.testing.assert_close(q.scale, precision**-0.5)
    location = (estimate.loc * estimate.scale**-2 + prior.loc * prior.scale**-2) / precision
    torch.testing.assert_close(q.loc, location)


def test_product_of_normals_at_extreme_scales():
    for a, b in ((1e-6, 1e30), (1e30, 1e-6), (1e30, 1e30), (1e-6, 1e-6)):
        product = product_of_normals(
            dist.Normal(torch.ones(1), a).to_event(1), dist.Normal(torch.zeros(1), b).to_event(1)
        )
        expected = a * (b / (a**2 + b**2) ** 0.5)
        assert float(product.base_dist.scale) == pytest.approx(expected, rel=1e-5)
        assert float(product.mean) == pytest.approx(b**2 / (a**2 + b**2), rel=1e-5)


def test_errors():
    model = linear_gaussian()
    normal = guides.DiagonalNormal(MLP(D, (K2, K2)))
    with pytest.raises(ValueError, match="priors is empty"):
        models.HierarchicalModel([], normal)
    for guide in (guides.HierarchicalGuide, guides.BottomUpGuide):
        with pytest.raises(ValueError, match="posteriors is empty"):
            guide([])
    with pytest.raises(TypeError, match="model is LatentVariableModel: expected the HierarchicalModel"):
        guides.LadderGuide(models.LatentVariableModel(models.StandardNormal(2), normal), [normal])
    with pytest.raises(ValueError, match="got 1 estimates: the model has 2 levels"):
        guides.LadderGuide(model, [normal])
    with pytest.raises(ValueError, match="got 1 networks of the path: the model has 2 levels"):
        guides.LadderGuide(model, [normal, normal], path=[nn.Identity()])
    estimates = [guides.DiagonalNormal(MLP(D, (1, 1))), guides.FullNormal(MLP(D, (2, 2, 1)))]
    with pytest.raises(TypeError, match="got MultivariateNormal: a ladder combines diagonal normals"):
        guides.LadderGuide(model, estimates)(torch.randn(5, D))
