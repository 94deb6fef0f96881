"""Where importance weights come from: every source against exact truth, within its own error bars."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.evidence.memory import Footprint, Limits, PeakMemory
from pyrovae.models.sequences import PaddedSequence
from tests.oracles import TRUTHS, ExactGuide, LinearGaussian, N, NarrowGuide, WideGuide, exact_pair

SOURCES = {
    "guide": pv.ImportanceSampling(),
    "mixture": pv.ImportanceSampling(prior_share=0.2),
    "prior": pv.ImportanceSampling(prior_share=1),
}


@pytest.mark.parametrize("S", [10, 1000])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("truth", TRUTHS)
def test_every_source_covers_the_truth_at_its_rate(truth, source, S):
    vae, x, exact = exact_pair(truth)
    results = [pv.log_marginal(vae, x, num_samples=S, method=SOURCES[source], seed=seed) for seed in (3, 4)]
    covered = [(r.log_marginal - exact).abs() < 1.96 * r.std_error for r in results]
    # 800 repetitions, whose share is known within 0.011: at least 0.90 of them, less two such errors.
    assert 0.88 < float(torch.cat(covered).double().mean()) < 0.99
    result = results[0]
    # The bias, about -var/2, is taken out to see the mean to its own error (5 of them).
    excess = result.log_marginal - exact + result.std_error**2 / 2
    if S == 1000:
        assert abs(float(excess.mean())) < 5 * float(excess.std()) / math.sqrt(N)


@pytest.mark.parametrize("source", SOURCES)
def test_weights_are_unbiased_and_the_logarithm_errs_in_proportion_to_one_over_s(source):
    model = LinearGaussian(scale=1.5)
    vae, x = pv.VAE(model, WideGuide(model)), model.data(1).expand(4000, -1)
    exact, bias = model.evidence().log_prob(x[:1]), {}
    for S in (5, 20):
        result = pv.log_marginal(vae, x, num_samples=S, method=SOURCES[source], seed=S)
        ratio = (result.log_marginal - exact).exp()
        assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(len(x))
        bias[S] = float((result.log_marginal - exact).mean())
    assert bias[5] < bias[20] < 0
    assert bias[5] / bias[20] == pytest.approx(4, rel=0.4)


def test_a_mixture_defends_against_a_guide_that_is_too_narrow():
    model = LinearGaussian(scale=1.5)
    x = model.data(100)
    vae, exact = pv.VAE(model, NarrowGuide(model)), model.evidence().log_prob(x)
    plain = pv.log_marginal(vae, x, num_samples=1000, seed=0)
    defended = pv.log_marginal(vae, x, num_samples=1000, method=SOURCES["mixture"], seed=0)
    assert plain.share_good < 0.5
    assert defended.share_good > 0.68  # 0.77 over seeds, give or take 0.042 for 100 rows
    assert float((plain.log_marginal - exact).abs().mean()) > 5 * float(
        (defended.log_marginal - exact).abs().mean()
    )


def test_a_mixture_of_an_exact_guide_errs_by_the_priors_draws_alone():
    # Stratified: between the strata nothing varies, which independent draws of the mixture would pay for.
    model = LinearGaussian(K=2, D=40)
    vae, x = pv.VAE(model, ExactGuide(model)), model.data(50)
    result = pv.log_marginal(vae, x, num_samples=1000, method=pv.ImportanceSampling(0.1), seed=0)
    assert float(result.std_error.max()) < 0.005  # sqrt(0.1 / 0.9 / 1000) = 0.0105 from independent draws
    torch.testing.assert_close(
        result.log_marginal, model.evidence().log_prob(x), atol=5 * float(result.std_error.max()), rtol=0
    )


def test_from_the_prior_weights_are_likelihoods():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(3)
    result = pv.log_marginal(vae, x, num_samples=50000, method=SOURCES["prior"], seed=0)
    # The mean log weight is E_p(z)[log p(x|z)] in closed form.
    squares = ((x - model.b) ** 2).sum(-1) + (model.W**2).sum()
    expected = -0.5 * squares / 0.25 - 3 * math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(result.elbo, expected.detach(), rtol=0.05, atol=0)


def test_prior_draws_follow_the_observations_that_latents_depend_on():
    """x1 | z1, then z2 | x1: the prior of z2 is that at the data's x1."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            first = pyro.sample("x1", dist.Normal(z1, 1.0), obs=x[..., 0])
            z2 = pyro.sample("z2", dist.Normal(3 * first, 1.0))
            pyro.sample("x2", dist.Normal(z2, 1.0), obs=x[..., 1])

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z1", dist.Normal(0.5 * x[..., 0], 0.8))
            pyro.sample("z2", dist.Normal(1.5 * x[..., 0] + 0.5 * x[..., 1], 0.8))

    x = torch.tensor([[1.0, 3.5], [-1.0, -2.0], [0.3, 2.0]])
    exact = (
        torch.distributions.Normal(0.0, 2**0.5).log_prob(x[:, 0])
        + torch.distributions.Normal(3 * x[:, 0], 2**0.5).log_prob(x[:, 1])
    ).double()
    for source in SOURCES.values():
        result = pv.log_marginal(pv.VAE(model, guide), x, num_samples=4000, method=source, seed=0)
        assert bool(((result.log_marginal - exact).abs() < 4.5 * result.std_error).all())


