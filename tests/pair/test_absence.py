"""What rows lack is integrated out: NaN against exact marginals, in every family, by every path."""

import math
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch, Rows, _rows_where
from pyrovae.models.sequences import MarkovSequence
from pyrovae.pair.absence import present_part
from pyrovae.pair.observed import observations_of
from tests.oracles import LinearGaussian

NAN = math.nan


def holes(x, share=0.3, seed=0):
    """The rows with a share of their entries absent, each with one entry at least."""
    absent = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    flat = absent.view(len(x), -1)
    flat[:, 0] &= ~flat.all(1)
    return x.masked_fill(absent, NAN)


def test_rows_with_holes_are_looked_for_once(monkeypatch):
    """A pair's inspection asks twice which rows lack an entry, and data may be larger than memory."""
    read = []
    monkeypatch.setattr("pyrovae.data._rows_where", lambda *given: read.append(given) or _rows_where(*given))
    rows = Rows(holes(torch.randn(50, 6)))
    before = len(read)
    assert len(rows.places_to_try(7)) == 7
    assert torch.equal(rows.places_to_try(1000), torch.arange(50))
    assert len(read) == before + 1


def marginals(model, x):
    """log p(x_present) of a linear-Gaussian model, row by row."""
    joint = model.evidence()
    found = []
    for row in x:
        kept = ~row.isnan()
        covariance = joint.covariance_matrix[kept][:, kept]
        normal = torch.distributions.MultivariateNormal(joint.loc[kept], covariance)
        found.append(normal.log_prob(row[kept]))
    return torch.stack(found)


