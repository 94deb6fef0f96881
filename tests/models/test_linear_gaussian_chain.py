"""The linear-Gaussian chain: all its figures are those of one multivariate normal, unrolled."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae.guides import ExactGuide
from pyrovae.models import LinearGaussianChain
from tests.chains import D, K, chain_model, chain_rows, with_holes

T = 5
LENGTHS = torch.tensor([5, 4, 1, 3])


def unrolled(model):
    """Mean and covariance of (z_1..z_T, x_1..x_T), in float64, from the story alone."""
    A, b = model.transition_matrix.double(), model.transition_offset.double()
    W, mean = model.loading.double(), model.mean.double()
    first, later = model.initial_scale().double(), model.transition_scale().double()
    means, moves = [model.initial_mean.double()], [torch.zeros(K, T * K, dtype=torch.float64)]
    moves[0][:, :K] = first.diag()
    for t in range(1, T):
        means.append(A @ means[-1] + b)
        moves.append(A @ moves[-1])
        moves[-1][:, t * K : (t + 1) * K] += later.diag()
    z, move = torch.stack(means), torch.cat(moves)
    loading = torch.block_diag(*[W] * T)
    noise = torch.cat([torch.zeros(T * K), model.noise_scale().repeat(T) ** 2]).double().diag()
    both = torch.cat([move, loading @ move])
    return torch.cat([z.flatten(), (z @ W.T + mean).flatten()]), both @ both.T + noise


def conditional(model, x, present):
    """log p(x_present), and mean and covariance of z given it."""
    mean, covariance = unrolled(model)
    given = T * K + present.flatten().nonzero()[:, 0]
    value = x.double().flatten()[present.flatten()]
    joint = covariance[given][:, given]
    gain = torch.linalg.solve(joint, covariance[given][:, : T * K]).T
    log_prob = MultivariateNormal(mean[given], joint).log_prob(value)
    of_z = mean[: T * K] + gain @ (value - mean[given])
    return log_prob, of_z.reshape(T, K), covariance[: T * K, : T * K] - gain @ covariance[given][:, : T * K]


def rows():
    model = chain_model()
    x = with_holes(chain_rows(model, len(LENGTHS), T))
    return model, x, ~x.isnan() & (torch.arange(T) < LENGTHS[:, None])[..., None]


def test_evidence_and_smoother_are_those_of_the_joint_normal():
    model, x, present = rows()
    found, smoothed = model.log_marginal(x, LENGTHS), model.smoothed(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        log_prob, mean, covariance = conditional(model, x[row], present[row])
        torch.testing.assert_close(found[row].double(), log_prob, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(smoothed.mean[row].double(), mean, rtol=1e-4, atol=1e-5)
        blocks = torch.stack([covariance[t * K : (t + 1) * K, t * K : (t + 1) * K] for t in range(length)])
        own = smoothed.covariance_matrix[row, :length].double()
        torch.testing.assert_close(own, blocks, rtol=1e-4, atol=1e-5)


def test_the_filter_knows_the_past_alone():
    model, x, present = rows()
    filtered = model.filtered(x, LENGTHS)
    for row in range(len(LENGTHS)):
        for t in range(T):
            known = present[row] & (torch.arange(T) <= t)[:, None]
            if not known.any():
                continue
            _, mean, covariance = conditional(model, x[row], known)
            torch.testing.assert_close(filtered.mean[row, t].double(), mean[t], rtol=1e-4, atol=1e-5)
            block = covariance[t * K : (t + 1) * K, t * K : (t + 1) * K]
            own = filtered.covariance_matrix[row, t].double()
            torch.testing.assert_close(own, block, rtol=1e-4, atol=1e-5)


def test_the_posterior_is_exact_so_that_weights_do_not_vary():
    model, x, _ = rows()
    vae = pv.VAE(model, ExactGuide(model), example=(x, LENGTHS))
    result = pv.log_marginal(vae, x, LENGTHS, num_samples=7, seed=0)
    torch.testing.assert_close(
        result.log_marginal.float(), model.log_marginal(x, LENGTHS), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(result.elbo, result.log_marginal, rtol=1e-5, atol=1e-4)
    draws = vae.sample_posterior(x, LENGTHS, num_samples=4000, seed=0)["z"]
    exact = model.smoothed(x, LENGTHS)
    real = torch.arange(T) < LENGTHS[:, None]
    error = (draws.mean(0) - exact.mean).abs() / (exact.variance / len(draws)).sqrt()
    assert float(error[real].max()) < 5


def test_its_bound_has_the_gradient_of_the_evidence():
    model, x, _ = rows()
    model.requires_grad_(True)
    vae = pv.VAE(model, ExactGuide(model), example=(x, LENGTHS))
    expected = torch.autograd.grad(model.log_marginal(x, LENGTHS).sum(), list(model.parameters()))
    objective = pv.objectives.ELBO(2, analytic_kl=False)
    with vae.scope():
        loss = objective.evaluate(vae, vae.rows(x, LENGTHS).take(slice(None))).surrogate.sum()
    found = torch.autograd.grad(-loss, list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="latent_size is 0 and num_features 3: expected at least 1 each"):
        LinearGaussianChain(0, 3)
    with pytest.raises(ValueError, match="row 1 of the batch has length 9: expected 1 to 5"):
        LinearGaussianChain(K, D).log_marginal(torch.zeros(2, 5, D), torch.tensor([5, 9]))
