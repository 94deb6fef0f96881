"""The deep Markov model: exact where it is linear and Gaussian, by a Kalman filter written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import AmortizedGuide, DiagonalNormal, MarkovPosterior
from pyrovae.models import Bernoulli, DeepMarkovModel, Normal, StandardNormal
from pyrovae.nn import GRU, MLP, GatedTransition
from pyrovae.pair.running import row_terms, run_model
from pyrovae.random_state import fixed_seed
from tests.components import MODELS

K, D, T = 2, 3, 5
TRANSITION_SD, EMISSION_SD = 0.6, 0.5
LENGTHS = torch.tensor([5, 1, 3, 4, 2, 5, 5, 3])


def linear_model() -> DeepMarkovModel:
    torch.manual_seed(0)
    transition = Normal(MLP(K, K), scale=TRANSITION_SD)
    emission = Normal(MLP(K, D), scale=EMISSION_SD)
    with torch.no_grad():
        transition.network.heads[0].weight.copy_(torch.tensor([[0.8, -0.4], [0.5, 0.7]]))
        transition.network.heads[0].bias.copy_(torch.tensor([0.3, -0.2]))
        emission.network.heads[0].weight.copy_(torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.3, -0.6]]))
    return DeepMarkovModel(StandardNormal(K), transition, emission)


def guide() -> AmortizedGuide:
    network = GRU(D, 16, past=False, future=True)
    step = DiagonalNormal(MLP(K + network.out_features, (K, K), hidden=[16]))
    return AmortizedGuide(MarkovPosterior(network, step, K))


def matrices(model: DeepMarkovModel) -> list[np.ndarray]:
    heads = [model.transition.network.heads[0], model.emission.network.heads[0]]
    return [p.detach().double().numpy() for head in heads for p in (head.weight, head.bias)]


def kalman_log_density(x: np.ndarray, model: DeepMarkovModel) -> float:
    """Log p(x_1..x_L): predict, score the innovation, update."""
    A, b, C, d = matrices(model)
    mean, covariance, total = np.zeros(K), np.eye(K), 0.0
    for t, observed in enumerate(x):
        if t > 0:
            mean, covariance = A @ mean + b, A @ covariance @ A.T + TRANSITION_SD**2 * np.eye(K)
        innovation = C @ covariance @ C.T + EMISSION_SD**2 * np.eye(D)
        total += multivariate_normal.logpdf(observed, C @ mean + d, innovation)
        gain = covariance @ C.T @ np.linalg.inv(innovation)
        mean = mean + gain @ (observed - C @ mean - d)
        covariance = covariance - gain @ C @ covariance
    return total


def data(num_rows: int = len(LENGTHS)) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows drawn in NumPy from the linear model."""
    A, b, C, d = matrices(linear_model())
    generator = np.random.default_rng(0)
    z, x = generator.standard_normal((num_rows, K)), []
    for t in range(T):
        z = z if t == 0 else z @ A.T + b + TRANSITION_SD * generator.standard_normal(z.shape)
        x.append(z @ C.T + d + EMISSION_SD * generator.standard_normal((num_rows, D)))
    lengths = LENGTHS.repeat(num_rows // len(LENGTHS))
    return torch.tensor(np.stack(x, 1)).float(), lengths


@pytest.fixture(scope="module")
def fitted() -> pv.VAE:
    """The linear model as it is, with a trained guide."""
    model = linear_model().requires_grad_(False)
    torch.manual_seed(0)
    vae = pv.VAE(model, guide())
    pv.fit(
        vae,
        data(256),
        epochs=60,
        batch_size=64,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 60),
        seed=0,
        progress=False,
    )
    return vae