def test_a_refined_guide_is_a_guide():
    model = LinearGaussian()
    x = model.data(60)
    vae, exact = pv.VAE(model, NarrowGuide(model)), model.evidence().log_prob(x)
    refined = pv.refine(vae, x, num_steps=300, full_covariance=True, num_samples=100, seed=0).vae
    for source in (SOURCES["guide"], SOURCES["mixture"]):
        result = pv.log_marginal(refined, x, num_samples=300, method=source, seed=1)
        assert result.share_good > 0.95
        assert float((result.log_marginal - exact).abs().mean()) < 0.05
    assert float((pv.log_marginal(vae, x, num_samples=300).log_marginal - exact).abs().mean()) > 0.2


@pytest.mark.parametrize("source", SOURCES)
def test_discrete_latents_that_the_guide_draws(source):
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            pyro.sample("x", dist.Normal(k.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(3).expand(len(x), 3)))

    x = torch.tensor([-1.0, 0.5, 3.0])
    shares = torch.tensor([0.2, 0.5, 0.3]).log()
    exact = (torch.distributions.Normal(torch.arange(3.0), 1.0).log_prob(x[:, None]) + shares).logsumexp(1)
    result = pv.log_marginal(pv.VAE(model, guide), x, num_samples=5000, method=SOURCES[source], seed=0)
    assert bool(((result.log_marginal - exact).abs() < 4.5 * result.std_error).all())


@pytest.mark.parametrize("source", SOURCES)
def test_figures_do_not_depend_on_the_budget_which_holds(source):
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 500, [20]))
    )
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(500, (2, 2)))))
    x = torch.bernoulli(torch.full((300, 500), 0.3))
    vae.rows(x)
    given = {"num_samples": 100, "method": SOURCES[source], "seed": 5}
    reference = pv.log_marginal(vae, x, **given)
    with pytest.raises(
        ValueError, match=r"memory_budget is 1000000 bytes: the draws of one block of rows"
    ) as told:
        pv.log_marginal(vae, x, memory_budget=10**6, **given)
    least = int(re.search(r"take about (\d+)", str(told.value))[1])
    for budget, limits in ((21, {}), (23, {}), (21, {"batch_size": 1000, "chunk_size": 10**6})):
        budget = least + 2**budget
        with PeakMemory() as memory:
            other = pv.log_marginal(vae, x, memory_budget=budget, **limits, **given)
        np.testing.assert_allclose(reference.to_frame(), other.to_frame(), rtol=1e-3, atol=1e-3)
        assert memory.peak < budget


