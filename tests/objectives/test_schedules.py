"""Schedules: their values, and what is refused before a training starts."""

import math

import pyro
import pyro.optim
import pytest
import torch

from pyrovae.objectives import ELBO, Constant, Cyclical, LinearWarmUp
from tests.oracles import LinearGaussian, WideGuide


def test_linear_warm_up():
    by_step = LinearWarmUp(steps=10, start=0.2, end=1.2)
    assert [by_step(s, None) for s in (0, 5, 10, 99)] == pytest.approx([0.2, 0.7, 1.2, 1.2])
    by_epoch = LinearWarmUp(epochs=4)
    assert [by_epoch(0, e) for e in (0.0, 0.5, 3.0, 9.0)] == pytest.approx([0.0, 0.125, 0.75, 1.0])


def test_cyclical_is_equation_by_hand():
    """tau = mod(t, T/M) / (T/M); tau / R up to R, then 1: T = 40, M = 4, R = 0.5, so cycles of 10 that rise over 5."""
    cyclical = Cyclical(steps=40)
    for step in range(60):
        tau = step % 10 / 10
        expected = 1.0 if step >= 40 else min(1.0, tau / 0.5)
        assert cyclical(step, None) == pytest.approx(expected, abs=1e-12), step
    falling = Cyclical(epochs=2.0, num_cycles=2, rising=1.0, start=1.0, end=0.0)
    assert [falling(0, e) for e in (0.0, 0.25, 1.0, 1.75, 2.0)] == pytest.approx([1.0, 0.75, 1.0, 0.25, 0.0])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LinearWarmUp(steps=10, end=-0.1), "end is -0.1: expected a finite number of at least 0"),
        (lambda: LinearWarmUp(steps=10, start=math.nan), "start is nan"),
        (lambda: LinearWarmUp(), "give one of the two"),
        (lambda: LinearWarmUp(steps=1, epochs=1), "give one of the two"),
        (lambda: LinearWarmUp(steps=0), "above 0"),
        (lambda: Cyclical(epochs=math.inf), "above 0"),
        (lambda: Cyclical(steps=5, num_cycles=0), "num_cycles is 0"),
        (lambda: Cyclical(steps=5, rising=0.0), "rising is 0.0"),
        (lambda: Cyclical(steps=5, start=-1.0), "start is -1.0"),
        (lambda: Constant(-1.0), "value is -1.0"),
        (lambda: ELBO(beta=-0.5), "beta is -0.5"),
        (lambda: ELBO(beta=math.nan), "beta is nan"),
        (lambda: ELBO(beta=lambda step, epoch: -1.0), "schedule of beta gives -1.0 at step 0"),
        (lambda: ELBO(beta=lambda step, epoch: math.nan), "schedule of beta gives nan"),
    ],
)
def test_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_string_is_no_coefficient():
    with pytest.raises(TypeError, match="beta is 'linear': expected a number"):
        ELBO(beta="linear")


def test_coefficients_change_in_place():
    objective = ELBO(beta=LinearWarmUp(epochs=2))
    (beta,) = objective.coefficients
    assert beta.shape == ()
    assert float(beta) == 0.0
    objective.advance(step=7, epoch=0.5)
    assert float(beta) == 0.25
    assert objective.coefficients[0] is beta


def test_a_function_is_a_schedule_and_is_checked_at_each_step():
    objective = ELBO(beta=lambda step, epoch: 1.0 - 0.5 * step)
    objective.advance(2, None)
    with pytest.raises(ValueError, match="gives -0.5 at step 3"):
        objective.advance(3, None)


def svi(model, objective):
    def guided(x):
        pyro.module("model", model)
        return WideGuide(model)(x)

    return pyro.infer.SVI(model, guided, pyro.optim.SGD({"lr": 0.0}), loss=objective)


def test_svi_counts_its_own_steps():
    model = LinearGaussian()
    x, seen = model.data(4), []
    objective = ELBO(beta=lambda step, epoch: seen.append((step, epoch)) or 0.1 * step)
    seen.clear()
    training = svi(model, objective)
    for _ in range(3):
        training.step(x)
        training.evaluate_loss(x)  # no step
    assert seen == [(0, None), (1, None), (2, None)]
    assert float(objective.coefficients[0]) == 0.1 * 2
    pyro.clear_param_store()


def test_epochs_are_refused_where_nobody_counts_them():
    model = LinearGaussian()
    training = svi(model, ELBO(beta=LinearWarmUp(epochs=2)))
    with pytest.raises(
        ValueError, match=r"pyro.infer.SVI knows none: give it in steps, LinearWarmUp\(steps="
    ):
        training.step(model.data(4))


def test_the_value_and_slope_of_the_loss_follow_beta():
    model = LinearGaussian()
    guide, x = WideGuide(model), model.data(4)
    losses = []
    for beta in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        losses.append(ELBO(beta=beta).loss(model, guide, x))
    assert losses[1] - losses[0] == pytest.approx(float(guide.kl(x).sum().detach()))
    assert losses[2] - losses[0] == pytest.approx(3 * float(guide.kl(x).sum().detach()))
