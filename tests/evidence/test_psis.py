"""Pareto k against ArviZ's own, row by row."""

import timeit

import numpy as np
import pytest
import torch

from pyrovae.evidence.psis import good_k, largest_of, pareto_k, smoothed, unknown_k

arviz = pytest.importorskip("arviz")


FIRST_GENERATION = int(arviz.__version__.split(".")[0]) < 1


def k_by_arviz(log_weights):
    if FIRST_GENERATION:
        return arviz.psislw(log_weights.T.copy())[1]
    from arviz_stats.base import array_stats

    return array_stats.psislw(-log_weights.T, axis=-1)[1]  # it takes minus the log weights


@pytest.mark.parametrize("S", [10, 25, 26, 100, 400, 1000, 2500])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 300.0])
def test_k_equals_arviz(S, spread):
    if not FIRST_GENERATION and (S not in (100, 400, 2500) or spread > 100):
        pytest.skip(
            "ArviZ 1.x rounds the tail's length down and refuses tails of fewer than five distinct weights"
        )
    log_weights = np.random.default_rng(S).normal(scale=spread, size=(S, 6)) - 1000
    ours = pareto_k(torch.as_tensor(log_weights)).numpy()
    np.testing.assert_allclose(ours, k_by_arviz(log_weights), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not FIRST_GENERATION, reason="ArviZ 1.x rounds the tail's length down")
@pytest.mark.parametrize("S", [10, 26, 100, 1000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 300.0])
def test_smoothed_weights_equal_arviz(S, spread):
    log_weights = np.random.default_rng(S).normal(scale=spread, size=(S, 6)) - 1000
    log_weights[:, 5] = np.repeat(log_weights[: S // 2, 5], 2)  # ties
    ours = smoothed(torch.as_tensor(log_weights)).log_softmax(0).numpy()
    theirs = np.asarray(arviz.psislw(log_weights.T.copy())[0]).T
    theirs, ours = (
        np.sort(theirs, 0),
        np.sort(ours, 0),
    )  # which of two equal weights is which, is anyone's choice
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not FIRST_GENERATION, reason="ArviZ 1.x refuses some of these rows")
def test_ties_and_underflow_as_arviz():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(size=(400, 4))
    log_weights[:, 0] = np.round(log_weights[:, 0], 1)
    log_weights[:, 1] *= 1e4
    log_weights[:300, 2] = -np.inf
    log_weights[:, 3] = np.repeat(rng.normal(size=100), 4)
    ours = pareto_k(torch.as_tensor(log_weights)).numpy()
    np.testing.assert_allclose(ours, k_by_arviz(log_weights), rtol=1e-6, atol=1e-6)


def test_too_few_draws_are_infinite_and_constant_weights_have_no_tail():
    assert pareto_k(torch.randn(4, 3)).tolist() == [float("inf")] * 3
    assert pareto_k(torch.full((1000, 2), -3.0)).tolist() == [-float("inf")] * 2
    assert bool(pareto_k(torch.randn(1, 3)).isnan().all())  # of a single weight nothing is known


def test_weights_that_are_equal_but_for_rounding_have_no_tail():
    rounding = 1e-4 * torch.randn(1000, 50, generator=torch.Generator().manual_seed(0)) - 500
    assert pareto_k(rounding).tolist() == [-float("inf")] * 50
    assert bool(pareto_k(100 * rounding).isfinite().all())


@pytest.mark.parametrize("S", [30, 1000, 2501])
def test_the_largest_are_those_of_topk(S):
    values = torch.randn(S, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 1] = values[:, 1].round()
    values[: S // 2, 2] = -torch.inf
    before = values.clone()
    for given in (values, values[:, :1], values.T.contiguous().T):
        for count in (1, 20, S, S + 5):
            assert torch.equal(largest_of(given, count), given.topk(min(count, S), dim=0).values)
    assert torch.equal(values, before)


def test_k_finds_the_tail_of_a_pareto_distribution():
    # Weights w = u^-k have a generalized Pareto tail of shape k.
    uniform = torch.rand(20000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k in (0.3, 0.7, 1.2):
        estimates = pareto_k(-k * uniform.log())
        assert float(estimates.mean()) == pytest.approx(k, abs=0.05)


@pytest.mark.skipif(not FIRST_GENERATION, reason="the comparison is with ArviZ 0.x")
def test_thousands_of_rows_at_once_are_faster_than_row_by_row():
    # Of 1000 weights: 8 times faster than ArviZ's fastest call on an idle machine with two threads, 7 times with one
    # on a busy one (42 times of 100 weights, 3.5 times of 5000); less than half leaves room for noise.
    log_weights = np.random.default_rng(0).normal(size=(1000, 2000))

    def by_arviz():
        return [float(arviz.psislw(row)[1]) for row in log_weights.T[:100].copy()]

    as_tensor = torch.as_tensor(log_weights)
    pareto_k(as_tensor)
    ours = min(timeit.repeat(lambda: pareto_k(as_tensor), number=1, repeat=3)) / 2000
    theirs = min(timeit.repeat(by_arviz, number=1, repeat=2)) / 100
    np.testing.assert_allclose(pareto_k(as_tensor)[:100], by_arviz(), rtol=1e-6, atol=1e-6)
    assert theirs > 3 * ours, (theirs, ours)


def test_what_counts_as_good_is_what_arviz_says():
    # arviz 0.23, stats.py, loo: good_k = min(1 - 1 / np.log10(n_samples), 0.7)
    for S in (21, 100, 1000, 2154, 2155, 10**6):
        assert good_k(S) == pytest.approx(min(1 - 1 / np.log10(S), 0.7))
    assert good_k(1) == good_k(10) == 0.0


def test_k_is_unknown_where_there_is_no_tail_and_bad_where_one_weight_is_all():
    def unknown(log_weights):
        ess = 1 / (log_weights.double().softmax(0) ** 2).sum(0)
        return unknown_k(pareto_k(log_weights), ess, len(log_weights)).tolist()

    for S in (1, 4, 20):
        assert unknown(torch.randn(S, 2)) == [True, True]
    assert unknown(torch.zeros(10, 2)) == [False, False]  # equal weights are good, be they ever so few
    assert unknown(torch.randn(21, 2)) == [False, False]
    ties = torch.tensor([0.0, 1.0, 2.0]).repeat(100).unsqueeze(1)  # three values of a discrete latent
    one = torch.full((300, 1), -1000.0)
    one[3] = 0.0
    for weights in (ties, one):
        assert pareto_k(weights).tolist() == [float("inf")]
    assert unknown(torch.cat([ties, one], 1)) == [True, False]