def test_batch_and_chunk_sizes_are_upper_limits_within_the_budget():
    few, many = Footprint(by_row=0, by_draw=1000), 10**9
    device = torch.device("cpu")

    def pieces(memory, batch_size=None, chunk_size=None):
        found = Limits(memory, batch_size, chunk_size).pieces(few, 0, 256, device)
        return found.rows, found.samples

    assert pieces(many) == (256, 64)  # 2**24 bytes are as fast as more
    assert pieces(many, 7, 10) == (7, 10)
    assert pieces(many, 7) == (7, 2048)
    assert pieces(many, 1000, 1000) == (256, 1000)
    assert pieces(10**6, 1000, 1000) == (256, 3)  # 1000 draws fit
    assert pieces(10**5, None, 1000) == (100, 1)
    assert pieces(10**6, 10, 1000) == (10, 100)


def test_draws_of_the_prior_cannot_be_cut():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(20)
    for source in (SOURCES["prior"], SOURCES["mixture"]):
        for limit in ({"batch_size": 19}, {"chunk_size": 7}):
            with pytest.raises(
                ValueError, match=r"_size is \d+: draws of the prior are scored as they are drawn"
            ):
                pv.log_marginal(vae, x, num_samples=50, method=source, **limit)
        pv.log_marginal(vae, x, num_samples=50, method=source, batch_size=20, chunk_size=50)


def test_memory_does_not_grow_with_samples_or_rows():
    model = LinearGaussian()
    vae = pv.VAE(model, WideGuide(model))
    peaks = []
    for num_rows, S in ((256, 10000), (256, 30000), (600, 10000)):
        x = model.data(num_rows)
        vae.rows(x)
        with PeakMemory() as memory:
            pv.log_marginal(vae, x, num_samples=S, seed=0)
        peaks.append(memory.peak)
    assert max(peaks) < 1.3 * min(peaks)


def test_refusals():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(5)
    with pytest.raises(ValueError, match="prior_share is 1.5: expected a number from 0 to 1"):
        pv.ImportanceSampling(1.5)
    with pytest.raises(ValueError, match="num_samples is 3: a mixture .* at least two draws of each"):
        pv.log_marginal(vae, x, num_samples=3, method=SOURCES["mixture"])
    with pytest.raises(TypeError, match="method is 'prior': expected \"auto\", or an object such as"):
        pv.log_marginal(vae, x, method="prior")
    with pytest.raises(ValueError, match="memory_budget is 10 bytes: the draws of one block of rows"):
        pv.log_marginal(vae, x, memory_budget=10)

    def with_auxiliary(x):
        exact = model.posterior(x)
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", exact, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))

    auxiliary = pv.VAE(model, with_auxiliary)
    assert float(pv.log_marginal(auxiliary, x, num_samples=5).std_error.max()) < 1e-6
    with pytest.raises(ValueError, match="auxiliary sites u: its density at draws of the prior"):
        pv.log_marginal(auxiliary, x, method=SOURCES["mixture"])

    def bounded(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Uniform(-torch.ones(len(x), 2).double(), 1.0).to_event(1))

    with pytest.raises(ValueError, match="the guide cannot score draws of the prior"):
        pv.log_marginal(pv.VAE(model, bounded), x, method=SOURCES["mixture"])


def test_a_latent_that_all_rows_share_is_averaged_over():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    expected = dist.Normal(0.0, 3**0.5).log_prob(torch.zeros(4)).double()
    for source in SOURCES.values():
        found = pv.log_marginal(
            pv.VAE(model, guide), torch.zeros(4), method=source, num_samples=40, row_samples=20, seed=0
        )
        assert bool(((found.log_marginal - expected).abs() < 4.5 * found.std_error).all())


