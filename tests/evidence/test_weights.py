"""Sums of weights taken piece by piece, against the same figures from all weights at once."""

import math

import pytest
import torch
from scipy.stats import norm, t

from pyrovae.evidence.psis import pareto_k
from pyrovae.evidence.weights import Tally, estimates, without_density


def tallied(log_weights, sizes=None, at_once=7):
    S = len(log_weights)
    tallies = []
    for part in log_weights.split(sizes or [S]):
        tallies.append(Tally(len(part), S))
        for piece in part.split(at_once):
            tallies[-1].add(piece)
    return tallies


def jackknife(log_weights, sizes):
    """Leave each weight out in turn, its stratum's mean counting for the same share as before."""
    weights, S = log_weights.exp(), len(log_weights)
    variances, bias = [], 0.0
    for h, part in enumerate(weights.split(sizes)):
        n = len(part)
        others = sum(p.sum(0) for g, p in enumerate(weights.split(sizes)) if g != h)
        left = torch.stack([((n * (part.sum(0) - part[i]) / (n - 1) + others) / S).log() for i in range(n)])
        variances.append((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0))
        bias = bias + (n - 1) * (left.mean(0) - weights.mean(0).log())
    degrees = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
    widening = torch.as_tensor(t.ppf(0.975, degrees)) / norm.ppf(0.975)
    return sum(variances), bias, sum(variances).sqrt() * widening


@pytest.mark.parametrize("sizes", [[10], [100], [3000], [6, 4], [150, 250]])
@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
def test_pieces_give_the_figures_of_the_whole(sizes, spread):
    S = sum(sizes)
    log_weights = (
        spread * torch.randn(S, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(S)) - 50
    )
    found = estimates(tallied(log_weights, sizes))
    torch.testing.assert_close(found.log_marginal, log_weights.logsumexp(0) - math.log(S))
    # Above KEPT draws the effect of the many small weights is taken to second order.
    jackknifed = (found.variance, found.bias, found.std_error)
    for ours, exact in zip(jackknifed, jackknife(log_weights, sizes), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-8 if S <= 100 else 0.02, atol=0)
    torch.testing.assert_close(found.ess, 1 / (log_weights.softmax(0) ** 2).sum(0))
    torch.testing.assert_close(found.khat, pareto_k(log_weights), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.elbo, log_weights.mean(0))


def test_many_mild_weights_have_the_delta_methods_error():
    log_weights = 0.3 * torch.randn(5000, 10, generator=torch.Generator().manual_seed(0))
    weights = log_weights.double().exp()
    delta = weights.std(0) / weights.mean(0) / 5000**0.5
    torch.testing.assert_close(
        estimates(tallied(log_weights, at_once=999)).std_error, delta, rtol=2e-3, atol=0
    )


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("S", [5, 10, 100])
def test_the_error_is_honest_with_few_draws(S, spread):
    # 4000 repetitions: the share covered is known to 0.005.
    normal = torch.randn(S, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = estimates(tallied(spread * normal - spread**2 / 2))
    covered = float((found.log_marginal.abs() < 1.96 * found.std_error).double().mean())
    assert 0.88 < covered < 0.99
    if spread < 1:
        assert covered > 0.925


def test_one_weight_that_carries_all_has_an_error_of_its_size():
    log_weights = torch.zeros(50, 2)
    log_weights[7] = torch.tensor([30.0, 1000.0])
    log_weights[8] -= 1e-3
    std_error = estimates(tallied(log_weights)).std_error
    assert 20 < float(std_error[0]) < 30  # where the delta method says 1
    assert bool(torch.isfinite(std_error[1]))
    assert float(std_error[1]) > 30


def test_equal_weights_and_single_ones():
    equal = estimates(tallied(torch.full((200, 3), -7.0)))
    assert equal.std_error.max() < 1e-6
    assert equal.ess.tolist() == pytest.approx([200.0] * 3)
    assert equal.khat.tolist() == [-math.inf] * 3
    assert bool(estimates(tallied(torch.zeros(1, 3))).std_error.isnan().all())
    assert bool(estimates(tallied(torch.zeros(5, 3), [4, 1])).std_error.isnan().all())


def test_rows_without_density_are_found():
    log_weights = torch.zeros(30, 5)
    log_weights[:, 1] = -math.inf
    log_weights[3, 2] = math.nan
    log_weights[29, 3] = math.inf
    log_weights[:29, 4] = -math.inf
    assert without_density(tallied(log_weights)).tolist() == [False, True, True, True, False]
    assert without_density(tallied(log_weights, [20, 10])).tolist() == [False, True, True, True, False]


def test_no_error_is_below_rounding():
    log_weights = torch.full((200, 3), -1e4, dtype=torch.float64)
    found = estimates(tallied(log_weights), rounding=1e-7)
    torch.testing.assert_close(found.std_error, torch.full((3,), 1e-3, dtype=torch.float64))
    torch.testing.assert_close(found.variance, found.std_error**2)
    assert bool(estimates(tallied(torch.zeros(1, 3)), rounding=1e-7).std_error.isnan().all())
