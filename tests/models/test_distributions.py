"""Own distributions against high precision, at float32 and at their extremes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from pyrovae.models.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    Multinomial,
    NegativeBinomial,
    Poisson,
    TruncatedNormal,
    ZeroInflated,
)


@pytest.mark.parametrize("dispersion", [1e-6, 1e-4, 1e-3, 0.06, 0.0626, 0.5, 3.0, 100.0])
@pytest.mark.parametrize("mean", [1e-3, 0.7, 12.0, 300.0])
def test_negative_binomial_density_at_float32(dispersion, mean):
    x = torch.tensor([0.0, 1.0, 2.0, 5.0, 13.0, 40.0])
    log_prob = NegativeBinomial(torch.tensor(mean), torch.tensor(dispersion)).log_prob(x).double()
    r = 1 / dispersion
    exact = torch.as_tensor(scipy.stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)))
    # scipy's own float64 figure is off by 1e-9 at r = 1e6.
    torch.testing.assert_close(log_prob, exact, rtol=3e-6, atol=2e-5)


def test_negative_binomial_tends_to_poisson():
    x = torch.arange(30.0, dtype=torch.float64)
    mean = torch.tensor(7.0, dtype=torch.float64)
    p = NegativeBinomial(mean, torch.tensor(1e-9, dtype=torch.float64))
    torch.testing.assert_close(
        p.log_prob(x), torch.distributions.Poisson(mean).log_prob(x), rtol=0, atol=1e-6
    )


def test_negative_binomial_moments_and_its_gradient():
    mean = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    dispersion = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = torch.arange(600.0, dtype=torch.float64)
    p = NegativeBinomial(mean, dispersion)
    probabilities = p.log_prob(x).exp()
    torch.testing.assert_close((probabilities * (x - 3) ** 2).sum(), p.variance)
    assert torch.autograd.gradcheck(lambda m, d: NegativeBinomial(m, d).log_prob(x[:20]), (mean, dispersion))
    near = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, d: NegativeBinomial(m, d).log_prob(x[:20]), (mean, near))


@pytest.mark.parametrize("gate", [-1e30, -1e4, -20.0, 0.0, 20.0, 1e4, 1e30])
def test_zero_inflated_density_for_any_gate(gate):
    base = NegativeBinomial(torch.tensor(3.0), torch.tensor(0.5))
    p = ZeroInflated(base, gate_logits=torch.tensor(gate))
    x = torch.arange(5.0)
    log_gate, log_open = -np.logaddexp(0.0, -gate), -np.logaddexp(0.0, gate)
    exact = log_open + base.log_prob(x).double().numpy()
    exact[0] = np.logaddexp(log_gate, exact[0])
    torch.testing.assert_close(p.log_prob(x).double(), torch.as_tensor(exact), rtol=1e-6, atol=1e-6)
    p.sample()
    torch.testing.assert_close(p.expand([3, 5]).log_prob(x), p.log_prob(x).expand(3, 5))


@pytest.mark.parametrize("logit", [0.0, 1e-4, -0.09, 0.11, 0.4, 3.0, -17.0, 40.0, -500.0, 1e4, -1e4])
def test_continuous_bernoulli_density_and_moments(logit):
    # A negative logit's is an exponential distribution cut off at 1, a positive one's its mirror image.
    x = np.linspace(0, 1, 11)
    size = abs(logit)
    exact = scipy.stats.truncexpon(b=size, scale=1 / size) if size else scipy.stats.uniform()
    density = torch.as_tensor(exact.logpdf(1 - x if logit > 0 else x))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-6)):
        p = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
        got = p.log_prob(torch.as_tensor(x, dtype=dtype)).double()
        torch.testing.assert_close(got, density, rtol=tolerance, atol=tolerance)
    p = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    assert float(p.mean) == pytest.approx(1 - exact.mean() if logit > 0 else exact.mean(), rel=1e-7)
    if size == 0 or size > 0.05:  # below, scipy's own variance is lost to rounding
        assert float(p.variance) == pytest.approx(exact.var(), rel=1e-6)


def test_continuous_bernoulli_gradient_of_density_and_draws():
    logits = torch.tensor([-20.0, -3.0, -0.05, 0.02, 0.2, 5.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.1, 0.3, 0.9, 0.2, 0.6, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: ContinuousBernoulli(v).log_prob(x), logits)

    def draw(v):
        torch.manual_seed(0)
        return ContinuousBernoulli(v).rsample()

    assert torch.autograd.gradcheck(draw, logits)
    zero = torch.zeros(3, requires_grad=True)
    ContinuousBernoulli(zero).log_prob(torch.tensor([0.0, 0.25, 1.0])).sum().backward()
    torch.testing.assert_close(zero.grad, torch.tensor([-0.5, -0.25, 0.5]))


@pytest.mark.parametrize("loc", [-1e6, -3.0, 0.0, 100.3, 254.7, 300.0, 1e6])
@pytest.mark.parametrize("scale", [1e-4, 0.05, 1.0, 30.0, 1e5])
def test_discretized_logistic_normalizes_at_float32(loc, scale):
    x = torch.arange(256.0)
    p = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale))
    assert float(p.log_prob(x).double().exp().sum()) == pytest.approx(1, abs=1e-4)
    log_cdf = scipy.stats.logistic.logcdf
    at = np.arange(256.0)
    upper = np.where(at == 255, 0.0, log_cdf((at + 0.5 - np.float32(loc)) / np.float32(scale)))
    lower = np.where(at == 0, -np.inf, log_cdf((at - 0.5 - np.float32(loc)) / np.float32(scale)))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = upper + np.log1p(-np.exp(lower - upper))
    told = torch.as_tensor(upper - lower > 1e-6) & torch.as_tensor(
        np.isfinite(exact)
    )  # where float64 can tell
    torch.testing.assert_close(
        p.log_prob(x).double()[told], torch.as_tensor(exact)[told], rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("loc", [-1e30, -1e4, 0.0, 1e4, 1e30])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e30])
def test_discretized_logistic_gradients_are_finite(loc, scale):
    loc, scale = torch.tensor(loc, requires_grad=True), torch.tensor(scale, requires_grad=True)
    log_prob = DiscretizedLogistic(loc, scale).log_prob(torch.tensor([0.0, 100.0, 255.0]))
    assert bool(log_prob.isfinite().all())
    log_prob.sum().backward()
    assert bool(loc.grad.isfinite())


def test_multinomial_agrees_with_torch_at_one_total():
    torch.manual_seed(0)
    logits = torch.randn(4, 6)
    x = torch.distributions.Multinomial(9, logits=logits).sample()
    exact = torch.distributions.Multinomial(9, logits=logits).log_prob(x)
    torch.testing.assert_close(Multinomial(logits, torch.tensor(9.0)).log_prob(x), exact)


def test_multinomial_support_is_the_counts_of_the_total():
    p = Multinomial(torch.zeros(4, 3), torch.tensor([3.0, 3.0, 3.0, 0.0]))
    x = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.5, 1.5, 0.0], [0.0, 0.0, 0.0]])
    assert p.support.check(x).tolist() == [True, False, False, True]
    assert p.support.check(torch.tensor([4.0, -1.0, 0.0])).tolist() == [False] * 4


def test_multinomial_draws_as_many_as_each_rows_total():
    torch.manual_seed(0)
    totals = torch.tensor([0.0, 1.0, 7.0, 30.0])
    draws = Multinomial(torch.randn(4, 3), totals).sample([50])
    torch.testing.assert_close(draws.sum(-1), totals.expand(50, 4), rtol=0, atol=0)


def multinomial_of(total):
    """Logits of 50 kinds at float32, counts near their means, and the exact density: that of these very logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(50, generator=generator)
    x = (logits.double().softmax(-1) * total).round()
    x[0] += total - x.sum()
    exact = scipy.stats.multinomial.logpmf(x.numpy(), total, logits.double().softmax(-1).numpy())
    return Multinomial(logits, torch.tensor(float(total))), x.float(), exact