def test_bits_per_dimension_of_discrete_data_only():
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, 6)))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2)))))
    for parameter in vae.parameters():
        torch.nn.init.zeros_(parameter)  # every bit of x is a fair coin
    result = pv.log_marginal(vae, torch.ones(3, 6), num_samples=10, seed=0)
    assert result.dimensions.tolist() == [6, 6, 6]
    torch.testing.assert_close(
        result.bits_per_dimension, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert result.total[0] == pytest.approx(-18 * math.log(2))

    linear = LinearGaussian()
    density = pv.log_marginal(pv.VAE(linear, WideGuide(linear)), linear.data(3), num_samples=10)
    with pytest.raises(ValueError, match=r"'x' \(Normal\) has a density, whose value depends on the unit"):
        _ = density.bits_per_dimension

    def masked(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=x >= 0):
                pyro.sample("x", dist.Bernoulli(logits=z), obs=x.clamp(min=0))

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    partly = pv.log_marginal(pv.VAE(masked, guide), torch.tensor([0.0, -1.0, 1.0]), num_samples=10)
    assert partly.dimensions.tolist() == [1, 0, 1]
    assert bool(partly.bits_per_dimension[1].isnan())
    torch.testing.assert_close(partly.bits_per_dimension[::2], -partly.log_marginal[::2] / math.log(2))


def test_bits_are_of_the_dimensions_that_each_row_has():
    """Masks inside a distribution, lengths of sequences, one-hot vectors: fair coins and dice throughout."""

    def per_row(observe, *data):
        def guide(*data):
            with pyro.plate("rows", len(data[0])):
                pyro.sample("z", dist.Normal(torch.zeros(len(data[0])), 1.0))

        def model(*data):
            with pyro.plate("rows", len(data[0])):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                observe(*data)

        result = pv.log_marginal(pv.VAE(model, guide), *data, num_samples=10, seed=0)
        return result.dimensions.tolist(), result.bits_per_dimension.tolist()

    def missing(x, seen):
        entries = dist.Bernoulli(torch.full(x.shape, 0.5)).mask(seen)
        pyro.sample("x", entries.to_event(1), obs=x)

    def sequences(x, lengths):
        steps = dist.Categorical(torch.full((*x.shape, 4), 0.25))
        pyro.sample("x", PaddedSequence(steps, lengths), obs=x)

    def dice(x):
        pyro.sample("x", dist.OneHotCategorical(torch.full((*x.shape[:-1], 8), 1 / 8)).to_event(1), obs=x)

    seen = torch.tensor([[True, True, True], [True, False, False]])
    assert per_row(missing, torch.ones(2, 3), seen) == ([3, 1], pytest.approx([1.0, 1.0]))
    lengths = torch.tensor([5, 1, 3])
    assert per_row(sequences, torch.ones(3, 5), lengths) == ([5, 1, 3], pytest.approx([2.0] * 3))
    rolls = torch.eye(8)[torch.tensor([[0, 3], [7, 7]])]
    assert per_row(dice, rolls) == ([2, 2], pytest.approx([3.0, 3.0]))


def test_the_total_adds_the_rows_errors():
    model = LinearGaussian()
    result = pv.log_marginal(pv.VAE(model, WideGuide(model)), model.data(50), num_samples=100, seed=0)
    total, error = result.total
    assert total == pytest.approx(float(result.log_marginal.sum()))
    # A row's error holds Student's t for 99 degrees of freedom, 1.984 for 1.960; that of a sum does not.
    assert error == pytest.approx(float((result.std_error**2).sum()) ** 0.5 / (1.98422 / 1.95996), rel=1e-5)
    assert result.total_bias == pytest.approx(-(error**2) / 2, rel=0.05)
    assert "a single sample has no error" in str(
        pv.log_marginal(pv.VAE(model, WideGuide(model)), model.data(5), num_samples=1)
    )


@pytest.mark.parametrize("S", [4, 10])
@pytest.mark.parametrize("source", SOURCES)
def test_the_total_errs_low_by_what_it_says(source, S):
    # 10,000 rows: the bias, which is stated, is many times the error, which averages out.
    N, model = 10_000, LinearGaussian(scale=1.5)
    x = model.data(N)
    vae, truth = pv.VAE(model, WideGuide(model)), model.evidence().log_prob(x)
    result = pv.log_marginal(vae, x, num_samples=S, method=SOURCES[source], seed=0)
    total, error = result.total
    offset = total - float(truth.sum())
    assert offset < -6 * error  # as if there were no bias
    assert abs(offset - result.total_bias) < 0.25 * abs(result.total_bias) + 4 * error
    assert error == pytest.approx(
        float((result.log_marginal - truth).std()) * N**0.5, rel=0.2 if S == 4 else 0.1
    )
    assert f"errs low by at least {-result.total_bias / N:.3f}" in str(result)
