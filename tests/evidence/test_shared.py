"""Figures of VAEs with latents above their rows, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.evidence.predictive import SumsOverRows
from pyrovae.pair.running import row_terms
from pyrovae.pair.traces import sites_of
from tests.shared_models import (
    NOISE,
    SPREAD,
    evidence,
    exact_guide,
    hierarchy,
    posterior_of_mean,
    predictive,
)

torch.manual_seed(5)
TRAIN, TEST = 1.0 + 1.1 * torch.randn(30), 1.0 + 1.1 * torch.randn(60)


@pytest.fixture(scope="module")
def exact():
    return pv.VAE(hierarchy, exact_guide(TRAIN), example=TRAIN)


def test_the_elbo_of_an_exact_guide_is_the_evidence(exact):
    with exact.evaluating():
        for _ in range(3):  # whatever is drawn
            terms = row_terms(exact, Batch((TRAIN,)), 1)
            bound = terms.log_weights.double().sum() - terms.shared.rate
            assert float(bound) == pytest.approx(evidence(TRAIN), abs=1e-3)
    result = pv.elbo(exact, TRAIN, num_samples=50, seed=0)
    total, error = result.total
    assert abs(total - evidence(TRAIN)) < 4 * error
    assert error < 1.0  # rates of rows are divergences, which differ from draw to draw
    assert total == pytest.approx(float(result.elbo.sum()) - result.shared.rate, abs=1e-3)
    assert "given mean" in str(result)
    assert "mean cost" in str(result)
    torch.testing.assert_close(result.elbo, result.reconstruction - result.rate)


def test_the_rate_of_theta_is_its_divergence(exact):
    loc, scale = posterior_of_mean(TRAIN)
    result = pv.elbo(exact, TRAIN, num_samples=300, seed=0)
    expected = kl_divergence(Normal(loc, scale), Normal(0.0, 2.0))
    assert abs(result.shared.rate - float(expected)) < 4 * result.shared.rate_error


def test_the_predictive_density_of_new_rows(exact):
    result = pv.log_marginal(exact, TEST, num_samples=400, row_samples=4, seed=0)
    expected = predictive(TRAIN, TEST).double()
    assert abs(float((result.log_marginal - expected).mean())) < 0.01
    z = (result.log_marginal - expected) / result.std_error
    assert float(z.abs().max()) < 5
    assert "predictive density" in str(result)
    assert "nested: 400 draws of mean, 4" in str(result)


def looser_guide(x):
    """Rows too wide and theta of another scale: nested sampling is right for whatever q(theta) is."""
    pyro.sample("mean", dist.Normal(0.7, 0.4))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 1.0))


def test_errors_contain_both_levels_and_hold_for_sums():
    """Over repetitions, by row and of the sum over rows that share their draws; `benchmarks.shared` has more."""
    vae = pv.VAE(hierarchy, looser_guide, example=TEST)
    total = dist.Normal(0.7, math.sqrt(0.4**2 + SPREAD**2 + NOISE**2)).log_prob(TEST).double()
    by_row, of_sum, larger = [], [], []
    for seed in range(25):
        result = pv.log_marginal(vae, TEST, num_samples=50, row_samples=3, seed=seed)
        by_row.append(((result.log_marginal - total) / result.std_error).abs() < 1.96)
        value, error = result.total
        of_sum.append(abs(value - float(total.sum())) < 1.96 * error)
        larger.append(error / float(result.variance.sum().sqrt()))
    covered = torch.stack(by_row).double().mean(1)  # rows of one repetition share their draws
    assert abs(float(covered.mean()) - 0.95) < 3 * float(covered.std()) / 5
    assert sum(of_sum) >= 20, sum(of_sum)  # 25 * 0.95 less three standard deviations
    # Errors by row as if independent would be too small.
    assert min(larger) > 1


def test_the_error_of_a_sum_is_the_jackknife_over_draws_of_theta():
    log_densities = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).double()
    sums = SumsOverRows(20)
    for some in (slice(0, 3), slice(3, 7)):  # blocks of rows
        sums.add(log_densities[:, some])

    def estimate(some):
        return float((some.logsumexp(0) - math.log(len(some))).sum())

    without = [estimate(torch.cat([log_densities[:r], log_densities[r + 1 :]])) for r in range(20)]
    jackknife = math.sqrt(19 / 20 * sum((w - sum(without) / 20) ** 2 for w in without))
    assert sums.error == pytest.approx(2.093024 / 1.959964 * jackknife, rel=1e-5)  # Student's t of 19 degrees
    alone = SumsOverRows(1)
    alone.add(log_densities[:1])
    assert math.isnan(alone.error)


def narrow_guide(x):
    pyro.sample("mean", dist.Normal(0.9, 0.2))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.22))


def test_rows_too_narrow_are_told_of_and_mended_by_the_prior_among_their_draws():
    vae = pv.VAE(hierarchy, narrow_guide, example=TEST)
    expected = dist.Normal(0.9, math.sqrt(0.2**2 + SPREAD**2 + NOISE**2)).log_prob(TEST).double()
    poor = pv.log_marginal(vae, TEST, num_samples=50, row_samples=4, seed=0)
    assert poor.verdict == "poor"
    assert float((poor.log_marginal - expected).mean()) < -0.03
    found = pv.log_marginal(vae, TEST, num_samples=60, row_samples=20, method="auto", seed=0)
    assert "the guide's stage alone: a proposal of a row's own" in str(found)
    assert abs(float((found.log_marginal - expected).mean())) < 0.02
    assert abs(found.total[0] - float(expected.sum())) < 4 * found.total[1]
    with pytest.raises(ValueError, match="row_samples is 3: draws of guide and prior are mixed"):
        pv.log_marginal(vae, TEST, num_samples=50, row_samples=3, method="auto")


def test_methods_are_of_rows_given_theta(exact):
    expected = predictive(TRAIN, TEST[:10]).double()
    for method, K in (
        (pv.ImportanceSampling(prior_share=1.0), 50),
        (pv.ImportanceSampling(prior_share=0.2), 20),
    ):
        result = pv.log_marginal(exact, TEST[:10], num_samples=100, row_samples=K, method=method, seed=0)
        assert float(((result.log_marginal - expected) / result.std_error).abs().max()) < 4.5


def test_a_vae_at_given_theta_is_one_of_rows(exact):
    one = exact.given_shared({"mean": torch.tensor(0.8)})
    expected = dist.Normal(0.8, math.sqrt(SPREAD**2 + NOISE**2)).log_prob(TEST).double()
    result = pv.log_marginal(one, TEST, num_samples=20, seed=0)
    torch.testing.assert_close(result.log_marginal, expected, rtol=1e-4, atol=1e-4)
    page = pv.diagnose(one, TEST, num_samples=50, reverse_rows=0, seed=0)
    assert page.quality.log_marginal.shape == (60,)
    assert one.generate(4).shape == (4,)


def test_verbs_that_ask_about_rows_alone_say_so(exact):
    calls = {
        "refine": lambda: pv.refine(exact, TEST),
        "reverse_check": lambda: pv.reverse_check(exact, num_rows=10, num_samples=10),
        "resembles": lambda: pv.resembles(exact, TEST),
        "tail_check": lambda: pv.tail_check(exact, TEST),
        "impute(method=)": lambda: pv.impute(exact, TEST, method=pv.SequentialMonteCarlo()),
        "log_marginal(given=)": lambda: pv.log_marginal(exact, TEST, given=["x"]),
        "posterior": lambda: exact.posterior(TEST),
        "simulated_bounds": lambda: pv.simulated_bounds(exact, 5, num_samples=2),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match="are shared by all rows") as caught:
            call()
        assert f"{name} asks about rows alone" in str(caught.value)
        assert "given_shared" in str(caught.value)


def test_models_are_compared_by_predictive_density(exact):
    wider = pv.VAE(hierarchy, looser_guide, example=TRAIN)
    found = pv.compare({"exact": exact, "wider": wider}, TEST, num_samples=100, seed=0)
    expected = float(predictive(TRAIN, TEST).double().sum())
    assert abs(float(found.table.loc["exact", "elpd"]) - expected) < 5 * float(
        found.table.loc["exact", "mc_error"]
    )


def test_draws_and_means_are_over_theta(exact):
    draws = exact.sample_posterior(TEST, num_samples=200, seed=0)["z"]
    assert draws.shape == (200, 60)
    loc, scale = posterior_of_mean(TRAIN)
    precision = 1 / SPREAD**2 + 1 / NOISE**2
    mean = (TEST / NOISE**2 + loc) / precision
    width = math.sqrt(1 / precision + (scale / precision) ** 2)
    assert float(((draws.mean(0) - mean) / width).abs().max()) < 4.5 / math.sqrt(200)
    torch.testing.assert_close(draws.std(0).mean(), torch.tensor(width), rtol=0.05, atol=0.0)
    assert float((exact.encode(TEST, seed=0) - mean).abs().max()) < 0.1
    assert exact.decode(draws[:2]).shape == (2, 60)
    assert exact.reconstruct(TEST).shape == (60,)
    assert exact.generate(7, seed=0).shape == (7,)


def test_a_method_draws_the_rows_at_each_draw_of_theta(exact):
    class Told:
        """Tells the draw of theta that it was asked at."""

        def posterior_draws(self, pair, batch, num_samples):
            mean = sites_of(pair.model, batch)["z"].distribution.mean.clone()
            return {"z": mean.expand(num_samples, len(batch))}

    draws = exact.sample_posterior(TEST, num_samples=4, method=Told(), seed=0)["z"]
    means = exact.sample_shared(4, seed=0)["mean"]
    torch.testing.assert_close(draws, means[:, None].expand(4, len(TEST)))


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    vae, twin = pv.VAE(hierarchy, example=TRAIN), pv.VAE(hierarchy)
    vae.save(tmp_path / "vae.safetensors")
    twin.load(tmp_path / "vae.safetensors")
    ours, theirs = (v.sample_shared(3, seed=0)["mean"] for v in (vae, twin))
    assert torch.equal(ours, theirs)
    ours, theirs = (pv.elbo(v, TEST, seed=0) for v in (vae, twin))
    assert torch.equal(ours.elbo, theirs.elbo)
    assert ours.total == theirs.total
