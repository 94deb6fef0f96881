"""Sequences with an autoregressive decoder: normalized, drawn from as scored, exact under quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import AutoregressiveCategorical, LatentVariableModel, StandardNormal
from pyrovae.nn import AutoregressiveGRU, SequenceEncoder
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed

V, T = 3, 3
ALL = torch.tensor(list(itertools.product(range(V), repeat=T)))


def sharp_likelihood(latent_size: int = 2) -> AutoregressiveCategorical:
    """Far from uniform, so that a wrong order or a wrong condition shows."""
    torch.manual_seed(0)
    likelihood = AutoregressiveCategorical(AutoregressiveGRU(latent_size, V, hidden_size=8), T)
    with torch.no_grad():
        for p in likelihood.parameters():
            p.mul_(3.0)
    return likelihood.requires_grad_(False)


def sequence_vae(likelihood: AutoregressiveCategorical) -> pv.VAE:
    torch.manual_seed(1)
    latent_size = likelihood.network.in_features
    network = SequenceEncoder(4, (latent_size,) * 2, hidden_size=8, embedding=nn.Embedding(V, 4))
    model = LatentVariableModel(StandardNormal(latent_size), likelihood)
    return pv.VAE(model, AmortizedGuide(DiagonalNormal(network)))


def data(num_rows: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one repeated token."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(V, (num_rows, 1), generator=generator).repeat(1, T)
    return x, torch.randint(1, T + 1, (num_rows,), generator=generator)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_density_sums_to_one(length):
    likelihood, z = sharp_likelihood(), torch.randn(5, 2)
    x = ALL[ALL[:, length:].sum(1) == 0]
    assert len(x) == V**length
    density = likelihood(z.unsqueeze(1), torch.full((len(x),), length)).log_prob(x).exp()
    torch.testing.assert_close(density.sum(1), torch.ones(5))


def test_draws_have_the_frequencies_of_the_density():
    likelihood, z, n = sharp_likelihood(), torch.tensor([[1.0, -0.5], [-1.0, 2.0]]), 20_000
    lengths = torch.tensor([3, 2])
    torch.manual_seed(0)
    draws = likelihood(z, lengths).sample((n,))
    for row, length in enumerate(lengths.tolist()):
        x = ALL[ALL[:, length:].sum(1) == 0]
        probability = likelihood(z[row], lengths[row]).log_prob(x).exp()
        counts = (draws[:, row].unsqueeze(1) == x).all(-1).sum(0)
        assert int(counts.sum()) == n
        error = (probability * (1 - probability) * n).sqrt()
        assert bool(((counts - n * probability).abs() < 5 * error + 1).all())
        assert float(probability.max()) > 3 * float(probability.min())


def test_samples_of_rows_are_rows():
    """[S,B] latents against one row of one sample at a time."""
    torch.manual_seed(0)
    likelihood, z = sharp_likelihood(), torch.randn(4, 5, 2)
    x, lengths = ALL[[3, 9, 11, 20, 26]], torch.tensor([3, 1, 2, 3, 2])
    log_probs = likelihood(z, lengths).log_prob(x)
    assert log_probs.shape == (4, 5)
    for s, b in itertools.product(range(4), range(5)):
        torch.testing.assert_close(log_probs[s, b], likelihood(z[s, b], lengths[b]).log_prob(x[b]))


def test_log_marginal_is_the_integral_over_z():
    likelihood = sharp_likelihood(latent_size=1)
    vae = sequence_vae(likelihood)
    x, lengths = data(20)
    grid = torch.linspace(-8, 8, 2001)
    log_joint = likelihood(grid[:, None, None], lengths).log_prob(x).double()
    log_joint += torch.distributions.Normal(0.0, 1.0).log_prob(grid)[:, None]
    exact = log_joint.logsumexp(0) + np.log(16 / 2000)
    result = pv.log_marginal(vae, x, lengths, num_samples=4000, seed=0)
    assert float(result.std_error.max()) < 0.1
    assert bool(((result.log_marginal - exact).abs() < 5 * result.std_error).all())
    assert bool((pv.elbo(vae, x, lengths, num_samples=50, seed=0).elbo < exact + 0.1).all())


def test_the_whole_of_pyrovae(tmp_path):
    likelihood = AutoregressiveCategorical(AutoregressiveGRU(2, V, hidden_size=16), T)
    vae = sequence_vae(likelihood)
    x, lengths = data(200)
    before = pv.elbo(vae, x, lengths, seed=0).elbo.mean()
    history = pv.fit(
        vae,
        (x, lengths),
        epochs=15,
        batch_size=50,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        seed=0,
        progress=False,
    )
    # The first token is one of three at random and decides the rest: no model beats -log 3.
    assert before + 0.5 < pv.elbo(vae, x, lengths, seed=0).elbo.mean() < -np.log(3) + 0.15
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]
    assert vae.layout.guide_broadcasts
    assert vae.layout.model_broadcasts

    torch.manual_seed(0)
    drawn = vae.generate(len(x), lengths)
    beyond = torch.arange(T) >= lengths.unsqueeze(1)
    assert drawn.dtype == torch.int64
    assert not drawn[beyond].any()
    repeats = (drawn == drawn[:, :1])[~beyond].double().mean()
    assert float(repeats) > 0.9

    garbage = x.where(~beyond, -7)
    found = []
    for rows in (x, garbage):
        with vae.evaluating(), fixed_seed(0, vae.device):
            found.append(row_terms(vae, Batch.of((rows, lengths)), 5).log_weights)
    assert torch.equal(*found)
    figures = pv.log_marginal(vae, x, lengths, num_samples=20, seed=0).log_marginal

    vae.save(tmp_path / "vae.safetensors")
    other = sequence_vae(AutoregressiveCategorical(AutoregressiveGRU(2, V, hidden_size=16), T))
    other.load(tmp_path / "vae.safetensors")
    assert torch.equal(pv.log_marginal(other, x, lengths, num_samples=20, seed=0).log_marginal, figures)
    with pytest.raises(ValueError, match=r"'x' has no mean: CategoricalSequence .* sample_likelihood"):
        vae.reconstruct(x, lengths)


def test_training_on_garbage_padding_is_training_without():
    x, lengths = data(40)
    garbage = x.where(torch.arange(T) < lengths.unsqueeze(1), V + 5)
    trained = []
    for rows in (x, garbage):
        torch.manual_seed(0)
        vae = sequence_vae(AutoregressiveCategorical(AutoregressiveGRU(2, V, hidden_size=8), T))
        pv.fit(vae, (rows, lengths), epochs=2, seed=0, progress=False)
        trained.append(vae)
    for a, b in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_binary_pixels_are_tokens():
    torch.manual_seed(0)
    likelihood = AutoregressiveCategorical(AutoregressiveGRU(2, 2, hidden_size=8), 4)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    density = likelihood(torch.randn(3, 1, 2)).log_prob(images).exp()
    torch.testing.assert_close(density.sum(1), torch.ones(3))
    with pytest.raises(ValueError, match="within the support"):
        likelihood(torch.randn(16, 2)).log_prob(images + 0.5)


class TestBadInput:
    def test_rows_of_another_length(self):
        vae = sequence_vae(sharp_likelihood())
        with pytest.raises(ValueError, match=r"event shape \(3,\).*shape \(4,\)"):
            pv.elbo(vae, torch.zeros(9, 4, dtype=torch.long), torch.ones(9, dtype=torch.long))

    def test_tokens_beyond_the_vocabulary(self):
        vae = sequence_vae(sharp_likelihood())
        x, lengths = data(12)
        pv.elbo(vae, x, lengths)
        x[8, 0] = V
        with pytest.raises(ValueError, match=r"row 8 of the data lies outside the support of site 'x'"):
            pv.elbo(vae, x, lengths)

    def test_lengths_beyond_the_padding(self):
        vae = sequence_vae(sharp_likelihood())
        x, lengths = data(12)
        lengths[3] = T + 1
        with pytest.raises(ValueError, match=r"row 3 of the batch has length 4: expected 1 to 3"):
            pv.elbo(vae, x, lengths)
        with pytest.raises(ValueError, match=r"num_steps is 0"):
            AutoregressiveCategorical(AutoregressiveGRU(2, V, hidden_size=8), 0)