def test_joint_density_is_written_out():
    """Log p(x, z) at the guide's draws, step by step with scipy: no Monte Carlo error."""
    torch.manual_seed(0)
    model = linear_model()
    x, lengths = data()
    vae = pv.VAE(model, guide(), example=(x, lengths))
    with vae.evaluating():
        terms = row_terms(vae, Batch((x, lengths)), 3)
    z = terms.latents["z"].double().numpy()
    A, b, C, d = matrices(model)
    for s in range(3):
        for row, length in enumerate(lengths.tolist()):
            prior = likelihood = 0.0
            for t in range(length):
                before = (np.zeros(K), 1.0) if t == 0 else (A @ z[s, row, t - 1] + b, TRANSITION_SD**2)
                prior += multivariate_normal.logpdf(z[s, row, t], before[0], before[1] * np.eye(K))
                likelihood += multivariate_normal.logpdf(
                    x[row, t].double(), C @ z[s, row, t] + d, EMISSION_SD**2 * np.eye(D)
                )
            assert abs(terms.log_prior[s, row].item() - prior) < 1e-4
            assert abs(terms.log_likelihood[s, row].item() - likelihood) < 1e-4
            assert not z[s, row, length:].any()


def test_log_marginal_is_the_kalman_filters(fitted):
    x, lengths = data()
    exact = torch.tensor(
        [kalman_log_density(r[:n].double().numpy(), fitted.model) for r, n in zip(x, lengths, strict=True)]
    )
    result = pv.log_marginal(fitted, x, lengths, num_samples=5000, seed=1)
    assert float(result.std_error.max()) < 0.05
    assert float(result.khat.max()) < 0.7
    assert bool(((result.log_marginal - exact).abs() < 5 * result.std_error).all())
    bound = pv.elbo(fitted, x, lengths, num_samples=200, seed=1)
    assert bool((bound.elbo < exact + 5 * bound.std_error).all())
    assert float((exact - bound.elbo).mean()) < 0.5


def weights(vae, *arguments):
    """Log weights from the same noise, whatever rows hold."""
    with vae.evaluating(), fixed_seed(0, vae.device):
        return row_terms(vae, Batch.of(arguments), 5).log_weights


def test_padding_is_never_read(fitted):
    x, lengths = data()
    garbage = x.where((torch.arange(T) < lengths.unsqueeze(1)).unsqueeze(-1), 1e6)
    assert torch.equal(weights(fitted, x, lengths), weights(fitted, garbage, lengths))
    torch.manual_seed(0)
    encoded = fitted.encode(x, lengths)
    torch.manual_seed(0)
    assert torch.equal(encoded, fitted.encode(garbage, lengths))


def test_rows_stand_alone(fitted):
    """A row's densities do not depend on what else is in the batch, nor on how far it is padded."""
    x, lengths = data()
    with fitted.evaluating():
        torch.manual_seed(0)
        together = row_terms(fitted, Batch((x, lengths)), 2)
        chosen = torch.tensor([6, 2])
        latents = {"z": together.latents["z"][:, chosen]}
        apart = run_model(fitted, Batch((x[chosen], lengths[chosen])), latents, 2)
        shorter = {"z": latents["z"][:, 1:, :3]}
        cut = run_model(fitted, Batch((x[chosen][1:, :3], lengths[chosen][1:])), shorter, 2)
    torch.testing.assert_close(apart["x"].log_prob, together.log_likelihood[:, chosen])
    torch.testing.assert_close(apart["z"].log_prob, together.log_prior[:, chosen])
    torch.testing.assert_close(cut["z"].log_prob, together.log_prior[:, [2]])
    torch.testing.assert_close(cut["x"].log_prob, together.log_likelihood[:, [2]])


def test_draws_follow_the_model(fitted):
    """Mean and covariance of the last step's observation, unrolled; nothing beyond the lengths."""
    n = 20_000
    torch.manual_seed(0)
    lengths = torch.tensor([5, 3]).repeat(n)
    drawn = fitted.generate(2 * n, lengths)
    assert drawn.shape == (2 * n, T, D)
    assert not drawn[1::2, 3:].any()
    A, b, C, d = matrices(fitted.model)
    mean, covariance = np.zeros(K), np.eye(K)
    for _ in range(T - 1):
        mean, covariance = A @ mean + b, A @ covariance @ A.T + TRANSITION_SD**2 * np.eye(K)
    last = drawn[::2, -1].double().numpy()
    expected = C @ covariance @ C.T + EMISSION_SD**2 * np.eye(D)
    assert (np.abs(last.mean(0) - C @ mean - d) < 5 * np.sqrt(expected.diagonal() / n)).all()
    centred = last - C @ mean - d
    products = centred[:, :, None] * centred[:, None, :]
    assert (np.abs(products.mean(0) - expected) < 5 * products.std(0) / np.sqrt(n)).all()