class ExactGivenPresent(nn.Module):
    """p(z | x_present) of a linear-Gaussian model: each row's own precision."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def posterior(self, x):
        W, variance = self.model.W, self.model.scale**2
        present = (~x.isnan()).to(W)
        precision = torch.eye(W.shape[1]).to(W) + (W.T * present[:, None, :]) @ W / variance
        residual = ((x - self.model.b).nan_to_num(0.0) @ W / variance)[..., None]
        loc = torch.linalg.solve(precision, residual)[..., 0]
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.posterior(x))


class Mean(ExactGivenPresent):
    """A guide of the exact means, and scales far off."""

    def forward(self, x):
        z = self.posterior(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(z.mean, 0.3).to_event(1))


@pytest.fixture
def exact():
    model = LinearGaussian(K=2, D=6)
    return model, pv.VAE(model, ExactGivenPresent(model))


def test_the_weights_of_an_exact_guide_are_all_p_of_what_is_present(exact):
    model, vae = exact
    x = holes(model.data(200))
    truth = marginals(model, x)
    found = pv.log_marginal(vae, x, num_samples=20, seed=0)
    torch.testing.assert_close(found.log_marginal, truth, atol=1e-9, rtol=0)
    assert bool((found.std_error < 1e-6).all())
    torch.testing.assert_close(pv.elbo(vae, x, num_samples=4, seed=0).elbo, truth, atol=1e-9, rtol=0)
    assert found.dimensions == "the likelihood is a density" or isinstance(found.dimensions, str)


def test_rows_that_check_a_guide_lack_what_the_data_lack(exact):
    """A guide that is exact on complete rows alone is found out, and the exact one is not."""
    model, vae = exact
    x = holes(model.data(100))
    assert pv.diagnose(vae, x, num_samples=100, seed=0, gap_rows=0).reverse.passed

    class Filled(ExactGivenPresent):
        def posterior(self, x):
            return super().posterior(torch.where(x.isnan(), self.model.b, x))

    filled = pv.diagnose(pv.VAE(model, Filled(model)), x, num_samples=100, seed=0, gap_rows=0).reverse
    assert not filled.passed
    assert filled.poor


@pytest.mark.parametrize(
    "method, num_samples",
    [
        (pv.ImportanceSampling(prior_share=1.0), 1000),
        (pv.AnnealedImportanceSampling(num_temperatures=50), 20),
    ],
)
def test_other_methods_leave_it_out_too(exact, method, num_samples):
    model, vae = exact
    x = holes(model.data(20))
    found = pv.log_marginal(vae, x, num_samples=num_samples, method=method, seed=0)
    off = (found.log_marginal - marginals(model, x)) / found.std_error
    assert float(off.abs().median()) < 1.5
    assert float(off.abs().max()) < 6


def test_refined_posteriors_of_rows_with_holes_are_the_exact_ones():
    model = LinearGaussian(K=2, D=6)
    x = holes(model.data(30))
    start = pv.VAE(model, Mean(model))
    refined = pv.refine(start, x, full_covariance=True, seed=0).vae
    found = pv.log_marginal(refined, x, num_samples=500, seed=0)
    torch.testing.assert_close(found.log_marginal, marginals(model, x), atol=0.02, rtol=0)


def test_rows_that_lack_columns_are_rows_of_a_smaller_model(exact):
    """The density of rows without columns 1 and 4 is that of the model that never had them."""
    model, vae = exact
    x = model.data(20)
    kept = [0, 2, 3, 5]
    smaller = LinearGaussian(K=2, D=4)
    with torch.no_grad():
        smaller.W.copy_(model.W[kept])
        smaller.b.copy_(model.b[kept])
    x[:, [1, 4]] = NAN
    torch.testing.assert_close(
        pv.log_marginal(vae, x, num_samples=5, seed=0).log_marginal,
        smaller.evidence().log_prob(x[:, kept]),
        atol=1e-9,
        rtol=0,
    )


B, D = 7, 3
ROWS = torch.Generator().manual_seed(3)
REAL = torch.randn(B, D, generator=ROWS)
POSITIVE = REAL.exp()
COUNTS = torch.poisson(2 * torch.ones(B, D), generator=ROWS)
BINARY = (REAL > 0).float()
UNIT = torch.sigmoid(REAL)
WHOLE = torch.softmax(REAL, -1)
LABELS = torch.arange(B) % D
p = torch.randn(D, generator=ROWS)

INDEPENDENT = {
    "Normal": (lambda t: dist.Normal(t * p, 0.5), REAL),
    "StudentT": (lambda t: dist.StudentT(4.0, t * p, 0.5), REAL),
    "Laplace": (lambda t: dist.Laplace(t * p, 0.5), REAL),
    "LogNormal": (lambda t: dist.LogNormal(t * p, 0.5), POSITIVE),
    "Gamma": (lambda t: dist.Gamma((t * p).exp(), 2.0), POSITIVE),
    "Exponential": (lambda t: dist.Exponential((t * p).exp()), POSITIVE),
    "Weibull": (lambda t: dist.Weibull((t * p).exp(), 2.0), POSITIVE),
    "Pareto": (lambda t: dist.Pareto(0.5, (t * p).exp()), 0.6 + POSITIVE),
    "Uniform": (lambda t: dist.Uniform(-5 + t * p, 6.0), REAL),
    "Beta": (lambda t: dist.Beta((t * p).exp(), 2.0), UNIT),
    "Bernoulli": (lambda t: dist.Bernoulli(logits=t * p), BINARY),
    "Bernoulli of probs": (lambda t: dist.Bernoulli((t * p).sigmoid()), BINARY),
    "Poisson": (lambda t: dist.Poisson((t * p).exp()), COUNTS),
    "NegativeBinomial": (lambda t: dist.NegativeBinomial(3.0, logits=t * p), COUNTS),
    "Binomial": (lambda t: dist.Binomial(20, logits=t * p), COUNTS),
    "Geometric": (lambda t: dist.Geometric(logits=t * p), COUNTS),
    "Categorical": (
        lambda t: dist.Categorical(logits=torch.stack([t * p, 0 * t + p, 0 * t - p], -1)),
        COUNTS.clamp(max=2),
    ),
    "ZeroInflatedPoisson": (lambda t: dist.ZeroInflatedPoisson((t * p).exp(), gate_logits=p), COUNTS),
    "VonMises": (lambda t: dist.VonMises(t * p, 3.0), REAL.clamp(-3, 3)),
    "ContinuousBernoulli": (lambda t: pv.models.distributions.ContinuousBernoulli(t * p), UNIT),
}


@pytest.mark.parametrize("family", INDEPENDENT)
def test_independent_entries_count_one_by_one_with_finite_gradients(family):
    make, x = INDEPENDENT[family]
    t = torch.full((4, B, 1), 0.7, requires_grad=True)
    present = ~holes(x).isnan()
    marginal, filled = present_part(make(t).to_event(1), holes(x))
    expected = make(t).log_prob(x).where(present, 0.0).sum(-1)
    found = marginal.log_prob(filled)
    torch.testing.assert_close(found, expected)
    assert not bool(filled.isnan().any())
    (gradient,) = torch.autograd.grad(found.sum(), t)
    (of_expected,) = torch.autograd.grad(expected.sum(), t)
    torch.testing.assert_close(gradient, of_expected)


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_multivariate_normal_has_its_exact_marginal(low_rank):
    factor = torch.randn(D, 2, generator=ROWS, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loc = torch.linspace(-1, 1, D).double()

    def make():
        if low_rank:
            return dist.LowRankMultivariateNormal(loc * scale, factor * scale, torch.full((D,), 0.3).double())
        return dist.MultivariateNormal(
            loc * scale, factor @ factor.T * scale**2 + 0.3 * torch.eye(D).double()
        )

    x = holes(REAL.double())
    whole = make().expand([B])
    marginal, filled = present_part(whole, x)
    covariance = make().covariance_matrix
    expected = []
    for row in x:
        kept = ~row.isnan()
        normal = torch.distributions.MultivariateNormal((loc * scale)[kept], covariance[kept][:, kept])
        expected.append(normal.log_prob(row[kept]))
    expected = torch.stack(expected)
    found = marginal.log_prob(filled)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), scale), torch.autograd.grad(expected.sum(), scale), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("full", [False, True])
def test_mixtures_have_the_mixture_of_their_components_marginals(full):
    means = torch.randn(2, D, generator=ROWS, dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.3, 0.7]], dtype=torch.float64)
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
    if full:
        components = dist.MultivariateNormal(means, torch.diag_embed(scales**2) + 0.1)
    else:
        components = dist.Normal(means, scales).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(shares), components).expand([B])
    x = holes(REAL.double())
    marginal, filled = present_part(mixture, x)
    expected = []
    for row in x:
        kept = ~row.isnan()
        covariance = torch.diag_embed(scales**2) + (0.1 if full else 0.0)
        normal = torch.distributions.MultivariateNormal(means[:, kept], covariance[:, kept][:, :, kept])
        expected.append((shares.log() + normal.log_prob(row[kept])).logsumexp(0))
    expected = torch.stack(expected)
    found = marginal.log_prob(filled)
    torch.testing.assert_close(found, expected)
    (ours,), (theirs,) = (torch.autograd.grad(values.sum(), means) for values in (found, expected))
    torch.testing.assert_close(ours, theirs)


EVENTS = {
    "OneHotCategorical": (lambda: dist.OneHotCategorical(logits=p), torch.eye(D)[LABELS]),
    "Multinomial": (lambda: dist.Multinomial(4, logits=p), 4 * torch.eye(D)[LABELS]),
    "Dirichlet": (lambda: dist.Dirichlet(p.exp()), WHOLE),
}


@pytest.mark.parametrize("family", EVENTS)
def test_other_events_count_as_a_whole_or_are_refused(family):
    make, x = EVENTS[family]

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("label", make(), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.ones(len(x)))

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.5, 0.5**0.5).expand([len(x)]))

    some = x.clone()
    some[2] = NAN
    vae = pv.VAE(model, guide)
    found = pv.log_marginal(vae, some, num_samples=5, seed=0).log_marginal.float()
    expected = make().log_prob(x) + dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0))
    expected[2] -= make().log_prob(x)[2]
    torch.testing.assert_close(found, expected)
    partly = torch.cat([x] * 300)
    partly[1234, 0] = NAN
    with pytest.raises(ValueError, match=f"row 1234 of the data lacks a part of site 'label'.*{family}"):
        pv.elbo(pv.VAE(model, guide, example=x), partly)


def mixture(x):
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        means = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 1.0, -1.0]])
        pyro.sample("x", dist.Normal(means[k], 0.8).to_event(1), obs=x)


def nothing(x):
    pass


def test_enumerated_mixtures_leave_it_out():
    x = holes(REAL)
    found = pv.log_marginal(pv.VAE(mixture, nothing), x, num_samples=2).log_marginal
    means = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 1.0, -1.0]])
    terms = dist.Normal(means[:, None], 0.8).log_prob(x.nan_to_num()).where(~x.isnan(), 0.0).sum(-1)
    expected = (terms + torch.tensor([0.3, 0.7]).log()[:, None]).logsumexp(0)
    torch.testing.assert_close(found.float(), expected)
    torch.testing.assert_close(
        pv.VAE(mixture, nothing).sample_posterior(x, num_samples=4000, seed=0)["k"].float().mean(0),
        (terms + torch.tensor([0.3, 0.7]).log()[:, None]).softmax(0)[1],
        atol=0.04,
        rtol=0,
    )


# By every path


def composed(seed=0):
    torch.manual_seed(seed)
    net = pv.nn.MLP
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Normal(net(2, 4, [16]), scale=pv.nn.PositiveParameter(0.5))
    )
    encoder = pv.guides.DiagonalNormal(pv.nn.MissingAsZero(net(8, (2, 2), [16])))
    return pv.VAE(model, pv.guides.AmortizedGuide(encoder))


def table(N=600):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, 2, generator=generator)
    x = z @ torch.randn(2, 4, generator=generator) + 0.5 * torch.randn(N, 4, generator=generator)
    return holes(x)


@pytest.mark.parametrize("objective", [None, "Trace_ELBO", "IWAE"])
def test_training_leaves_it_out(objective):
    made = {None: None, "Trace_ELBO": pyro.infer.Trace_ELBO(), "IWAE": pv.objectives.IWAE(num_samples=3)}
    vae = composed()
    history = pv.fit(vae, table(), epochs=4, seed=0, objective=made[objective], compile=False, progress=False)
    assert history["loss"].notna().all()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["elbo"].iloc[-1] == pytest.approx(float(pv.elbo(vae, table()).elbo.mean()), abs=0.5)


def test_traced_and_plain_training_agree():
    found = []
    for compile in (False, True):
        vae = composed()
        history = pv.fit(vae, table(), epochs=2, seed=0, compile=compile, progress=False)
        assert ("plain" in history.attrs["engine"]) is not compile
        found.append(torch.cat([q.detach().reshape(-1) for q in vae.parameters()]))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)


def test_our_objectives_inside_svi_leave_it_out():
    vae, x = composed(), table(50)
    objective = pv.objectives.ELBO(num_samples=200)
    pyro.set_rng_seed(0)
    loss = objective.loss(vae.model, vae.guide, x) / 50
    assert loss == pytest.approx(-float(pv.elbo(vae, x, num_samples=200, seed=0).elbo.mean()), rel=0.05)


def test_derived_guides_read_values_and_presence():
    model = LinearGaussian(K=2, D=6).float()
    x = holes(LinearGaussian(K=2, D=6).data(4000).float())

    class Declared(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample(
                    "x", dist.Normal(z @ model.W.T.detach() + model.b.detach(), 0.5).to_event(1), obs=x
                )

    vae = pv.VAE(Declared())
    vae.rows(x)
    assert vae.guide.encoder[0].size == 12
    pv.fit(vae, x, epochs=60, seed=0, progress=False)
    truth = marginals(LinearGaussian(K=2, D=6), x[:500].double())
    gap = truth - pv.elbo(vae, x[:500], num_samples=50, seed=0).elbo
    assert float(gap.mean()) < 0.3
    complete = LinearGaussian(K=2, D=6).data(20).float()
    assert bool(vae.encode(complete).isfinite().all())


def test_a_guide_built_on_complete_rows_takes_rows_with_holes():
    model, x = LinearGaussian(K=2, D=6), LinearGaussian(K=2, D=6).data(50)
    vae = pv.VAE(
        pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Normal(pv.nn.MLP(2, (6, 6))))
    )
    vae.rows(x.float())
    with pytest.warns(UserWarning, match="made from rows that lack none"):
        assert bool(pv.elbo(vae, holes(x.float())).elbo.isfinite().all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.elbo(vae, holes(x.float()))  # said once
    del model


class Pixels(nn.Module):
    """Pixels of one scale around what a network makes."""

    def __init__(self, likelihood):
        super().__init__()
        self.network = likelihood.network

    def forward(self, z):
        return dist.Normal(self.network(z)[..., :1, :, :], 0.5).to_event(3)


class Chain(nn.Module):
    """A chain of two latents, three numbers a step."""

    def __init__(self):
        super().__init__()
        self.emission = nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            initial = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            chain = MarkovSequence(initial, lambda z: dist.Normal(0.8 * z, 0.5).to_event(1), x.shape[1])
            z = pyro.sample("z", chain)
            pyro.sample("x", dist.Normal(self.emission(z), 0.5).to_event(2), obs=x)


def test_derived_guides_of_images_and_sequences_see_what_is_there():
    images = holes(torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 0.2)
    likelihood = pv.models.Normal(pv.nn.ConvDecoder(2, (2, 8, 8)))
    sequences = holes(torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0)), 0.2)
    torch.manual_seed(0)
    for x, model in (
        (images, pv.models.LatentVariableModel(pv.models.StandardNormal(2), Pixels(likelihood))),
        (sequences, Chain()),
    ):
        vae = pv.VAE(model)
        assert pv.fit(vae, x, epochs=1, seed=0, progress=False)["loss"].notna().all()
        assert vae.guide.reads_presence
        other = x.clone()
        other[0].view(-1)[x[0].view(-1).isnan()] = 0.0  # present, and zero
        found = vae.sample_posterior(torch.cat([x[:1], other[:1]]), num_samples=1, seed=0)["z"]
        assert bool(found.isfinite().all())
        assert not torch.allclose(*pv.elbo(vae, torch.cat([x[:1], other[:1]])).rate, atol=1e-6)


@pytest.mark.parametrize("kind", ["frame", "array", "memmap", "loader", "dataset"])
def test_any_source_may_have_holes(kind, tmp_path):
    x = table(100)
    data = {
        "frame": lambda: pd.DataFrame(x.numpy()),
        "array": lambda: x.numpy(),
        "memmap": lambda: on_disk(x, tmp_path),
        "loader": lambda: torch.utils.data.DataLoader(list(x), batch_size=32),
        "dataset": lambda: torch.utils.data.TensorDataset(x),
    }[kind]()
    vae = composed()
    assert pv.fit(vae, data, epochs=1, seed=0, progress=False)["loss"].notna().all()
    if kind in ("frame", "array", "memmap"):
        torch.testing.assert_close(
            pv.elbo(vae, data, seed=0).elbo, pv.elbo(vae, x, seed=0).elbo, atol=1e-6, rtol=0
        )


def on_disk(x, path):
    file = np.memmap(path / "x.dat", dtype="float32", mode="w+", shape=tuple(x.shape))
    file[:] = x.numpy()
    return file


def test_what_is_absent_is_counted_nowhere():
    vae, x = composed(), table(40)
    found = observations_of(vae, vae.rows(x).take(slice(None)))["x"]
    assert torch.equal(found.counted, ~x.isnan())
    assert torch.equal(found.dimensions, (~x.isnan()).sum(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = pv.to_arviz(vae, x, num_samples=20, seed=0)
    observed = torch.tensor(np.asarray(tree["observed_data"]["x"]))
    assert torch.equal(observed.isnan(), x.isnan())


def test_bits_per_dimension_are_of_what_is_present():
    x = holes(BINARY)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(0.5 * torch.ones(D)).to_event(1), obs=x)
            del z

    vae = pv.VAE(model)
    torch.manual_seed(0)
    found = pv.log_marginal(vae, x, num_samples=1000, method=pv.ImportanceSampling(prior_share=1.0), seed=0)
    torch.testing.assert_close(found.bits_per_dimension, torch.ones(B).double())


def test_complete_rows_run_as_ever():
    """The same numbers from the same stream, and no handler in between."""
    x = table(30).nan_to_num(0.5)
    assert not Rows(x).absent
    vae = composed()
    assert "MaskedDistribution" not in str(
        {type(site.distribution.base_dist) for site in _sites(vae, x) if site.observed}
    )


def _sites(vae, x):
    from pyrovae.pair.traces import sites_of

    with vae.evaluating():
        return list(sites_of(vae.model, Batch((x,))).values())


# What is refused


def test_a_row_with_nothing_observed_is_named():
    x = table(700)
    x[555] = NAN
    with pytest.raises(ValueError, match="row 555 of the data has nothing observed: it says"):
        pv.elbo(composed(), x)
    with pytest.raises(ValueError, match="row 555 of the data has nothing observed: it says"):
        pv.fit(composed(), x, epochs=1, progress=False)


def test_infinite_values_are_refused():
    x = table(50)
    x[20, 1] = math.inf
    with pytest.raises(ValueError, match="x holds an infinite value in row 20"):
        composed().rows(x)


@pytest.mark.parametrize("seen", [False, True])
def test_a_guide_that_makes_nan_of_it_is_told_what_helps(seen):
    torch.manual_seed(0)
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(pv.nn.MLP(2, D)))
    encoder = pv.guides.DiagonalNormal(pv.nn.MLP(D, (2, 2)))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(encoder), example=BINARY if seen else None)
    with pytest.raises(ValueError, match=r"(?s)the guide failed.*MissingAsZero"):
        vae.encode(holes(BINARY))


def test_context_without_its_values_is_refused():
    def model(x, c):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    c = torch.randn(B)
    c[4] = NAN
    with pytest.raises(ValueError, match=r"context 1 lack entries.*context has no absent entries"):
        pv.VAE(model).rows(torch.randn(B), c)


def test_a_site_that_no_row_has_cannot_be_trained():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    x, y = torch.randn(B), torch.full((B,), NAN)
    with pytest.raises(ValueError, match="no row has anything of 'y'"):
        pv.fit(pv.VAE(model), (x, y), epochs=1, progress=False)
    vae = pv.VAE(model)
    pv.fit(vae, (x, x), epochs=1, progress=False, seed=0)
    with pytest.warns(UserWarning, match="made from rows that lack none"):
        assert bool(pv.elbo(vae, x, y).elbo.isfinite().all())  # evaluating without it is what it is for


# Labels on which others depend: obs_mask=


@pyro.infer.config_enumerate
def labelled(x, y):
    with pyro.plate("rows", len(x)):
        label = pyro.sample(
            "y",
            dist.Categorical(torch.tensor([0.2, 0.3, 0.5])),
            obs=y,
            obs_mask=~y.isnan(),
        )
        means = torch.tensor([-2.0, 0.0, 2.0])
        pyro.sample("x", dist.Normal(means[label.long()], 1.0), obs=x)


def no_latents(x, y):
    pass


def test_labels_that_are_absent_are_summed_out_and_known_ones_count():
    x, y = torch.randn(30), (torch.arange(30) % 3).float()
    y[::2] = NAN
    found = pv.log_marginal(pv.VAE(labelled, no_latents), x, y, num_samples=1).log_marginal.float()
    joint = dist.Normal(torch.tensor([-2.0, 0.0, 2.0]), 1.0).log_prob(x[:, None])
    joint = joint + torch.tensor([0.2, 0.3, 0.5]).log()
    known = joint.gather(1, y.nan_to_num().long()[:, None])[:, 0]
    torch.testing.assert_close(found, torch.where(y.isnan(), joint.logsumexp(1), known))


def test_other_mistakes_of_rows_with_holes_are_not_laid_to_the_holes():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.no_such_thing, 1.0), obs=x)

    with pytest.raises(ValueError, match="no_such_thing") as caught:
        pv.VAE(model).rows(holes(torch.randn(7, 1))[:, 0].index_fill(0, torch.tensor([2]), NAN))
    assert "lack entries" not in str(caught.value)
