"""Each objective's value and gradient against those derived by hand for a scalar model, at the same noise."""

import math

import pyro
import pyro.optim
import pytest
import torch

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, IWAE, FreeBits, ReweightedWakeSleep
from pyrovae.pair.handlers import RowsAsGiven
from tests.objectives.scalar import Scalar, noise_of

BETA = 0.6
X = torch.tensor([0.5, -1.2, 2.0, 0.1], dtype=torch.float64)


def elbo_analytic(h, x, scale, a):
    value = BETA * h["kl"] - h["log_likelihood"].mean(0)
    return value, {
        "w": -h["w_likelihood"].mean(0),
        "a": -(h["dz_likelihood"] * h["a_z"]).mean(0) + BETA * a * x**2,
        "l": -(h["dz_likelihood"] * h["l_z"]).mean(0) + BETA * (scale**2 - 1),
    }


def elbo_sampled(h, x, scale, a):
    value = (BETA * (h["log_guide"] - h["log_prior"]) - h["log_likelihood"]).mean(0)
    slope = BETA * (h["dz_guide"] - h["dz_prior"]) - h["dz_likelihood"]
    return value, {
        "w": -h["w_likelihood"].mean(0),
        "a": (slope * h["a_z"] + BETA * h["a_guide"]).mean(0),
        "l": (slope * h["l_z"] + BETA * h["l_guide"]).mean(0),
    }


def sticking(h, x, scale, a):
    value, _ = elbo_sampled(h, x, scale, a)
    slope = BETA * (h["dz_guide"] - h["dz_prior"]) - h["dz_likelihood"]
    return value, {
        "w": -h["w_likelihood"].mean(0),
        "a": (slope * h["a_z"]).mean(0),
        "l": (slope * h["l_z"]).mean(0),
    }


def weights(h, M):
    log_w = (h["log_likelihood"] + h["log_prior"] - h["log_guide"]).unflatten(0, (M, -1))
    value = -(log_w.exp().mean(1).log()).mean(0)
    share = log_w.exp() / log_w.exp().sum(1, keepdim=True)
    slope = h["dz_likelihood"] + h["dz_prior"] - h["dz_guide"]
    return value, share.flatten(0, 1), slope


def iwae(M):
    def by_hand(h, x, scale, a):
        value, v, slope = weights(h, M)
        return value, {
            "w": -(v * h["w_likelihood"]).sum(0) / M,
            "a": -(v * (slope * h["a_z"] - h["a_guide"])).sum(0) / M,
            "l": -(v * (slope * h["l_z"] - h["l_guide"])).sum(0) / M,
        }

    return by_hand


def dreg(M):
    def by_hand(h, x, scale, a):
        value, v, slope = weights(h, M)
        return value, {
            "w": -(v * h["w_likelihood"]).sum(0) / M,
            "a": -(v**2 * slope * h["a_z"]).sum(0) / M,
            "l": -(v**2 * slope * h["l_z"]).sum(0) / M,
        }

    return by_hand


def wake_sleep(h, x, scale, a):
    value, v, _ = weights(h, 1)
    return value, {
        "w": -(v * h["w_likelihood"]).sum(0),
        "a": -(v * h["a_guide"]).sum(0),
        "l": -(v * h["l_guide"]).sum(0),
    }


def floored(nats):
    def by_hand(h, x, scale, a):
        mean = float(h["kl"].mean())
        if mean > nats:
            return elbo_analytic(h, x, scale, a)
        value = BETA * nats - h["log_likelihood"].mean(0)
        return value, {
            "w": -h["w_likelihood"].mean(0),
            "a": -(h["dz_likelihood"] * h["a_z"]).mean(0),
            "l": -(h["dz_likelihood"] * h["l_z"]).mean(0),
        }

    return by_hand


CASES = {
    "ELBO": (ELBO(beta=BETA), 1, elbo_analytic),
    "ELBO of 3 samples": (ELBO(3, beta=BETA), 3, elbo_analytic),
    "ELBO, sampled rate": (ELBO(3, beta=BETA, analytic_kl=False), 3, elbo_sampled),
    "sticking the landing": (ELBO(3, beta=BETA, sticking_the_landing=True), 3, sticking),
    "free bits, above": (ELBO(2, beta=BETA, free_bits=FreeBits(0.1)), 2, floored(0.1)),
    "free bits, below": (ELBO(2, beta=BETA, free_bits=FreeBits(5.0)), 2, floored(5.0)),
    "free bits by dimension": (
        ELBO(2, beta=BETA, free_bits=FreeBits(5.0, per_dimension=True)),
        2,
        floored(5.0),
    ),
    "IWAE": (IWAE(4), 4, iwae(1)),
    "MIWAE": (IWAE(3, num_bounds=2), 6, iwae(2)),
    "DReG": (IWAE(4, doubly_reparameterized=True), 4, dreg(1)),
    "DReG of MIWAE": (IWAE(3, num_bounds=2, doubly_reparameterized=True), 6, dreg(2)),
    "reweighted wake-sleep": (ReweightedWakeSleep(5), 5, wake_sleep),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    objective, S, by_hand = CASES[name]
    pair = Scalar()
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X)
    h = pair.by_hand(X, noise_of(5, S, len(X)))
    value, gradients = by_hand(h, X, *pair.scale_and_slope())
    with vae.scope():
        torch.manual_seed(5)
        losses = objective.evaluate(vae, Batch((X,)))
    torch.testing.assert_close(losses.value.detach(), value)
    if name != "reweighted wake-sleep":  # its two gradients are of no one loss
        torch.testing.assert_close(losses.surrogate.detach(), value)
    for row in range(len(X)):  # row by row: each row's surrogate is its own
        for which, parameter in pair.parameters_by_name().items():
            (slope,) = torch.autograd.grad(
                losses.surrogate[row], parameter, retain_graph=True, allow_unused=True
            )
            torch.testing.assert_close(
                slope, gradients[which][row], rtol=1e-9, atol=1e-12, msg=lambda m, w=which: f"{w}: {m}"
            )
    torch.testing.assert_close(losses.log_likelihood, h["log_likelihood"])
    rate = h["log_guide"] - h["log_prior"]
    if getattr(objective, "analytic_kl", False):
        rate = h["kl"].expand_as(rate)
    torch.testing.assert_close(losses.rate, rate)
    assert not losses.rate.requires_grad


