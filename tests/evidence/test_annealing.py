"""Annealed importance sampling against exact truth, forwards and backwards."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.evidence.annealing_path import Point
from pyrovae.evidence.memory import Limits, PeakMemory
from pyrovae.random_state import fixed_seed
from tests.oracles import TRUTHS, LinearGaussian, N, NarrowGuide, WideGuide, exact_pair

SHORT = pv.AnnealedImportanceSampling(num_temperatures=30, num_leapfrog_steps=3)
SHORT_FROM_GUIDE = pv.AnnealedImportanceSampling(num_temperatures=15, num_leapfrog_steps=2, from_guide=True)


@pytest.mark.parametrize("method", [SHORT, SHORT_FROM_GUIDE], ids=["prior", "guide"])
@pytest.mark.parametrize("truth", TRUTHS)
def test_annealing_covers_the_truth_at_its_rate(truth, method):
    vae, x, exact = exact_pair(truth)
    results = [pv.log_marginal(vae, x, num_samples=10, method=method, seed=seed) for seed in (0, 1)]
    covered = [(r.log_marginal - exact).abs() < 1.96 * r.std_error for r in results]
    # 800 repetitions, whose share is known within 0.011: at least 0.90 of them, less two such errors.
    assert 0.88 < float(torch.cat(covered).double().mean()) < 0.99
    result = results[0]
    ratio = (result.log_marginal - exact).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(N)
    # Annealed weights are far better than those of the draws that they start from.
    start = pv.ImportanceSampling(prior_share=0 if method.from_guide else 1)
    plain = pv.log_marginal(vae, x, num_samples=10, method=start, seed=0)
    assert float(result.std_error.mean()) < 0.7 * float(plain.std_error.mean())


@pytest.mark.parametrize("from_guide", [False, True])
def test_one_temperature_is_importance_sampling_from_the_start(from_guide):
    vae, x, _ = exact_pair("linear_gaussian")
    method = pv.AnnealedImportanceSampling(num_temperatures=1, from_guide=from_guide)
    annealed = pv.log_marginal(vae, x, num_samples=500, method=method, seed=0)
    plain = pv.log_marginal(
        vae, x, num_samples=500, method=pv.ImportanceSampling(prior_share=0 if from_guide else 1), seed=1
    )
    difference = annealed.log_marginal - plain.log_marginal
    error = (annealed.std_error**2 + plain.std_error**2).sqrt()
    assert 0.85 < float((difference / error).std()) < 1.15
    assert abs(float((annealed.elbo - plain.elbo).mean())) < 0.05


def test_annealing_finds_what_a_narrow_guide_misses():
    model = LinearGaussian(scale=0.7)
    x = model.data(100)
    vae, exact = pv.VAE(model, NarrowGuide(model)), model.evidence().log_prob(x)
    sampled = pv.log_marginal(vae, x, num_samples=200, seed=0)
    annealed = pv.log_marginal(vae, x, num_samples=20, method=SHORT, seed=0)
    bad = sampled.khat > 0.7
    assert float(bad.double().mean()) > 0.5
    assert float((annealed.log_marginal - sampled.log_marginal)[bad].mean()) > 0.2
    assert abs(float((annealed.log_marginal - exact).mean())) < 0.05
    # Where importance sampling is good the two agree.
    wide = pv.VAE(model, WideGuide(model))
    good = pv.log_marginal(wide, x, num_samples=1000, seed=0)
    assert good.share_good > 0.95
    excess = annealed.log_marginal - good.log_marginal
    assert abs(float(excess.mean())) < 5 * float(excess.std()) / 10 + float((annealed.std_error**2).mean())


def test_on_a_trained_vae_annealing_agrees_with_importance_sampling_and_exceeds_it_where_k_is_bad():
    torch.manual_seed(1)
    prior, network = pv.models.StandardNormal(2), pv.nn.MLP(2, 6, [16])
    posterior = pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2), [16]))
    model = pv.models.LatentVariableModel(prior, pv.models.Normal(network, scale=0.5))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(posterior), example=torch.zeros(3, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2.5  # a curved surface to learn
    x = vae.generate(860)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.2
    pv.fit(
        vae, x[:800], epochs=30, batch_size=50, seed=0, progress=False, compile=False,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    )  # fmt: skip
    x = x[800:]
    assert float(pv.elbo(vae, x, seed=0).rate.mean()) > 1  # it has learned something

    def narrow(x):
        q = posterior(x).base_dist
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(q.loc, 0.3 * q.scale).to_event(1))

    annealed = pv.log_marginal(
        vae, x, num_samples=20, method=pv.AnnealedImportanceSampling(100, 4), seed=2
    )  # from the prior: whatever the guide
    for guide, share_bad in ((vae.guide, (0.0, 0.3)), (narrow, (0.6, 1.0))):
        sampled = pv.log_marginal(pv.VAE(model, guide), x, num_samples=1000, seed=0)
        bad = sampled.unreliable
        assert share_bad[0] <= float(bad.double().mean()) <= share_bad[1]
        excess = annealed.log_marginal - sampled.log_marginal
        error = (annealed.variance + sampled.variance).sqrt()
        if guide is narrow:
            assert float(excess[bad].mean()) > 0.2 + 4 * float(excess[bad].std()) / int(bad.sum()) ** 0.5
        else:
            expected = (annealed.bias - sampled.bias)[~bad].mean()
            noise = float((error[~bad] ** 2).sum().sqrt()) / int((~bad).sum())
            assert abs(float(excess[~bad].mean() - expected)) < 4 * noise
            assert noise < 0.05


@pytest.mark.parametrize("from_guide", [False, True])
def test_simulated_bounds_hold_the_truth_between_them(from_guide):
    vae, x, _ = exact_pair("linear_gaussian")
    vae.rows(x)
    gaps = []
    for T in (3, 12):
        method = pv.AnnealedImportanceSampling(
            num_temperatures=T, num_leapfrog_steps=3, from_guide=from_guide
        )
        bounds = pv.simulated_bounds(vae, 400, num_samples=2, method=method, seed=2)
        exact = vae.model.evidence().log_prob(bounds.x)
        below, above = exact - bounds.lower, bounds.upper - exact
        for excess in (below, above):
            assert float(excess.mean()) > -3 * float(excess.std()) / 20
        # Forwards E[w] = p(x); backwards E[1/w] = 1/p(x): both exact in the mean, at any T.
        for ratio in ((-below).exp(), (-above).exp()):
            assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / 20
        assert bounds.gap[0] == pytest.approx(float((below + above).mean()))
        gaps.append(bounds.gap[0])
    assert gaps[0] > 1.3 * gaps[1] > 0
    assert "gap" in str(bounds)
    assert list(bounds.to_frame()) == ["lower", "upper"]


def test_backward_weights_from_an_exact_start_undo_forward_ones():
    """With no moves between them the weights of the two directions are the same number."""
    vae, x, _ = exact_pair("constrained")
    method = pv.AnnealedImportanceSampling(num_temperatures=1)
    data = vae.rows(x[:20])
    path = method.path(vae, data, 4, Limits(2**30))
    arguments = data.take(slice(None))
    with vae.evaluating(), fixed_seed(0, vae.device):
        keys = torch.arange(20)
        u = path.draw(arguments, 4, keys)
        steps = method.step_sizes(path, arguments, keys)
        forward, backward = (
            run(path, arguments, u, steps, keys) for run in (method.forward, method.backward)
        )
    torch.testing.assert_close(forward, backward)


def plates():
    """An inner plate of positive latents and a simplex beside it, and a guide for both."""

    def model(x):
        with pyro.plate("rows", len(x), dim=-1):
            shares = pyro.sample("shares", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
            with pyro.plate("inner", 2, dim=-2):
                scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
            mean = shares[..., 0] + scale.sum(-2)
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("shares", dist.Dirichlet(torch.ones(len(x), 3)))
            with pyro.plate("inner", 2, dim=-2):
                pyro.sample("scale", dist.LogNormal(torch.zeros(len(x)), 1.0))

    return pv.VAE(model, guide)


def test_latents_of_every_shape_are_moved_in_unconstrained_space():
    vae, x = plates(), torch.tensor([1.0, 3.0, 6.0, 0.5])
    reference = pv.log_marginal(
        vae, x, num_samples=20000, method=pv.ImportanceSampling(prior_share=1), seed=0
    )
    for method in (SHORT, SHORT_FROM_GUIDE):
        result = pv.log_marginal(vae, x, num_samples=100, method=method, seed=2)
        error = (result.std_error**2 + reference.std_error**2).sqrt()
        assert bool(((result.log_marginal - reference.log_marginal).abs() < 4.5 * error).all())
        assert float(error.max()) < 0.3


def test_figures_depend_on_the_seed_and_not_on_memory():
    vae, x, _ = exact_pair("constrained")
    x = x[:100]
    method = pv.AnnealedImportanceSampling(num_temperatures=4, num_leapfrog_steps=2)
    given = {"num_samples": 6, "method": method}
    reference = pv.log_marginal(vae, x, seed=3, **given).log_marginal
    with pytest.raises(ValueError, match="memory_budget is 1000 bytes"):
        pv.log_marginal(vae, x, seed=3, memory_budget=1000, **given)
    for limits in ({"batch_size": 50, "chunk_size": 4}, {"memory_budget": 2**20}):
        with PeakMemory() as memory:
            other = pv.log_marginal(vae, x, seed=3, **limits, **given).log_marginal
        torch.testing.assert_close(other, reference, rtol=1e-4, atol=1e-4)
    assert memory.peak < 2**20
    assert not torch.equal(pv.log_marginal(vae, x, seed=4, **given).log_marginal, reference)


def test_temperatures_rise_from_zero_to_one():
    betas = torch.tensor(pv.AnnealedImportanceSampling(num_temperatures=10).temperatures())
    assert betas[0] == 0
    assert betas[-1] == 1
    assert bool((betas.diff() > 0).all())
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(11))


def test_moves_are_refused_where_densities_are_not_defined():
    there = Point(
        torch.zeros(1, 2, 1),
        torch.tensor([[math.nan, 0.0]]),
        torch.zeros(1, 2),
        *[torch.full((1, 2, 1), math.nan)] * 2,
    )
    assert there.log_target(0.5).tolist() == [[-math.inf, 0.0]]
    assert there.gradient(0.5).abs().max() == 0


def test_refusals():
    def discrete(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.5)))

    with pytest.raises(
        ValueError, match=r"latent 'k' is discrete \(Bernoulli\): annealed importance sampling moves"
    ):
        pv.log_marginal(pv.VAE(discrete, guide), torch.zeros(3), method=SHORT)

    mixture = pv.VAE(pv.models.GaussianMixture(2, 2), pv.guides.EmptyGuide())
    with pytest.raises(ValueError, match="there is nothing to anneal"):
        pv.log_marginal(mixture, torch.zeros(3, 2), method=SHORT)

    model = LinearGaussian()

    def auxiliary(x):
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", model.posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))

    with pytest.raises(ValueError, match="auxiliary sites u: .* Start at the prior"):
        pv.log_marginal(pv.VAE(model, auxiliary), model.data(3), method=SHORT_FROM_GUIDE)
    with pytest.raises(ValueError, match="num_temperatures is 0"):
        pv.AnnealedImportanceSampling(num_temperatures=0)

    def halved(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x / 2)

    def normal(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    vae = pv.VAE(halved, normal, example=torch.zeros(3))
    with pytest.raises(ValueError, match="observes something else than was simulated .* give as_x"):
        pv.simulated_bounds(vae, 3, method=SHORT)
    bounds = pv.simulated_bounds(vae, 300, method=SHORT, as_x=lambda observed: 2 * observed["x"], seed=0)
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(bounds.x / 2).double()
    assert bounds.lower.mean() - 0.05 < exact.mean() < bounds.upper.mean() + 0.05
    assert bounds.gap[0] < 0.5


def test_x_of_another_shape_or_dtype_than_what_is_observed_is_made():
    """Images [2,3] that the model flattens, and pixels that come as bytes."""
    torch.manual_seed(0)
    flat = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6)))
    posterior = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2))))
    flat.requires_grad_(False)
    posterior.requires_grad_(False)
    for example in (torch.zeros(4, 2, 3), torch.zeros(4, 6, dtype=torch.uint8)):
        vae = pv.VAE(
            lambda x: flat(x.reshape(len(x), -1).float()),
            lambda x: posterior(x.reshape(len(x), -1).float()),
            example=example,
        )
        bounds = pv.simulated_bounds(vae, 30, num_samples=2, method=SHORT, seed=0)
        assert (bounds.x.shape[1:], bounds.x.dtype) == (example.shape[1:], example.dtype)
        assert bool((bounds.lower < bounds.upper + 1).all())