@pytest.mark.parametrize("total", [1e3, 1e5, 1e6])
def test_multinomial_of_a_large_total_is_right_at_float32(total):
    p, x, exact = multinomial_of(total)
    for found in (p, p.expand([3])):
        density = found.log_prob(x)
        assert density.dtype == torch.float32
        np.testing.assert_allclose(density, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [0.3, 1e3, 1e5, 1e6])
def test_poisson_and_negative_binomial_of_large_counts_are_right_at_float32(mean):
    x = torch.tensor([0.9, 0.97, 1.0, 1.004]) * mean
    x = x.round()
    rate = torch.tensor(mean, requires_grad=True)
    density = Poisson(rate.expand(4)).to_event(1).base_dist.log_prob(x)
    assert density.dtype == torch.float32
    np.testing.assert_allclose(density.detach(), scipy.stats.poisson.logpmf(x, mean), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(density.sum(), rate)
    assert slope.dtype == torch.float32
    assert float(slope) == pytest.approx(float((x.double() / mean - 1).sum()), rel=1e-5, abs=1e-9)
    for dispersion in (1e-5, 0.03, 2.0):
        found = NegativeBinomial(torch.tensor(mean), torch.tensor(dispersion)).log_prob(x)
        r = 1 / float(torch.tensor(dispersion))
        exact = scipy.stats.nbinom.logpmf(x.double(), r, 1 / (1 + float(torch.tensor(mean)) / r))
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6)
        assert found.dtype == torch.float32


@pytest.mark.parametrize("loc", [-300.0, -40.0, -1.0, 0.2, 0.5, 3.0, 50.0, 300.0])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 300.0])
def test_truncated_normal_far_out_and_near_uniform(loc, scale):
    p = TruncatedNormal(*(torch.tensor(v, dtype=torch.float64) for v in (loc, scale)), 0.0, 1.0)
    exact = scipy.stats.truncnorm((0 - loc) / scale, (1 - loc) / scale, loc, scale)
    x = np.linspace(0, 1, 9)
    with np.errstate(all="ignore"):
        expected, mean = exact.logpdf(x), exact.mean()
    found = p.log_prob(torch.as_tensor(x)).numpy()
    known = np.isfinite(expected)  # scipy's own loses the mass far out
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-6, atol=1e-4)
    assert np.isfinite(found).all()
    if np.isfinite(mean) and 0 <= mean <= 1 and abs(loc) < 100:
        assert float(p.mean) == pytest.approx(mean, abs=1e-6)
    torch.manual_seed(0)
    drawn = p.sample([20_000]).numpy()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    grid = (np.arange(200_000) + 0.5) / 200_000
    log_density = p.log_prob(torch.as_tensor(grid)).numpy()
    share = np.exp(log_density - log_density.max()).cumsum()
    share /= share[-1]
    median = np.interp(0.5, share, grid)
    # A density of a width below the grid's has its median within a cell.
    assert abs((drawn < median).mean() - 0.5) < 0.02 or np.abs(drawn - median).max() < 1e-3


def test_truncated_normal_gradients():
    loc, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.4))
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: TruncatedNormal(m, s, 0.0, 1.0).log_prob(x), (loc, scale))
