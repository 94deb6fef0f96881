"""Discrete latents summed out of traced steps and chunks: the numbers of plain Pyro, gradients too."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.traced.traced import Traced
from pyrovae.traced.tracing import NotTraceableError, trace
from tests.pair.test_enumeration import Hidden
from tests.traced.test_tracing import steps_of

N = 9
NAN = float("nan")


class Digits(nn.Module):
    """A semi-supervised VAE (Kingma et al. 2014): absent labels summed out, by the model or by the guide."""

    def __init__(self, D=6, K=2, classes=3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.K, self.classes = K, classes
        self.decoder, self.encoder = pv.nn.MLP(K + classes, D, [5]), pv.nn.MLP(D, (K, K), [5])
        self.classifier, self.by_label = pv.nn.MLP(D, classes), pv.nn.MLP(D + classes, (K, K), [5])
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    @config_enumerate
    def model(self, x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.K), 1.0).to_event(1))
            uniform = dist.Categorical(logits=x.new_zeros(self.classes))
            y = pyro.sample("y", uniform, obs=y, obs_mask=~y.isnan())
            label = nn.functional.one_hot(y.long(), self.classes).to(x)
            logits = self.decoder(pv.nn.join(z, label))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y):
        """q(z|x), whatever y is."""
        location, raw = self.encoder(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(location, pv.nn.positive(raw)).to_event(1))

    @staticmethod
    def data():
        generator = torch.Generator().manual_seed(1)
        x = torch.bernoulli(torch.full((N, 6), 0.5), generator=generator)
        y = (torch.arange(N) % 3).float()
        return x, torch.where(torch.arange(N) % 2 == 0, NAN, y)


class InGuide(Digits):
    """All labels absent, and the guide the one that enumerates; the model has them as ordinary latents."""

    def __init__(self, never=None):
        super().__init__()
        self.register_buffer("never", torch.zeros(3))
        if never is not None:
            self.never[never] = -float("inf")

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.K), 1.0).to_event(1))
            label = pyro.sample("y", dist.OneHotCategorical(logits=self.never))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(pv.nn.join(z, label))).to_event(1), obs=x)

    @config_enumerate
    def guide(self, x):
        with pyro.plate("rows", len(x)):
            label = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x) + self.never))
            location, raw = self.by_label(pv.nn.join(x, label))
            pyro.sample("z", dist.Normal(location, pv.nn.positive(raw)).to_event(1))


class Plated(nn.Module):
    """Each row's group summed out above a plate of pixels' own, which are summed out too; some rows masked."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([[-1.0, 0.5], [0.3, 1.0], [2.0, -0.4]]))
        self.width = nn.Parameter(torch.zeros(4))

    @config_enumerate
    def model(self, x):
        with pyro.plate("rows", len(x)), poutine.mask(mask=x[:, 0] > -0.5):
            group = pyro.sample("group", dist.Categorical(logits=self.means[:, 0]))
            with pyro.plate("pixels", 4, dim=-2):
                switch = pyro.sample("switch", dist.Bernoulli(logits=self.means[group, 1]))
                mean = self.means[group, switch.long()]
                pyro.sample("x", dist.Normal(mean, self.width.exp()[:, None]), obs=x.T)

    def guide(self, x):
        pass


def semi_supervised():
    pair = Digits()
    return pv.VAE(pair.model, pair.guide), Digits.data()


def derived():
    torch.manual_seed(0)
    pair = Digits()
    del pair.encoder, pair.classifier, pair.by_label
    return pv.VAE(pair.model), Digits.data()


def hidden_markov():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(5, (N, 6), generator=generator)
    return pv.VAE(Hidden(), lambda *_: None), (x, torch.randint(1, 7, (N,), generator=generator))


def plated():
    pair = Plated()
    x = torch.randn((N, 4), generator=torch.Generator().manual_seed(0))
    return pv.VAE(pair.model, pair.guide), (x,)


def in_guide(never=None):
    pair = InGuide(never)
    return pv.VAE(pair.model, pair.guide), Digits.data()[:1]


BY_MODEL = {
    "semi-supervised": semi_supervised,
    "derived guide": derived,
    "hidden Markov": hidden_markov,
    "inner plate": plated,
}
OF_PYRO = {
    "default": lambda: None,
    "particles": lambda: TraceEnum_ELBO(max_plate_nesting=1, num_particles=2),
    "vectorized": lambda: TraceEnum_ELBO(max_plate_nesting=1, num_particles=3, vectorize_particles=True),
}
BY_ROW = {"ELBO": pv.objectives.ELBO, "IWAE": lambda: pv.objectives.IWAE(num_samples=3)}


