"""fit: the right gradients, weighed by rows, reproducible, with an honest history."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyrovae as pv
from pyrovae.random_state import seed_of
from tests.oracles import LinearGaussian, WideGuide
from tests.pairs import binary_rows, composed, with_param

COLUMNS = [
    "epoch",
    "loss",
    "elbo",
    "reconstruction",
    "rate",
    "elbo_valid",
    "gradient_norm",
    "gradient_norm_max",
    "seconds",
]


class Recording(torch.optim.SGD):
    """Keeps every gradient."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.gradients = []

    def step(self, closure=None):
        self.gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])


class Deterministic(nn.Module):
    """A pair whose loss has no noise: q is a point of the prior's scale, so gradients are known by hand."""

    def __init__(self, plate_size=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))
        self.plate_size = plate_size

    def plate(self, x):
        if self.plate_size is None:
            return pyro.plate("rows", len(x))
        return pyro.plate("rows", self.plate_size, subsample_size=len(x))

    def model(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.w, 1.0), obs=x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


@pytest.mark.parametrize("plate_size", [None, 1000])
def test_each_row_weighs_the_same_in_a_ragged_epoch_and_under_a_subsampled_plate(plate_size):
    x = torch.arange(10.0)
    pair = Deterministic(plate_size)
    vae = pv.VAE(pair.model, pair.guide)
    optimizer = Recording([pair.w])
    history = pv.fit(vae, x, epochs=1, batch_size=4, optimizer=optimizer, seed=0, progress=False)
    assert len(optimizer.gradients) == 3
    # d/dw of the mean negative log likelihood is w - mean(x); batches of 4, 4 and 2 rows, each over 4.
    total = sum(float(g[0]) for g in optimizer.gradients) * 4 / 10
    assert total == pytest.approx(0.5 - 4.5, rel=1e-5)
    expected = torch.distributions.Normal(0.5, 1.0).log_prob(x).mean()
    assert history.reconstruction[0] == pytest.approx(float(expected), rel=1e-5)
    assert history.loss[0] == pytest.approx(-float(expected), rel=1e-5)
    assert history.rate[0] == pytest.approx(0.0, abs=1e-6)


def test_gradients_are_those_of_trace_elbo():
    x = binary_rows(12)
    vae = composed(hidden=[5])
    optimizer = None

    def make(parameters):
        nonlocal optimizer
        optimizer = Recording(parameters)
        return optimizer

    pv.fit(vae, x, epochs=1, batch_size=12, optimizer=make, seed=4, progress=False)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed_of(seed_of(4, 0), 0)))
    torch.manual_seed(seed_of(4, 3))
    loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x[order]) / 12
    expected = torch.autograd.grad(loss, list(vae.parameters()))
    for ours, theirs in zip(optimizer.gradients[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "objective",
    [
        pyro.infer.Trace_ELBO(num_particles=3),
        pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        pyro.infer.TraceMeanField_ELBO(),
        pyro.infer.TraceGraph_ELBO(),
        pyro.infer.RenyiELBO(alpha=0.0, num_particles=4, vectorize_particles=True, max_plate_nesting=1),
    ],
    ids=lambda o: type(o).__name__,
)
def test_pyros_own_objectives_train(objective):
    x = binary_rows()
    vae = composed()
    history = pv.fit(vae, x, epochs=30, objective=objective, seed=0, progress=False, batch_size=20)
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]
    assert np.isfinite(history.drop(columns="elbo_valid")).all(axis=None)
    np.testing.assert_allclose(history.elbo, history.reconstruction - history.rate, rtol=1e-4)
    if type(objective) is pyro.infer.Trace_ELBO:
        np.testing.assert_allclose(history.loss, -history.elbo, rtol=1e-4)