def deep_vae() -> pv.VAE:
    transition = Normal(GatedTransition(K, hidden_size=8))
    model = DeepMarkovModel(StandardNormal(K), transition, Bernoulli(MLP(K, D, hidden=[8])))
    network = GRU(D, 8, future=True)
    step = DiagonalNormal(MLP(K + network.out_features, (K, K)))
    return pv.VAE(model, AmortizedGuide(MarkovPosterior(network, step, K)))


def test_the_whole_of_pyrovae(tmp_path):
    """Binary frames that stay as they begin: fit, evaluate, generate, save and load."""
    torch.manual_seed(0)
    x = (torch.rand(128, 1, 1) > 0.5).float().repeat(1, T, D)
    lengths = LENGTHS.repeat(16)
    vae = deep_vae()
    before = pv.elbo(vae, x, lengths, seed=0).elbo.mean()
    started = {n: p.detach().clone() for n, p in vae.named_parameters()}
    pv.fit(
        vae,
        (x, lengths),
        epochs=25,
        batch_size=32,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        seed=0,
        progress=False,
    )
    after = pv.elbo(vae, x, lengths, seed=0).elbo.mean()
    # Frames that are independent given nothing pay log 2 for each entry.
    assert before + 2 < after
    assert after > -np.log(2) * D * float(lengths.double().mean()) + 2
    unmoved = [n for n, p in vae.named_parameters() if torch.equal(p.detach(), started[n])]
    assert not unmoved
    assert vae.layout.guide_broadcasts
    assert vae.layout.model_broadcasts
    assert vae.encode(x, lengths).shape == (128, T, K)
    assert vae.sample_posterior(x, lengths, num_samples=3)["z"].shape == (3, 128, T, K)
    reconstructed = vae.reconstruct(x, lengths)
    assert reconstructed.shape == x.shape
    assert not reconstructed[1, 1:].any()
    figures = pv.log_marginal(vae, x, lengths, num_samples=20, seed=0).log_marginal
    vae.save(tmp_path / "vae.safetensors")
    other = deep_vae().load(tmp_path / "vae.safetensors")
    assert torch.equal(pv.log_marginal(other, x, lengths, num_samples=20, seed=0).log_marginal, figures)
    torch.manual_seed(0)
    drawn = vae.generate(128, lengths)
    torch.manual_seed(0)
    assert torch.equal(other.generate(128, lengths), drawn)
    assert not drawn[lengths == 1, 1:].any()


def test_without_lengths_all_are_full():
    x, _ = data()
    vae = pv.VAE(linear_model(), guide())
    full = torch.full((len(x),), T)
    with_lengths = weights(pv.VAE(vae.model, vae.guide, example=(x, full)), x, full)
    vae.rows(x)
    torch.testing.assert_close(weights(vae, x), with_lengths)


def test_lengths_beyond_the_padding_are_named():
    x, lengths = data()
    lengths[4] = T + 1
    with pytest.raises(ValueError, match=r"row 4 of the batch has length 6: expected 1 to 5.*Drop rows"):
        pv.elbo(pv.VAE(linear_model(), guide()), x, lengths)


