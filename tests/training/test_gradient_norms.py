"""Norms of gradients: those of the steps, however these are computed, and what they say of a stall."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.training.gradient_norms import LOOK_EVERY, GradientNorms, norm_of, why_stalled
from tests.pairs import binary_rows, composed

NORMS = ["gradient_norm", "gradient_norm_max"]


class Norms(torch.optim.SGD):
    """Keeps the norm of every step's gradients, as they reach it."""

    def __init__(self, parameters, lr=1e-3):
        super().__init__(parameters, lr=lr)
        self.norms = []

    def step(self, closure=None):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        self.norms.append(float(torch.cat(gradients).double().norm()))
        super().step(closure)


def trained(lr=1e-3, **settings):
    vae = composed()
    made = []

    def optimizer(parameters):
        made.append(Norms(parameters, lr))
        return made[0]

    given = {"epochs": 2, "batch_size": 4, "seed": 0, "progress": False, "optimizer": optimizer}
    history = pv.fit(vae, binary_rows(20 * 4), **given | settings)
    return history, np.array(made[0].norms).reshape(2, -1)


@pytest.mark.parametrize(
    "settings", [{"compile": False}, {"compile": True}, {"accumulate": 2, "compile": False}]
)
def test_the_history_has_the_median_and_the_largest_norm_of_an_epochs_steps(settings):
    history, norms = trained(**settings)
    seen = norms[:, ::LOOK_EVERY]
    assert seen.shape[1] > 1
    np.testing.assert_allclose(history["gradient_norm_max"], seen.max(1), rtol=1e-5)
    np.testing.assert_allclose(
        history["gradient_norm"], np.sort(seen, 1)[:, (seen.shape[1] - 1) // 2], rtol=1e-5
    )


def test_clipped_gradients_have_the_norm_that_they_had_before_and_each_counts():
    free, _ = trained(0.0, compile=False)
    clipped, norms = trained(compile=False, clip_norm=1e-3)
    assert norms.max() <= 1.001e-3
    assert (clipped[NORMS] > 0.1).all(axis=None)
    all_norms, norms = trained(0.0, compile=False, clip_norm=1e9)
    np.testing.assert_allclose(all_norms["gradient_norm_max"], norms.max(1), rtol=1e-5)
    assert (all_norms["gradient_norm_max"] > free["gradient_norm_max"]).any()


def test_norms_are_read_once_an_epoch_and_overflows_do_not_count():
    norms = GradientNorms(1)
    assert all(map(math.isnan, norms.read().values()))
    for value in (1.0, math.inf, 3.0, math.nan, 2.0):
        norms.add(torch.tensor(value))
    assert norms.read() == {"gradient_norm": 2.0, "gradient_norm_max": 3.0}
    norms.forget()
    for step in range(5000):  # as many as are not kept apart
        norms.add(torch.tensor(float(step)))
    assert norms.read() == {"gradient_norm": 2499.0, "gradient_norm_max": 4999.0}


def test_sparse_gradients_have_a_norm():
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 3]]), torch.tensor([1.0, 2.0, 0.0]), (5,), check_invariants=True
    )
    assert float(norm_of([sparse, torch.tensor([4.0])])) == 5.0


def rows_of(elbo, norm, largest):
    columns = zip(elbo, norm, largest, strict=True)
    return [dict(zip(("elbo", *NORMS), row, strict=True)) for row in columns]


FLAT, RISING = [-9.0] * 20, list(np.linspace(-20, -9, 20))


@pytest.mark.parametrize(
    ("elbo", "norm", "largest", "stalled"),
    [
        (FLAT, [1.0] * 20, [3.0] * 20, False),  # converged
        (RISING, [1.0] * 20, [3e5] * 20, False),  # it still learns
        (FLAT, [1.0] * 20, [3.0] * 17 + [3e5, 3.0, 3.0], True),  # now and then
        ([-8.0] * 10 + [-9.0] * 10, [1.0] * 10 + [1e4] * 10, [2.0] * 10 + [2e4] * 10, True),  # for good
        (FLAT, [1e4] * 10 + [1.0] * 10, [1e6] * 10 + [3.0] * 10, False),  # long over
        (FLAT[:5], [1.0] * 5, [3e5] * 5, False),  # too short to tell
        (FLAT, [math.nan] * 20, [math.nan] * 20, False),  # none was finite
    ],
)
def test_a_stall_is_told_from_convergence(elbo, norm, largest, stalled):
    found = why_stalled(rows_of(elbo, norm, largest))
    assert (found is not None) == stalled
    if stalled:
        assert "clip_norm=2" in found


class Line(torch.nn.Module):
    """x ~ N(w, 1), whose gradient is that of the rows' mean: an outlier makes it explode."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.w, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def falling(x):
    """Trained uphill, so that the ELBO falls."""
    pair = Line()
    uphill = torch.optim.SGD([pair.w], lr=1e-5, maximize=True)
    return pv.fit(
        pv.VAE(pair.model, pair.guide), x, epochs=80, batch_size=1, seed=0, optimizer=uphill, progress=False
    )


def test_fit_says_that_it_has_stalled():
    x = torch.arange(8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        falling(x)
    x[3], x[6] = 1e4, -2e4
    with pytest.warns(
        UserWarning, match=r"stalled: the ELBO has not risen over the last 20 epochs.*clip_norm="
    ):
        falling(x)