def test_the_history_logs_the_true_elbo_of_a_tempered_program():
    x = binary_rows()
    vae = composed()
    plain = vae.model

    def tempered(x):
        pyro.module("plain", plain)
        return poutine.scale(plain, 3.0)(x)

    scaled = pv.VAE(tempered, vae.guide)
    history = pv.fit(
        scaled, x, epochs=1, seed=0, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    reference = pv.fit(
        vae, x, epochs=1, seed=0, progress=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    assert history.elbo[0] == pytest.approx(reference.elbo[0], rel=1e-5)
    assert abs(history.loss[0] + history.elbo[0]) > 1


def test_runs_that_guess_the_plates_do_not_count():
    x = binary_rows()
    vae = composed()
    still = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731
    objective = pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True)
    history = pv.fit(vae, x, epochs=2, objective=objective, optimizer=still, seed=0, progress=False)
    np.testing.assert_allclose(history.loss, -history.elbo, rtol=1e-4)


def test_a_guide_that_enumerates():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[k], 1.0), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.3, 0.7]).log())

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})

    vae, x = pv.VAE(model, Guide()), torch.randn(4000)
    objective = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    history = pv.fit(vae, x, epochs=1, batch_size=4000, objective=objective, seed=0, progress=False)
    assert history.elbo[0] == pytest.approx(-history.loss[0], abs=0.1)


def test_history_and_what_it_means():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(200)
    still = lambda p: torch.optim.SGD(p, lr=0.0)  # noqa: E731
    history = pv.fit(vae, x, epochs=3, validation=x[:50], optimizer=still, seed=0, progress=False)
    assert list(history) == COLUMNS
    assert history.epoch.tolist() == [1, 2, 3]
    truth = float((vae.guide.reconstruction(x) - vae.guide.kl(x)).mean().detach())
    spread = float(pv.elbo(vae, x, num_samples=100).std_error.mean()) * 10 / 200**0.5
    assert history.elbo.mean() == pytest.approx(truth, abs=5 * spread / 3**0.5)
    assert history.elbo_valid.nunique() == 1  # the same draws each epoch
    assert pv.fit(vae, x, epochs=1, optimizer=still, progress=False).elbo_valid.isna().all()


def test_a_seed_decides_the_training_and_leaves_the_random_state():
    x = binary_rows()

    def train(make, seed):
        torch.manual_seed(0)
        vae = make()
        before = torch.get_rng_state()
        history = pv.fit(vae, x, epochs=2, batch_size=16, seed=seed, validation=x, progress=False)
        if seed is not None:
            assert torch.equal(before, torch.get_rng_state())
        return history.drop(columns="seconds"), torch.cat([p.detach().flatten() for p in vae.parameters()])

    for make in (composed, with_param):
        (a, p), (b, q), (c, r) = train(make, 1), train(make, 1), train(make, 2)
        assert a.equals(b)
        assert torch.equal(p, q)
        assert not a.equals(c)
        assert not torch.equal(p, r)
        assert train(make, None)[0].equals(train(make, None)[0])  # from torch's own state


def test_validation_does_not_train():
    x = binary_rows()
    first, second = [], []
    for v, store in ((None, first), (1 - x, second)):
        torch.manual_seed(0)
        vae = composed()
        pv.fit(vae, x, epochs=2, seed=0, progress=False, validation=v)
        store.extend(p.detach() for p in vae.parameters())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_constructed_optimizer_and_frozen_parameters():
    x = binary_rows()
    vae = composed()
    vae.model.requires_grad_(False)
    frozen = [p.clone() for p in vae.model.parameters()]
    pv.fit(vae, x, epochs=1, optimizer=torch.optim.Adam(vae.guide.parameters(), lr=0.1), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(frozen, vae.model.parameters(), strict=True))


def test_batch_size_above_the_rows_takes_them_all():
    x = torch.arange(10.0)
    pair = Deterministic()
    optimizer = Recording([pair.w])
    pv.fit(pv.VAE(pair.model, pair.guide), x, epochs=1, batch_size=999, optimizer=optimizer, progress=False)
    assert float(optimizer.gradients[0][0]) == pytest.approx(0.5 - 4.5, rel=1e-5)


def test_training_mode_while_training_and_evaluation_mode_for_validation():
    modes = []

    class Watching(pv.nn.MLP):
        def forward(self, *inputs):
            modes.append(self.training)
            return super().forward(*inputs)

    posterior = pv.guides.DiagonalNormal(Watching(6, (2, 2)))
    vae = pv.VAE(composed().model, pv.guides.AmortizedGuide(posterior))
    x = binary_rows()
    vae.rows(x)
    modes.clear()
    pv.fit(vae, x, epochs=1, progress=False, validation=x)
    assert modes[1] is True  # after a look at what no module holds
    assert modes[-1] is False


def test_progress_goes_to_stderr(capsys):
    pv.fit(composed(), binary_rows(), epochs=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ELBO" in captured.err