def assert_traced_as_plain(make, objective, drawn_once=True):
    """Statistics and every gradient, on two batches, from the same random state.

    Loss and logged ELBO are of the same draws, if drawn once.
    """
    found = {}
    for compile in ("auto", False):
        vae, arguments = make()
        steps = steps_of(vae, arguments, objective(), compile=compile)
        torch.manual_seed(3)
        absent = any(torch.is_floating_point(a) and bool(a.isnan().any()) for a in arguments)
        batches = [Batch(arguments, absent), Batch(tuple(a.flip(0) for a in arguments), absent)]
        found[compile] = [(statistics.clone(), *gradients) for statistics, gradients in map(steps, batches)]
        assert steps.engine == ("traced" if compile else "plain Pyro (compile=False)")
    for ours, theirs in zip(*found.values(), strict=True):
        if drawn_once:
            torch.testing.assert_close(ours[0][0], -ours[0][1])
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()) + 1e-7)


@pytest.mark.parametrize("objective", [*OF_PYRO, *BY_ROW])
@pytest.mark.parametrize("pair", BY_MODEL)
def test_steps_of_models_that_enumerate(pair, objective):
    if pair == "inner plate" and objective in OF_PYRO:
        nesting = {"max_plate_nesting": 2, "num_particles": 2}
        made = {"default": lambda: None, "particles": lambda: TraceEnum_ELBO(**nesting)}
        made["vectorized"] = lambda: TraceEnum_ELBO(**nesting, vectorize_particles=True)
        assert_traced_as_plain(BY_MODEL[pair], made[objective])
        return
    assert_traced_as_plain(BY_MODEL[pair], {**OF_PYRO, **BY_ROW}[objective], objective in OF_PYRO)


@pytest.mark.parametrize("never", [None, 1])
@pytest.mark.parametrize("objective", ["particles", "vectorized"])
def test_steps_of_guides_that_enumerate(objective, never):
    """A label of probability zero has an infinite term, which Pyro leaves out."""
    assert_traced_as_plain(lambda: in_guide(never), OF_PYRO[objective], drawn_once=False)


@pytest.fixture
def chunks(monkeypatch):
    """What ran the chunks, however few."""
    made = []

    class Watched(Traced):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr("pyrovae.traced.repeated.CALLS_TO_TRACE", 0)
    monkeypatch.setattr("pyrovae.traced.repeated.Traced", Watched)
    return made


@pytest.mark.parametrize("prior_share", [0.0, 0.3])
@pytest.mark.parametrize("pair", BY_MODEL)
def test_log_marginal_of_models_that_enumerate(pair, prior_share, chunks):
    vae, data = BY_MODEL[pair]()
    given = {"num_samples": 40, "seed": 0, "method": pv.ImportanceSampling(prior_share)}
    plain = pv.log_marginal(vae, *data, compile=False, **given)
    chunks.clear()
    fast = pv.log_marginal(vae, *data, compile=True if pair == "semi-supervised" else "auto", **given)
    for computation in chunks:
        assert str(computation.outcome).startswith("traced"), str(computation.outcome)
    torch.testing.assert_close(fast.log_marginal, plain.log_marginal, rtol=1e-5, atol=1e-5)
    assert bool(plain.log_marginal.isfinite().all())


def test_training_compiles_and_gives_the_same_history():
    histories = []
    for compile in (True, False):
        vae, data = semi_supervised()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            histories.append(pv.fit(vae, data, epochs=4, seed=0, compile=compile, progress=False))
    assert histories[0].attrs["engine"].startswith("traced and compiled")
    for column in ("loss", "elbo", "rate"):
        torch.testing.assert_close(
            *(torch.tensor(h[column].to_numpy()) for h in histories), rtol=1e-4, atol=1e-4
        )


def test_a_one_hot_of_an_index_outside_fails_in_a_trace_too():
    pair = Digits()
    x, y = Digits.data()
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x, y))
    steps(Batch((x, y), True))
    assert steps.engine == "traced"
    with pytest.raises(ValueError, match=r"index 3 is out of bounds .* Labels go from 0 to K - 1"):
        steps(Batch((x, torch.full((N,), 3.0)), True))


def test_a_program_that_picks_by_values_is_still_refused():
    """Pyro's own objective may, because a sum over what is picked has a fixed shape."""
    picked = torch.randn(N)
    with pytest.raises(NotTraceableError, match="the shape that aten.masked_select.default gives"):
        trace(lambda x: [x.masked_select(x > 0).sum()], (picked,))
