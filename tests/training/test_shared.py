"""Training beside shared latents: losses are Pyro's with the plate of all rows subsampled, however rows are batched."""

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.pair.handlers import RowsAsGiven
from pyrovae.random_state import fixed_seed
from pyrovae.training.batch_loss import batch_loss
from tests.shared_models import (
    amortized,
    counts,
    hierarchy,
    posterior_of_mean,
    subsampled_guide,
    subsampled_hierarchy,
)
from tests.training import together

N, B = 40, 8
X = torch.randn(N, generator=torch.Generator().manual_seed(0)) + 1.0
CPU = torch.device("cpu")

OBJECTIVES = {
    "Trace_ELBO": (Trace_ELBO(), Trace_ELBO()),
    "particles": (Trace_ELBO(num_particles=3), Trace_ELBO(num_particles=3)),
    "mean field": (pyro.infer.TraceMeanField_ELBO(), pyro.infer.TraceMeanField_ELBO()),
    "ELBO": (pv.objectives.ELBO(analytic_kl=False), Trace_ELBO()),
    "ELBO of particles": (pv.objectives.ELBO(3, analytic_kl=False), Trace_ELBO(num_particles=3)),
    "IWAE of one draw": (pv.objectives.IWAE(1, num_bounds=3), Trace_ELBO(num_particles=3)),
}


def statistics(vae, objective, x, num_rows=N):
    loss = batch_loss(vae, objective)
    loss.num_rows = num_rows
    parameters = list(vae.parameters())
    with fixed_seed(1, CPU), vae.scope(), RowsAsGiven(len(x)):
        return loss.statistics_and_gradients(Batch((x,)), parameters, 1.0)


@pytest.mark.parametrize("sized", ["by the batch", "by the data"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_are_pyros(name, sized):
    ours, theirs = OBJECTIVES[name]
    pair = (
        (hierarchy, amortized) if sized == "by the batch" else (subsampled_hierarchy(N), subsampled_guide(N))
    )
    vae = pv.VAE(*pair, example=X)
    found, gradients = statistics(vae, ours, X[:B])
    with fixed_seed(1, CPU), pyro.get_param_store().scope(), RowsAsGiven(B):
        pyro.clear_param_store()
        loss = theirs.differentiable_loss(subsampled_hierarchy(N), subsampled_guide(N), X[:B])
        loss.backward()
        expected = {n: p.grad for n, p in pyro.get_param_store().named_parameters()}
    torch.testing.assert_close(found[0] * N / B, loss.detach(), rtol=1e-5, atol=1e-4)
    names = [n.removeprefix("store.") for n, _ in vae.named_parameters()]
    for parameter, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(gradient * N / B, expected[parameter], rtol=1e-4, atol=1e-4)
    # The ELBO of a history is that of the loss, unless this has a closed form.
    if "mean field" not in name:
        torch.testing.assert_close(found[1], -found[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[1], found[2] - found[3])


def test_svi_takes_objectives_by_row_beside_shared_latents():
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        model, guide = subsampled_hierarchy(N), subsampled_guide(N)
        losses = []
        for objective in (pv.objectives.ELBO(2, analytic_kl=False), Trace_ELBO(num_particles=2)):
            pyro.clear_param_store()
            svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), objective)
            with fixed_seed(3, CPU), RowsAsGiven(B):
                losses.append([svi.step(X[:B]) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_parts_of_a_batch_add_up_to_the_batch():
    """As several processes and accumulated batches have them, at points, where draws of theta tell nothing."""

    def point(x):
        pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1e-3))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x + pyro.param("shift", torch.tensor(0.1)), 1e-3))

    vae = pv.VAE(hierarchy, point, example=X)
    _, gradients = statistics(vae, Trace_ELBO(), X[:B])
    parts = [statistics(vae, Trace_ELBO(), part) for part in (X[:3], X[3:B])]
    for place, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, sum(part[1][place] for part in parts), rtol=0.02, atol=0.1)


def test_accumulated_batches_are_one_batch():
    """To rounding, with noise that is data: each part pays the share of theta's cost that its rows have."""
    whole = together.noiseless(above=True, compile=False)
    parts = together.noiseless(above=True, compile=False, batch_size=together.BATCH // 2, accumulate=2)
    assert len(whole["gradients"]) == 12
    scale = abs(whole["gradients"]).max()
    np.testing.assert_allclose(parts["gradients"], whole["gradients"], rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(parts["history"][:, 1:], whole["history"][:, 1:], rtol=1e-5)


def test_theta_has_all_rows_below_it_in_every_batch():
    """Its posterior is that of N rows, of whatever size batches are and whether they are accumulated."""
    loc, scale = posterior_of_mean(X)
    for accumulate, batch_size in ((1, N), (2, B)):
        torch.manual_seed(0)
        vae = pv.VAE(hierarchy, amortized, example=X)
        optimizer = torch.optim.Adam(vae.parameters(), lr=0.06)
        steps = -(-N // batch_size) // accumulate or 1
        pv.fit(
            vae,
            X,
            epochs=500 // steps,
            batch_size=batch_size,
            accumulate=accumulate,
            objective=pv.objectives.ELBO(4),
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (steps / 500)),
            seed=0,
            progress=False,
        )
        found = {n.removeprefix("store."): p.detach() for n, p in vae.named_parameters()}
        assert abs(float(found["loc"]) - loc) < 0.1 * scale
        assert float(found["scale"].exp()) == pytest.approx(scale, rel=0.1)


def test_a_stream_must_say_how_many_rows_there_are():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(X.abs().round())

    vae = pv.VAE(counts, example=X.abs().round())
    with pytest.raises(ValueError, match="'rate' are shared by all rows, and the data do not tell how many"):
        pv.fit(vae, Stream(), epochs=1, progress=False)


def test_a_plate_of_another_number_of_rows_is_refused():
    vae = pv.VAE(subsampled_hierarchy(1000), subsampled_guide(1000), example=X)
    with pytest.raises(ValueError, match="says that these are 1000, and the data have 40"):
        pv.fit(vae, X, epochs=1, progress=False)


@pytest.mark.parametrize(
    "objective",
    [
        pv.objectives.ELBO(sticking_the_landing=True),
        pv.objectives.IWAE(4, doubly_reparameterized=True),
        pv.objectives.ReweightedWakeSleep(),
        pyro.infer.RenyiELBO(alpha=0.5),
    ],
)
def test_objectives_that_do_not_cover_theta_say_so(objective):
    vae = pv.VAE(hierarchy, amortized, example=X)
    with pytest.raises((TypeError, ValueError), match="'mean'.*objectives.ELBO"):
        pv.fit(vae, X, objective=objective, epochs=1, progress=False)


def test_the_step_is_traced():
    vae = pv.VAE(hierarchy, amortized, example=X)
    plain = pv.VAE(hierarchy, amortized, example=X)
    histories = [
        pv.fit(v, X, epochs=60, batch_size=B, seed=0, compile=how, progress=False)
        for v, how in ((vae, "auto"), (plain, False))
    ]
    assert "plain" not in histories[0].attrs["engine"], histories[0].attrs["engine"]
    torch.testing.assert_close(
        torch.tensor(histories[0]["loss"].values),
        torch.tensor(histories[1]["loss"].values),
        rtol=1e-4,
        atol=1e-4,
    )