@pytest.mark.parametrize("plate_size", [None, 1000])
@pytest.mark.parametrize("name", CASES)
def test_under_svi_it_is_scaled_like_pyros_losses(name, plate_size):
    """One step of plain gradient descent by SVI moves each parameter by N/B times the sum over rows."""
    objective, S, by_hand = CASES[name]
    pair = Scalar(plate_size=plate_size)
    h = pair.by_hand(X, noise_of(5, S, len(X)))
    value, gradients = by_hand(h, X, *pair.scale_and_slope())
    before = {which: float(p.detach()) for which, p in pair.parameters_by_name().items()}
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 1e-3}), loss=objective)
    torch.manual_seed(5)
    loss = svi.step(X)
    scale = 1.0 if plate_size is None else plate_size / len(X)
    assert loss == pytest.approx(scale * float(value.sum()), rel=1e-9)
    for which, parameter in pair.parameters_by_name().items():
        moved = before[which] - 1e-3 * scale * float(gradients[which].sum())
        assert float(parameter.detach()) == pytest.approx(moved, rel=1e-9), which
    pyro.clear_param_store()


@pytest.mark.parametrize("plate_size", [None, 1000])
def test_each_batch_has_the_scale_of_its_own_size(plate_size):
    """Four rows and a ragged batch of one: the loss without draws' noise is N/B times the sum of its rows."""
    pair, objective = Scalar(plate_size=plate_size), ELBO(beta=1.0)
    for x in (X, X[:1], X):
        torch.manual_seed(5)
        h = pair.by_hand(x, noise_of(5, 1, len(x)))
        total = float((h["kl"] - h["log_likelihood"]).sum())
        scale = 1.0 if plate_size is None else plate_size / len(x)
        assert objective.loss(pair.model, pair.guide, x) == pytest.approx(scale * total)
    pyro.clear_param_store()


@pytest.mark.parametrize("plate_size", [None, 1000])
@pytest.mark.parametrize("S", [1, 4])
def test_the_elbo_is_pyros_own_at_the_same_random_numbers(plate_size, S):
    pair = Scalar(plate_size=plate_size)
    theirs = {
        False: pyro.infer.Trace_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=1),
        True: pyro.infer.TraceMeanField_ELBO(num_particles=S, vectorize_particles=True, max_plate_nesting=1),
    }
    for analytic, pyros in theirs.items():
        torch.manual_seed(3)
        expected = pyros.differentiable_loss(*with_rows_as_they_are(pair), X)
        torch.manual_seed(3)
        loss = ELBO(S, analytic_kl=analytic).differentiable_loss(pair.model, pair.guide, X)
        torch.testing.assert_close(loss, expected)
        parameters = list(pair.parameters())
        for ours, other in zip(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
        ):
            torch.testing.assert_close(ours, other)
    pyro.clear_param_store()


def with_rows_as_they_are(pair):
    """The pair without the random indices that a subsampled plate draws, which would shift the random numbers."""

    def given(program):
        def run(x):
            with RowsAsGiven(len(x)):
                return program(x)

        return run

    return given(pair.model), given(pair.guide)


def test_iwae_is_pyros_renyi_of_order_zero_at_the_same_random_numbers():
    pair = Scalar()
    pyros = pyro.infer.RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(3)
    expected = pyros.loss_and_grads(pair.model, pair.guide, X)
    gradients = [p.grad.clone() for p in pair.parameters()]
    pair.zero_grad()
    torch.manual_seed(3)
    assert IWAE(6).loss_and_grads(pair.model, pair.guide, X) == pytest.approx(expected)
    for parameter, gradient in zip(pair.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    pyro.clear_param_store()


def test_the_surrogate_has_the_value_of_the_loss_where_paths_are_cut():
    """So a loss from differentiable_loss can be read as one."""
    pair = Scalar()
    for name in ("sticking the landing", "DReG", "reweighted wake-sleep"):
        objective, S, by_hand = CASES[name]
        torch.manual_seed(5)
        loss = objective.differentiable_loss(pair.model, pair.guide, X)
        value, _ = by_hand(pair.by_hand(X, noise_of(5, S, len(X))), X, 0.0, 0.0)
        assert float(loss.detach()) == pytest.approx(float(value.sum()), rel=1e-12)
    pyro.clear_param_store()


def test_math_of_the_oracle():
    """The hand-made pieces agree with finite differences: the oracle itself is checked."""
    pair, noise, step = Scalar(), noise_of(1, 3, len(X)), 1e-6
    h = pair.by_hand(X, noise)
    moved = Scalar(a=0.3 + step).by_hand(X, noise)
    total = lambda h: h["log_likelihood"] + h["log_prior"] - h["log_guide"]  # noqa: E731
    slope = h["dz_likelihood"] + h["dz_prior"] - h["dz_guide"]
    torch.testing.assert_close(
        (total(moved) - total(h)) / step, slope * h["a_z"] - h["a_guide"], rtol=1e-4, atol=1e-4
    )
    assert math.isclose(float(h["kl"][0]), 0.5 * (math.exp(-0.8) + 0.15**2 - 1) + 0.4, rel_tol=1e-12)