def test_sequences_padded_to_another_length_are_taken(tmp_path):
    """Longer and shorter ones than the first, by all verbs, after training and from a file."""
    x, lengths = data(16)
    longer = torch.cat([x, torch.full((16, 3, D), 7.0)], 1)
    torch.manual_seed(0)
    vae = pv.VAE(linear_model(), guide(), example=(x, lengths))
    method = pv.SequentialMonteCarlo(num_runs=2)
    for score in (pv.elbo, pv.log_marginal, lambda *a, **k: pv.log_marginal(*a, method=method, **k)):
        there = score(vae, longer, lengths, num_samples=4, seed=0)
        back = score(vae, x, lengths, num_samples=4, seed=0)
        assert there.elbo.isfinite().all()
        assert there.elbo.shape == back.elbo.shape
    assert vae.reconstruct(longer, lengths).shape == longer.shape
    assert vae.sample_posterior(longer, lengths, num_samples=2)["z"].shape == (2, 16, 8, K)
    pv.fit(vae, (x, lengths), validation=(longer, lengths), epochs=2, batch_size=8, seed=0, progress=False)
    vae.save(tmp_path / "vae.safetensors")
    other = pv.VAE(linear_model(), guide()).load(tmp_path / "vae.safetensors")
    assert torch.equal(*(pv.elbo(v, longer, lengths, seed=0).elbo for v in (vae, other)))
    with pytest.raises(
        ValueError, match=r"x has rows of shape \[5, 2\]: this VAE takes rows of shape \[8, 3\]"
    ):
        pv.elbo(vae, x[..., :2], lengths)
    flat = pv.VAE(*MODELS["LinearGaussian"].make(), example=torch.zeros(5, D))
    with pytest.raises(ValueError, match=r"x has rows of shape \[2\]: this VAE takes rows of shape \[3\]"):
        pv.elbo(flat, torch.zeros(5, 2))


def test_controls_push_the_chain():
    """Under controls the chain's moves are those of (z, u), in densities and in draws."""
    torch.manual_seed(0)
    transition = Normal(MLP(K + 1, K), scale=0.1)
    model = DeepMarkovModel(StandardNormal(K), transition, Normal(MLP(K, D), scale=0.1))
    network = GRU(D + 1, 8, future=True)
    posterior = MarkovPosterior(network, DiagonalNormal(MLP(K + network.out_features, (K, K))), K)
    x, lengths = data()
    u = torch.randn(len(x), T, 1)
    vae = pv.VAE(model, AmortizedGuide(posterior), example=(x, lengths, u))
    with vae.evaluating():
        terms = row_terms(vae, Batch((x, lengths, u)), 3)
    z = terms.latents["z"]
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, :, 0]).sum(-1)
    for t in range(1, T):
        moved = transition.network(z[:, :, t - 1], u[:, t].expand(3, -1, -1))
        step = torch.distributions.Normal(moved, 0.1).log_prob(z[:, :, t]).sum(-1)
        expected = expected + torch.where(t < lengths, step, 0.0)
    torch.testing.assert_close(terms.log_prior, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"inputs of a chain of 5 steps have shape \[7, 4, 1\]"):
        pv.VAE(model, AmortizedGuide(posterior)).rows(x, lengths, u[:, :4])


def test_absent_entries_of_steps_are_integrated_out():
    """A NaN takes its entry out of the density and nothing more; the guide reads zeros and what is present."""
    torch.manual_seed(0)
    model, network = linear_model(), GRU(D, 8, future=True, missing=True)
    posterior = MarkovPosterior(network, DiagonalNormal(MLP(K + network.out_features, (K, K))), K)
    x, lengths = data()
    holes = x.clone()
    holes[0, 1, 2] = holes[3, 0] = torch.nan
    vae = pv.VAE(model, AmortizedGuide(posterior), example=(holes, lengths))
    with vae.evaluating():
        terms = row_terms(vae, Batch((holes, lengths), absent=True), 3)
        full = model.emission(terms.latents["z"]).base_dist.log_prob(x)
    real = (torch.arange(T) < lengths[:, None])[..., None] & ~holes.isnan()
    torch.testing.assert_close(terms.log_likelihood, torch.where(real, full, 0.0).sum((-1, -2)))
    assert vae.encode(holes, lengths).isfinite().all()
    garbage = holes.where((torch.arange(T) < lengths.unsqueeze(1)).unsqueeze(-1), torch.nan)
    assert torch.equal(*(weights(vae, v, lengths) for v in (holes, garbage)))
    with pytest.raises(ValueError, match="which a network turns into NaN.*missing=True"):
        pv.VAE(linear_model(), guide(), example=(x, lengths)).rows(holes, lengths)
