"""Diagnosis against closed forms: rates by dimension, information, collapse, the guide and its gaps."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.criticism.activity import Activity
from pyrovae.criticism.guide_verdict import guide_in_words
from pyrovae.criticism.information import _bounds, information
from pyrovae.data import Batch
from pyrovae.evidence.memory import PeakMemory
from pyrovae.evidence.psis import chance_of_bad_k, good_k, pareto_k
from pyrovae.evidence.results import LogMarginal, Stages
from pyrovae.pair.running import row_terms
from pyrovae.plots.panels.importance_weights import of_weights
from pyrovae.random_state import fixed_seed, seeds_from
from tests.components import MODELS
from tests.oracles import ExactGuide, LinearGaussian, WideGuide
from tests.pairs import PAIRS, binary_rows, composed, methods

EVERYTHING = {
    name: (make, lambda N, c=context: (binary_rows(N), *c(N))) for name, (make, context) in PAIRS.items()
}
EVERYTHING |= {name: (lambda e=entry: pv.VAE(*e.make()), entry.data) for name, entry in MODELS.items()}


class Partly(LinearGaussian):
    """Some of its latents the model does not use."""

    def __init__(self, unused, K=4, D=6):
        super().__init__(K=K, D=D)
        with torch.no_grad():
            self.W[:, unused] = 0.0


class Levels(nn.Module):
    """z2 -> z1 -> x, and a guide of the other order: z2's closed form would forget what z1 tells of it."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 0.5).to_event(1))
            pyro.sample("x", dist.Normal(z1, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.7 * x, 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(0.6 * z1, 0.6).to_event(1))


def levels():
    pair = Levels()
    return pv.VAE(pair.model, pair.guide)


EVERYTHING["Levels"] = (levels, lambda N: (torch.randn(N, 2),))


@pytest.mark.parametrize("name", EVERYTHING)
def test_rates_of_entries_sum_to_the_rate_of_their_site(name):
    make, data = EVERYTHING[name]
    vae, arguments = make(), data(7)
    vae.rows(*arguments)
    with vae.evaluating(), fixed_seed(0, vae.device):
        terms = row_terms(vae, vae.rows(*arguments).take(slice(None)), 3)
        for latent, site in vae.layout.latents.items():
            found = terms.entry_rates(latent)
            if name in ("DeepMarkovModel", "LinearGaussianChain"):
                assert found is None  # a chain does not factorize
                continue
            assert found.shape == (3, 7, *site.inner_sizes, *site.event_shape)
            whole = terms.site_rate(latent)
            torch.testing.assert_close(found.reshape(3, 7, -1).sum(2), whole, rtol=1e-4, atol=1e-5)


def test_a_pair_that_runs_on_repeated_rows_is_among_these():
    vae = PAIRS["tutorial"][0]()
    vae.rows(binary_rows())
    assert not (vae.layout.guide_broadcasts and vae.layout.model_broadcasts)


class Plated(nn.Module):
    """Three latents of a plate inside a row, and a masked one, of families without a closed form."""

    def model(self, x):
        with pyro.plate("rows", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                a = pyro.sample("a", dist.StudentT(5.0, 0.0, 1.0).expand([2]).to_event(1))
            with pyro.poutine.mask(mask=x[..., 0] > 0):
                pyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(a.sum((-1, -3)).unsqueeze(-1) + 0 * x, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x), dim=-1):
            with pyro.plate("parts", 3, dim=-2):
                loc = torch.linspace(0.1, 0.6, 6).reshape(3, 1, 2) * x.sum(-1, keepdim=True)
                pyro.sample("a", dist.Normal(loc, 0.5).to_event(1))
            with pyro.poutine.mask(mask=x[..., 0] > 0):
                pyro.sample("b", dist.Normal(x[..., :2], 0.7).to_event(1))


def test_entries_in_plates_and_under_masks():
    pair, x = Plated(), torch.randn(9, 4)
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(x)
    with vae.evaluating(), fixed_seed(0, vae.device):
        terms = row_terms(vae, Batch((x,)), 5)
        a, b = (terms.entry_rates(name) for name in "ab")
    assert a.shape == (5, 9, 3, 2)
    assert b.shape == (5, 9, 2)
    for name, found in (("a", a), ("b", b)):
        torch.testing.assert_close(
            found.reshape(5, 9, -1).sum(2), terms.site_rate(name), rtol=1e-4, atol=1e-5
        )
    assert bool((b[:, x[:, 0] <= 0] == 0).all())
    value = terms.latents["a"]  # [S, parts, B, 2]
    q = torch.distributions.Normal(
        torch.linspace(0.1, 0.6, 6).reshape(3, 1, 2) * x.sum(-1, keepdim=True), 0.5
    )
    by_hand = q.log_prob(value) - torch.distributions.StudentT(5.0).log_prob(value)
    torch.testing.assert_close(a, by_hand.transpose(1, 2))
    page = pv.diagnose(vae, x, num_samples=50, seed=0)
    assert list(page.rates["dimension"]) == ["0,0", "0,1", "1,0", "1,1", "2,0", "2,1", "0", "1"]
    assert "'b' is masked in some rows" in page.information.note


def test_rates_and_variances_of_means_in_closed_form():
    model = LinearGaussian(K=3, D=4)
    vae, x = pv.VAE(model, WideGuide(model, 1.3, 0.2)), model.data(300)
    page = pv.diagnose(vae, x, num_samples=100, seed=0)
    exact = model.posterior(x)
    scale = 1.3 * exact.variance.sqrt()
    location = exact.mean + 0.2 * scale
    rates = (0.5 * (scale**2 + location**2 - 1) - scale.log()).detach()
    torch.testing.assert_close(torch.tensor(page.rates["rate"]), rates.mean(0))
    torch.testing.assert_close(torch.tensor(page.rates["mean_variance"]), location.var(0).detach())
    assert page.sites["rate"][0] == pytest.approx(float(rates.sum(1).mean()))
    assert page.sites["std_error"][0] == pytest.approx(float(rates.sum(1).std()) / math.sqrt(300))
    assert page.summary.loc["rate", "value"] == pytest.approx(float(vae.guide.kl(x).detach().mean()))
    of_rows = pv.elbo(vae, x, num_samples=100, seed=1).std_error  # of as many draws, the rate being exact
    error = 4 * float((of_rows**2).sum().sqrt()) / 300
    assert page.summary.loc["reconstruction", "value"] == pytest.approx(
        float(vae.guide.reconstruction(x).detach().mean()), abs=error
    )


@pytest.mark.parametrize("unused", [[1, 3], [0], [0, 1, 2, 3]])
def test_collapsed_dimensions_are_named(unused):
    model = Partly(unused)
    x = model.data(200)
    for guide in (WideGuide(model, 1.0, 0.0), ExactGuide(model)):  # the latter has no rate by dimension
        page = pv.diagnose(pv.VAE(model, guide), x, num_samples=50, seed=0)
        names = tuple(f"z[{i}]" for i in unused)
        assert page.collapsed == names
        word = "LATENTS: COLLAPSED" if len(unused) == 4 else "LATENTS: PARTLY COLLAPSED"
        assert word in str(page)
        assert ", ".join(names) in str(page)
        assert "What to try" in str(page)


def test_a_healthy_vae_is_not_called_collapsed():
    model = LinearGaussian(K=3, D=4)
    for guide in (WideGuide(model, 1.0, 0.0), WideGuide(model, 0.5, 0.0), ExactGuide(model)):
        page = pv.diagnose(pv.VAE(model, guide), model.data(200), num_samples=50, seed=0)
        assert page.collapsed == page.constant == ()
        assert "LATENTS: no collapse: 3 of 3 dimensions active" in str(page)


def test_a_trained_vae_whose_likelihood_drowns_its_latents_collapses():
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))  # nothing to be learned
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.models.LatentVariableModel(
            pv.models.StandardNormal(2), pv.models.Normal(pv.nn.MLP(2, 4), scale=2.0)
        ),
        pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(4, (2, 2)))),
    )
    pv.fit(
        vae,
        x,
        epochs=60,
        batch_size=128,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.03),
        seed=0,
        progress=False,
    )
    assert pv.diagnose(vae, x, num_samples=50, seed=0).collapsed == ("z[0]", "z[1]")


class SampledPrior(nn.Module):
    """q(z|x) = p(z), as a family whose mean is not known: only draws show it."""

    def forward(self, x):
        base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0)
        twice = dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.0, 1.0)])
        with pyro.plate("rows", len(x)):
            pyro.sample("z", twice.to_event(1))


def test_the_noise_of_sampled_means_does_not_pass_for_activity():
    model = Partly([0, 1], K=2)
    page = pv.diagnose(pv.VAE(model, SampledPrior()), model.data(400), num_samples=50, seed=0)
    # The variance of means over 100 draws is 0.01; its noise over 400 rows is 0.01 / 20.
    assert (page.rates["mean_variance"].abs() < 4 * 0.01 / 20).all()
    assert page.collapsed == ("z[0]", "z[1]")


class ConstantGuide(nn.Module):
    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x), 2), 3.0).double(), 0.1).to_event(1))


def test_a_guide_that_says_the_same_of_all_rows():
    model = LinearGaussian()
    page = pv.diagnose(pv.VAE(model, ConstantGuide()), model.data(100), num_samples=50, seed=0)
    assert page.constant == ("z[0]", "z[1]")
    assert page.collapsed == ()
    assert "constant: z[0], z[1]" in str(page)
    assert page.information.lower == pytest.approx(0.0, abs=1e-9)
    assert page.information.upper == pytest.approx(0.0, abs=1e-9)
    rate = 0.5 * (0.01 + 9 - 1) - math.log(0.1)
    assert page.rates["rate"].tolist() == pytest.approx([rate] * 2)
    assert abs(page.information.aggregate_lower - 2 * rate) < 4 * page.information.aggregate_lower_error


def test_both_bounds_and_their_leave_one_out_values_by_hand():
    generator = torch.Generator().manual_seed(0)
    log_q = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)

    def by_hand(table):
        D, N, _ = table.shape
        sums = [0.0, 0.0]
        for d in range(D):
            for n in range(N):
                densities = table[d, n].exp()
                sums[0] += float(table[d, n, n] - densities.mean().log())
                sums[1] += float(table[d, n, n] - ((densities.sum() - densities[n]) / (N - 1)).log())
        return [total / (D * N) for total in sums]

    for which, (value, without) in enumerate(_bounds(log_q)):
        assert float(value) == pytest.approx(by_hand(log_q)[which])
        for m in range(5):
            kept = [n for n in range(5) if n != m]
            assert float(without[m]) == pytest.approx(by_hand(log_q[:, kept][:, :, kept])[which])


def exact_information(model, guide):
    """I_q(x; z) and KL(q(z) || p(z)) for x ~ p(x) and a WideGuide: all is normal."""
    W, s = model.W.detach(), model.scale
    K = W.shape[1]
    precision = torch.eye(K).double() + W.T @ W / s**2
    A = torch.linalg.inv(precision) @ W.T / s**2
    spread = guide.factor**2 * torch.linalg.inv(precision).diagonal()
    aggregate = A @ model.evidence().covariance_matrix @ A.T + torch.diag(spread)
    told = 0.5 * (torch.logdet(aggregate) - spread.log().sum())
    shift = guide.shift * spread.sqrt()
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(shift, aggregate),
        torch.distributions.MultivariateNormal(torch.zeros(K).double(), torch.eye(K).double()),
    )
    return float(told), float(kl)


@pytest.mark.parametrize("factor, shift, scale", [(1.0, 0.0, 0.5), (1.3, 0.5, 1.5)])
def test_information_and_the_aggregate_kl_in_closed_form(factor, shift, scale):
    model = LinearGaussian(scale=scale)
    guide = WideGuide(model, factor, shift)
    vae = pv.VAE(model, guide, example=model.data(5))
    told, kl = exact_information(model, guide)
    found = []
    with vae.evaluating():
        for seed in range(40):
            x = model.data(120, seed=seed)
            with fixed_seed(seed, vae.device):
                found.append(information(vae, Batch((x,))))

    def column(name):
        return torch.tensor([getattr(f, name) for f in found], dtype=torch.float64)

    for lower, upper, truth in (("lower", "upper", told), ("aggregate_lower", "aggregate_upper", kl)):
        below, above = column(lower), column(upper)
        noise = float(below.std()) / math.sqrt(40), float(above.std()) / math.sqrt(40)
        assert float(below.mean()) - 4 * noise[0] < truth < float(above.mean()) + 4 * noise[1]
        assert float(above.mean() - below.mean()) < 0.6
        for name, values in ((lower, below), (upper, above)):
            if name == "aggregate_lower" and factor == 1:  # the KL is near 0, and so is its bound
                assert not values.any()
                assert not column("aggregate_lower_error").any()
                continue
            # The standard deviation of 40 has an error of 11 %; jackknife errors tend to be a little large.
            ratio = float(column(f"{name}_error").mean() / values.std())
            assert 0.6 < ratio < 1.6, (name, ratio)
    # Rate = I + KL, whichever bounds are taken together.
    rate = float(guide.kl(torch.cat([model.data(120, seed=seed) for seed in range(40)])).detach().mean())
    assert float((column("lower") + column("aggregate_upper")).mean()) == pytest.approx(rate, abs=0.05)


def test_information_of_wide_rows_takes_little_memory():
    """Draws of the latents are scored under the model for their prior alone, some rows at a time."""
    D, N = 20_000, 400
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(nn.Linear(2, D)))
    vae = pv.VAE(model, pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(nn.Linear(D, 2), scale=1.0)))
    x = torch.bernoulli(torch.full((N, D), 0.1))
    vae.rows(x)
    with vae.evaluating(), fixed_seed(0, vae.device), PeakMemory() as memory:
        found = information(vae, Batch((x,)))
    assert memory.peak < 3 * x.numel() * x.itemsize
    assert found.upper >= found.lower


def test_the_lower_bound_cannot_exceed_log_n_and_says_so():
    model = LinearGaussian(scale=0.01)
    vae = pv.VAE(model, WideGuide(model, 1.0, 0.0))
    page = pv.diagnose(vae, model.data(20), num_samples=50, seed=0)
    assert page.information.lower == pytest.approx(math.log(20), abs=1e-3)
    assert page.information.capped
    assert "The lower bound is near that cap" in str(page)
    assert not pv.diagnose(
        pv.VAE(*[LinearGaussian(), SampledPrior()]), model.data(20), num_samples=50
    ).information.capped


def diagnosed(model, guide, x, **choices):
    return pv.diagnose(pv.VAE(model, guide), x, num_samples=50, seed=0, **choices)


def test_activity_is_in_units_of_the_prior():
    """z ~ N(0, 0.05^2): means vary by less than 0.0025, and yet carry nats."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 0.05).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.01).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x / 1.04, 0.01 / 1.04**0.5).to_event(1))

    page = diagnosed(model, guide, 0.051 * torch.randn(200, 1))
    assert page.rates["mean_variance"][0] < 0.01
    assert page.rates["rate"][0] > 1
    assert page.rates["verdict"].tolist() == ["active"]


def test_many_topics_have_not_collapsed():
    """Shares of 30 topics vary by about 0.001, less than any threshold that does not know the prior."""

    def model(x):
        with pyro.plate("rows", len(x)):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(30)))
            pyro.sample("x", dist.Multinomial(40, shares), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("shares", dist.Dirichlet(1 + x))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shares = torch.distributions.Dirichlet(torch.ones(30)).sample((200,))
        x = torch.distributions.Multinomial(40, shares).sample()
    page = diagnosed(model, guide, x)
    assert page.rates["mean_variance"].max() < 0.01
    assert (page.rates["verdict"] == "active").all()


def test_two_modes_of_the_same_distance_are_unknown():
    """Their mean is 0 in every row; of x they tell its absolute value."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z**2, 0.5).to_event(1), obs=x)

    def guide(x):
        modes = torch.stack([x.abs(), -x.abs()], -2)
        with pyro.plate("rows", len(x)):
            q = dist.MixtureSameFamily(
                dist.Categorical(torch.ones(*modes.shape[:-1])), dist.Normal(modes, 0.3).to_event(1)
            )
            pyro.sample("z", q)

    page = diagnosed(model, guide, torch.randn(200, 2))
    assert page.rates["verdict"].tolist() == ["unknown"] * 2
    assert "no collapse seen: 0 of 2 dimensions active; unknown: z[0], z[1]" in str(page)
    assert page.advice()[0].startswith("the guide misses")


def test_correlations_that_alone_tell_of_the_row_are_unknown():
    def guide(x):
        correlation = torch.tanh(3 * x[:, 0]).double()
        covariance = torch.eye(2).double() + correlation[:, None, None] * torch.eye(2).double().flip(0) * 0.99
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(2).double(), covariance))

    model = LinearGaussian()
    x = model.data(100)
    page = diagnosed(model, guide, x)
    squared = (
        0.99 * torch.tanh(3 * x[:, 0])
    ) ** 2  # of the correlations; also the variance of log q / p of a draw
    error = math.sqrt(float(squared.mean()) / (100 * 50))
    assert abs(page.sites["rate"][0] - float(-0.5 * (1 - squared).log().mean())) < 4 * error
    assert page.rates["verdict"].tolist() == ["unknown"] * 2


def test_a_posterior_whose_width_alone_varies_is_not_constant():
    def guide(x):
        with pyro.plate("rows", len(x)):
            scale = (0.1 + 0.8 * torch.sigmoid(x[:, :2])).double()
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), scale).to_event(1))

    model = LinearGaussian()
    page = diagnosed(model, guide, model.data(100))
    assert page.information.lower > 0.1
    assert page.constant == ()
    assert (page.rates["verdict"] == "active").all()


def test_entries_are_averaged_over_the_rows_that_count_them():
    pair, x = Plated(), torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), x, num_samples=50, seed=0)
    counted = x[x[:, 0] > 0, :2].double()
    b = page.rates[page.rates["site"] == "b"]
    torch.testing.assert_close(torch.tensor(b["mean_variance"].to_numpy()), counted.var(0), rtol=1e-5, atol=0)
    rate = (0.5 * (0.49 + counted**2 - 1) - math.log(0.7)).mean(0)
    # Sampled: a standard deviation of about 1 in each of 150 * 100 draws.
    assert b["rate"].tolist() == pytest.approx(rate.tolist(), abs=0.04)
    of_site = page.sites.set_index("site").loc["b", "rate"]  # masked rows cost nothing
    assert of_site == pytest.approx(b["rate"].sum() * len(counted) / 300)


def test_steps_beyond_a_sequences_end_do_not_count():
    entry = MODELS["DeepMarkovModel"]
    x, lengths = entry.data(30)
    vae = pv.VAE(*entry.make())
    data = vae.rows(x, lengths)
    found = Activity(vae, data, seeds_from(0))
    counted = torch.arange(4) < lengths[:, None]
    assert torch.equal(found.by_entry["z"]["counted"] > 0, counted[..., None].expand(30, 4, 2))
    last = torch.stack([half[lengths == 4, 3] for half in found.means["z"]])
    by_hand = (last - last.mean(1, keepdim=True)).prod(0).sum(0) / (last.shape[1] - 1)
    variances = found.entries()["mean_variance"].to_numpy()[-2:]
    torch.testing.assert_close(torch.tensor(variances), by_hand)


class Conditional(nn.Module):
    """p(z|c) = N(c, 1)."""

    def model(self, x, c):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, c):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((x + c) / 2, 0.5**0.5))


def test_a_prior_of_the_context_has_no_aggregate_to_be_compared_with():
    pair, x, c = Conditional(), torch.randn(50), torch.arange(50.0) % 3
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), x, c, num_samples=100, seed=0)
    assert math.isnan(page.information.aggregate_lower)
    assert page.information.lower > 0
    assert "the prior depends on the row" in str(page)
    assert page.rates["rate"][0] == pytest.approx(
        float(0.5 * (0.5 + ((x - c) / 2) ** 2 - 1 - math.log(0.5)).mean())
    )


@pytest.mark.parametrize("place", [20, 49])
def test_a_prior_that_few_rows_context_changes_is_seen(place):
    """Rows sorted by class: the first ones have one context."""
    pair, c = Conditional(), torch.zeros(50)
    c[place] = 1.0
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), torch.randn(50), c, num_samples=50, seed=0)
    assert "the prior depends on the row" in page.information.note
    same = pv.diagnose(pv.VAE(pair.model, pair.guide), torch.randn(50), 0 * c, num_samples=50, seed=0)
    assert same.information.note == ""


def test_a_latent_that_only_follows_its_context_has_collapsed():
    class Follows(Conditional):
        def guide(self, x, c):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(c, 1.0))

    pair, c = Follows(), torch.arange(50.0) % 3
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), torch.randn(50), c, num_samples=50, seed=0)
    assert page.rates["active"][0]  # its mean varies, with the context
    assert page.collapsed == ("z",)


class Following(nn.Module):
    """z as a point that follows from an auxiliary site: the prior's draw, or the exact posterior's."""

    def __init__(self, model, collapsed):
        super().__init__()
        self.model, self.collapsed = model, collapsed

    def forward(self, x):
        exact = self.model.posterior(x)
        prior = dist.Normal(torch.zeros_like(exact.mean), 1.0).to_event(1)
        with pyro.plate("rows", len(x)):
            u = pyro.sample("u", prior if self.collapsed else exact, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))


@pytest.mark.parametrize("collapsed", [True, False])
def test_the_rate_of_a_latent_that_follows_from_auxiliary_sites_is_whole(collapsed):
    """Without log q of the auxiliary site a fully collapsed latent of 8 numbers showed a rate of 11.4 nats."""
    model = LinearGaussian(K=8, D=9)
    x = model.data(100)
    page = pv.diagnose(pv.VAE(model, Following(model, collapsed)), x, num_samples=50, seed=0)
    exact = model.posterior(x)
    kl = torch.distributions.kl_divergence(
        exact, torch.distributions.MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double())
    )
    expected = 0.0 if collapsed else float(kl.detach().mean())
    # log q - log p has a variance of a few nats^2 in each of 100 * 100 draws.
    assert page.sites["rate"][0] == pytest.approx(expected, abs=1e-9 if collapsed else 0.15)
    assert page.sites["rate"].sum() == pytest.approx(page.summary.loc["rate", "value"])
    assert (page.rates["verdict"] == ("collapsed" if collapsed else "active")).all()
    assert "auxiliary sites, ['u']" in str(page)


def test_latents_that_follow_from_one_auxiliary_site_have_no_rates_of_their_own():
    vae = methods()
    vae = pv.VAE(vae.model, pv.guides.AutoGuide(vae.model, joint=True, hidden=(5,)))
    arguments = binary_rows(20), torch.eye(3)[torch.arange(20) % 3], 2.0
    page = pv.diagnose(vae, *arguments, num_samples=30, seed=0)
    assert page.sites["rate"].isna().all()
    assert page.rates["rate"].isna().all()
    assert math.isfinite(page.summary.loc["rate", "value"])
    assert "it follows from auxiliary sites that other latents follow from too" in str(page)


def test_scales_halved_are_caught_by_pareto_k():
    model = LinearGaussian(K=1, D=2)
    x = model.data(200)
    right = pv.diagnose(pv.VAE(model, WideGuide(model, 1.0, 0.0)), x, num_samples=2000, seed=0)
    halved = pv.diagnose(pv.VAE(model, WideGuide(model, 0.5, 0.0)), x, num_samples=2000, seed=0)
    assert right.bad_k == 0
    assert "GUIDE: good" in str(right)
    assert "calibrate()" not in str(right)
    # Good weights, of a guide that is not the posterior: both are said, and of what.
    wide = str(pv.diagnose(pv.VAE(model, WideGuide(model, 1.5, 0.0)), x, num_samples=500, seed=0))
    assert "GUIDE: good for importance weights." in wide
    assert "nats, is their KL from it" in wide
    assert "the guide is NOT the posterior, near enough to weigh its draws" in wide
    assert halved.bad_k > 50  # k is 1 - 1/4 in every row, and its estimate noisy
    assert "GUIDE: POOR" in str(halved)
    assert "calibrate() says how" in str(halved)
    # KL(q || p(z|x)) = log 2 + 1/8 - 1/2, the same for every row.
    gap = halved.summary.loc["log p(x)", "value"] - halved.summary.loc["ELBO", "value"]
    assert gap == pytest.approx(math.log(2) + 1 / 8 - 1 / 2, abs=0.03)


def test_a_gap_of_little_with_few_large_k_is_no_poor_guide():
    """KL(q || p(z|x)) = -log f + f^2/2 - 1/2 = 0.069 nats and k = 1 - f^2 = 0.44 in every row, its estimate noisy."""
    model = LinearGaussian(K=1, D=2)
    page = pv.diagnose(pv.VAE(model, WideGuide(model, 0.75, 0.0)), model.data(300), num_samples=100, seed=0)
    assert page.bad_k > 0.1 * 300
    assert page.quality.verdict == "tails"
    assert page.verdict == "good"  # simulated rows bound what the tails can do
    said = f"GUIDE: good for importance weights. Pareto k is not below 0.50 for {page.bad_k} of 300 rows"
    assert said in str(page)
    assert "calibrate()" not in str(page)
    unchecked = replace(page, reverse=None)
    assert f"GUIDE: good but for tails. Pareto k is not below 0.50 for {page.bad_k} of 300 rows" in str(
        unchecked
    )
    assert "log p(x) may err low" in str(unchecked)
    assert "calibrate()" not in str(unchecked)
    assert f"{page.bad_k} rows with heavy tails" in unchecked.advice()[0]
    sentence = of_weights(page.quality).sentence
    assert "may err low" in sentence
    assert "richer guide" not in sentence
    assert "never visits" in sentence
    sentence = of_weights(page.quality, page.reverse).sentence
    assert "can be relied on" in sentence
    assert "Reverse check" in sentence


@pytest.mark.parametrize(
    "khat, ess, gap, verdict",
    [
        ([0.1, 0.2, 0.3], 0.9, 0.05, "good"),
        ([0.1, 0.2, 0.3], 0.1, 3.0, "good"),
        ([0.1, 0.2, 0.9], 0.9, 0.05, "tails"),
        ([0.9, 0.9, 0.9], 0.9, 0.05, "tails"),
        ([0.1, 0.2, 0.9], 0.4, 0.05, "poor"),
        ([0.1, 0.2, 0.9], 0.9, 0.2, "poor"),
        ([math.nan, math.nan, math.nan], 0.9, 0.05, "unknown"),
        ([math.nan, math.nan, 0.9], 0.9, 0.05, "tails"),
    ],
)
def test_the_verdict_on_weights(khat, ess, gap, verdict):
    ones = torch.ones(3, dtype=torch.float64)
    found = LogMarginal(
        -ones, ones, 1000 * ess * ones, torch.tensor(khat), -ones - gap, ones, -ones, 1000, "no"
    )
    assert found.verdict == verdict


def test_the_verdict_on_escalated_rows_is_by_their_own_numbers_of_draws():
    """Rows that stopped at 250 of 1000 draws, with weights that hardly vary."""
    ones = torch.ones(3, dtype=torch.float64)
    khat = torch.tensor([0.1, 0.2, 0.9])
    stages = Stages(torch.zeros(3, dtype=torch.int64), torch.full((3,), 250), math.nan * ones)
    found = LogMarginal(-ones, ones, 240 * ones, khat, -ones - 0.05, ones, -ones, 1000, "no", stages=stages)
    assert found.verdict == "tails"


@pytest.mark.parametrize(
    "bad, rows, verdict, near",
    [
        (4, 20, "good", True),
        (6, 20, "poor", True),
        (15, 20, "poor", False),
        (240, 1000, "good", True),
        (350, 1000, "poor", False),
        (1, 20, "good", False),
        (1, 1, "poor", False),
        (0, 1, "good", False),
    ],
)
def test_a_share_of_bad_rows_near_the_limit_is_said_to_be(bad, rows, verdict, near):
    ones = torch.ones(rows, dtype=torch.float64)
    khat = torch.where(torch.arange(rows) < bad, 5.0, -5.0)
    found = LogMarginal(-ones, ones, 400 * ones, khat, -2 * ones, ones, -ones, 1000, "no")
    assert found.verdict == verdict
    assert found.share_bad[0] == pytest.approx(bad / rows)
    assert found.near_limit is near
    assert ("near the limit" in str(found)) is near
    assert ("near the limit" in guide_in_words(found, None)) is near


@pytest.mark.parametrize("S", [200, 1000])
def test_rows_count_as_bad_by_the_error_of_their_k(S):
    """Weights u^-k of uniform u have exactly the tail index k."""
    k = good_k(S)
    u = torch.rand(S, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    khat = pareto_k(-k * u.log())
    steady = chance_of_bad_k(khat, S)
    assert float(steady.mean()) == pytest.approx(0.5, abs=0.1)
    assert float(steady.std()) < 0.75 * float((khat >= k).double().std())
    spread = float(torch.special.ndtri(steady).std())
    assert spread == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("factor", [0.95, 0.5])
def test_few_and_many_rows_of_one_guide_get_one_verdict(factor):
    model = LinearGaussian(K=1, D=2)
    vae = pv.VAE(model, WideGuide(model, factor, 0.0))
    found = [
        pv.log_marginal(vae, model.data(N, seed=seed), num_samples=1000, seed=seed).verdict
        for N in (20, 100, 1000)
        for seed in range(10)
    ]
    assert found.count("poor" if factor == 0.5 else "good") >= 27


def test_many_bad_rows_speak_against_the_others_too():
    """Of rows of a guide with halved scales, many that k finds good are further off than three errors."""
    model = LinearGaussian(K=3, D=4)
    x = model.data(300)
    result = pv.log_marginal(pv.VAE(model, WideGuide(model, 0.5, 0.0)), x, num_samples=1000, seed=0)
    good = ~result.unreliable
    off = (result.log_marginal - model.evidence().log_prob(x)).abs() > 3 * result.std_error
    assert float(off[good].double().mean()) > 0.2
    assert result.verdict == "poor"
    assert "so many are bad that the others are no better" in str(result)


def test_the_stated_bias_is_a_lower_bound():
    model = LinearGaussian(K=1, D=2)
    x = model.data(3000)
    for factor in (0.5, 0.95):
        result = pv.log_marginal(pv.VAE(model, WideGuide(model, factor, 0.0)), x, num_samples=100, seed=0)
        offset = float((result.log_marginal - model.evidence().log_prob(x)).mean())
        assert offset < float(result.bias.mean()) + 0.001


def test_gaps_take_log_p_from_a_normal_with_covariances():
    """log p(x) from the best diagonal normal errs low, and the approximation gap with it."""
    model = LinearGaussian(K=6, D=6, scale=0.4, seed=3)
    x = model.data(12)
    vae = pv.VAE(model, WideGuide(model, 1.0, 0.0))
    page = pv.diagnose(vae, x, num_samples=200, gap_rows=6, seed=0)
    chosen = x[torch.arange(6) * 12 // 6]
    bound = vae.guide.reconstruction(chosen) - vae.guide.kl(chosen)
    truth = float((model.evidence().log_prob(chosen) - bound).detach().mean())
    gap = page.gaps.loc["inference"]
    assert gap["bound"] == "="
    assert abs(gap["gap"] - truth) < 4 * gap["mc_error"] + 0.02
    plain = pv.refine(vae, chosen, seed=0).vae
    off = torch.cat(
        [
            pv.log_marginal(plain, chosen, num_samples=200, seed=seed).log_marginal
            - model.evidence().log_prob(chosen)
            for seed in range(20)
        ]
    )
    # The same weights, drawn from what that normal is: all rows have one precision.
    precision = model.posterior(x[0]).precision_matrix.detach()
    best = torch.distributions.Normal(0.0, precision.diagonal() ** -0.5)
    z = best.sample((2000, 200))
    posterior = torch.distributions.MultivariateNormal(torch.zeros(6).double(), precision_matrix=precision)
    low = (posterior.log_prob(z) - best.log_prob(z).sum(-1)).logsumexp(1) - math.log(200)  # by 0.27
    error = float(low.std()) / math.sqrt(len(off))
    assert abs(float(off.mean() - low.mean())) < 4 * error
    assert float(off.mean()) < -4 * error


def test_the_rate_bounds_information_where_rows_are_few_and_far_apart():
    """20 rows whose posteriors do not meet: the bound without a draw's own row was far above the rate."""
    model = LinearGaussian(scale=0.01)
    x = model.data(20)
    vae = pv.VAE(model, WideGuide(model, 1.0, 0.0))
    page = pv.diagnose(vae, x, num_samples=50, seed=0)
    found = page.information
    told, _ = exact_information(model, WideGuide(model, 1.0, 0.0))
    rate = float(vae.guide.kl(x).detach().mean())
    assert page.summary.loc["rate", "value"] == pytest.approx(rate)
    assert found.upper == pytest.approx(rate, abs=0.5)  # 1000 draws of log q - log p
    assert found.lower <= told <= found.upper + 2 * found.upper_error
    assert (found.aggregate_lower, found.aggregate_lower_error) == (0.0, 0.0)
    assert found.lower + found.aggregate_upper == pytest.approx(found.upper)
    assert found.upper_is_rate
    assert "The upper bound of I(x; z) is the rate of these draws: no KL is below 0" in str(page)
    plain = LinearGaussian()
    far = pv.diagnose(pv.VAE(plain, WideGuide(plain, 1.3, 6.0)), plain.data(100), num_samples=50, seed=0)
    assert far.information.aggregate_lower > 0.5
    assert "is the rate of these draws" not in str(far)


def test_no_bound_of_a_kl_is_below_zero():
    """The exact posterior's aggregate is the prior: the KL is 0, and estimates of it were negative half of the time."""
    model = LinearGaussian(K=1, D=2)
    vae = pv.VAE(model, WideGuide(model, 1.0, 0.0), example=model.data(5))
    with vae.evaluating():
        for seed in range(20):
            with fixed_seed(seed, vae.device):
                found = information(vae, Batch((model.data(30, seed=seed),)))
            assert 0 <= found.aggregate_lower <= found.aggregate_upper < 0.5
            assert found.lower <= found.upper
            assert found.aggregate_upper_error > 0


def test_gaps_of_fewer_rows_say_so():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model, 0.7, 0.3)), model.data(12)
    some, every = (pv.diagnose(vae, x, num_samples=50, gap_rows=rows, seed=0) for rows in (5, 12))
    assert "of 5 of the 12 rows, with log p(x) by their refined guides" in str(some)
    assert (some.gap_rows, every.gap_rows) == (5, 12)
    assert "of the 12 rows, with" not in str(every)


@pytest.mark.parametrize("factor, shift", [(1.0, 0.0), (1.0, 0.8), (0.6, 0.0)])
def test_gaps_in_closed_form(factor, shift):
    """The best diagonal normal has precisions L_ii, so that approximation = (sum log L_ii - log det L) / 2."""
    model = LinearGaussian(K=2, D=3, seed=7)  # strongly correlated
    guide = WideGuide(model, factor, shift)
    x = model.data(40)
    page = pv.diagnose(pv.VAE(model, guide), x, num_samples=1000, gap_rows=15, seed=0)
    precision = model.posterior(x).precision_matrix.detach()
    precision = precision[0] if precision.dim() == 3 else precision
    approximation = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    chosen = x[torch.arange(15) * 40 // 15]
    bound = guide.reconstruction(chosen) - guide.kl(chosen)
    inference = float((model.evidence().log_prob(chosen) - bound).detach().mean())
    gaps = page.gaps
    for name, truth in (
        ("approximation", approximation),
        ("amortization", inference - approximation),
        ("inference", inference),
    ):
        # Refining ends a little below the optimum: its tests allow 0.01.
        assert abs(gaps.loc[name, "gap"] - truth) < 4 * gaps.loc[name, "mc_error"] + 0.02, (name, truth)
    assert gaps.loc["inference", "gap"] == pytest.approx(gaps["gap"][:2].sum(), abs=0.01)
    if shift:
        assert "amortization costs most" in str(page)


class WithoutCovariances(nn.Module):
    """The best diagonal normal, as a member of a family that has covariances."""

    def __init__(self, model, family):
        super().__init__()
        self.model, self.family = model, family

    def forward(self, x):
        exact = self.model.posterior(x)
        variance = 1 / exact.precision_matrix.diagonal(dim1=-2, dim2=-1).expand(exact.mean.shape)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.family(exact.mean, variance))


def full(mean, variance):
    return dist.MultivariateNormal(mean, torch.diag_embed(variance))


def low_rank(mean, variance):
    return dist.LowRankMultivariateNormal(mean, 1e-4 * torch.ones_like(mean).unsqueeze(-1), variance)


@pytest.mark.parametrize("family", [full, low_rank])
def test_gaps_of_families_with_covariances(family):
    model = LinearGaussian(K=2, D=3, seed=7)  # strongly correlated
    x = model.data(20)
    page = pv.diagnose(
        pv.VAE(model, WithoutCovariances(model, family)), x, num_samples=1000, gap_rows=6, seed=0
    )
    precision = model.posterior(x).precision_matrix.detach()
    precision = precision[0] if precision.dim() == 3 else precision
    inference = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert inference > 0.3
    gaps = page.gaps
    assert abs(gaps.loc["inference", "gap"] - inference) < 4 * gaps.loc["inference", "mc_error"] + 0.02
    if family is full:  # its best is exact: all is the encoder's
        assert abs(gaps.loc["approximation", "gap"]) < 4 * gaps.loc["approximation", "mc_error"] + 0.02
        assert gaps["bound"].tolist() == ["=", "=", "="]
        assert "amortization costs most" in str(page)
    else:  # a scale and a shift by dimension cannot give a covariance
        assert gaps["bound"].tolist() == ["<=", ">=", "="]
        assert "approximation  at most" in str(page)
        assert "is at most its share" in str(page)
        assert "costs most" not in str(page)


def test_too_few_draws_leave_the_guide_unknown_not_poor():
    model = LinearGaussian()
    vae, x = pv.VAE(model, WideGuide(model)), model.data(20)
    for num_samples in (1, 10):
        page = pv.diagnose(vae, x, num_samples=num_samples, seed=0)
        assert page.bad_k == 0
        assert "GUIDE: unknown. Pareto k unknown" in str(page)
        assert not any("guide" in line for line in page.advice())


def test_gaps_that_cannot_be_had_are_explained():
    vae = pv.VAE(*MODELS["GaussianMixture"].make())
    page = pv.diagnose(vae, *MODELS["GaussianMixture"].data(9), num_samples=30, gap_rows=3, seed=0)
    assert page.gaps["gap"].isna().all()
    assert "approximation  nan" in str(page)
    assert "no gaps: there is nothing to refine" in str(page)


class Labels(nn.Module):
    """A latent of three labels, whose guide has parameters, and a number beside it or not."""

    def __init__(self, beside):
        super().__init__()
        self.beside, self.slope = beside, nn.Parameter(torch.tensor(1.0))

    def logits(self, x):
        return torch.stack([0 * x, self.slope * x, 2 * self.slope * x], -1)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            z = pyro.sample("z", dist.Normal(0.0, 1.0)) if self.beside else 0.0
            pyro.sample("x", dist.Normal(k.float() + z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.logits(x)))
            if self.beside:
                pyro.sample("z", dist.Normal(x / 2, 0.7))


def test_latents_without_a_mean():
    pair, x = Labels(beside=False), torch.randn(60)
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), x, num_samples=50, seed=0)
    q = torch.distributions.Categorical(logits=pair.logits(x).detach())
    p = torch.distributions.Categorical(torch.tensor([0.5, 0.3, 0.2]))
    exact = torch.distributions.kl_divergence(q, p.expand([60])).mean()
    assert page.rates["rate"][0] == pytest.approx(float(exact), rel=1e-5)
    assert math.isnan(page.rates["mean_variance"][0])
    assert page.rates["verdict"][0] == "active"
    assert page.sites["active"].tolist() == [1]  # as the headline has it
    assert "1 of 1 dimensions active" in str(page)
    assert "labels and have no mean" in str(page)
    assert 0 < page.information.lower < math.log(3)


def test_a_label_leaves_the_means_of_the_latents_beside_it():
    pair, x = Labels(beside=True), torch.randn(60)
    page = pv.diagnose(pv.VAE(pair.model, pair.guide), x, num_samples=50, seed=0)
    assert page.rates.set_index("site").loc["z", "mean_variance"] == pytest.approx(
        float((x / 2).var()), rel=1e-4
    )
    assert page.rates["verdict"].tolist() == ["active", "active"]


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_pair_and_model(name):
    make, data = EVERYTHING[name]
    vae = make()
    arguments = data(12)
    page = pv.diagnose(vae, *arguments, num_samples=30, seed=0)
    assert list(page.rates) == ["site", "dimension", "rate", "active", "mean_variance", "verdict"]
    assert len(page.rates) == sum(site.numel for site in vae.layout.latents.values())
    assert page.summary["value"].notna().all()
    found = page.information
    assert math.isnan(found.lower) == bool(found.note)
    assert str(page).startswith("Diagnosis over 12 rows")
    if len(page.sites) and page.sites["rate"].notna().all():
        total = page.summary.loc["rate", "value"]
        assert page.sites["rate"].sum() == pytest.approx(total, rel=1e-4, abs=1e-4)


def test_a_seed_decides_everything_and_leaves_the_random_state():
    vae, x = composed(), binary_rows(20)
    vae.rows(x)
    before = torch.get_rng_state()
    first, second = (pv.diagnose(vae, x, num_samples=30, seed=5) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert str(first) == str(second)
    assert first.information == second.information


def test_one_row_has_no_errors_and_no_information():
    page = pv.diagnose(composed(), binary_rows(1), num_samples=30, seed=0)
    assert page.rates["mean_variance"].isna().all()
    assert "at least three rows" in page.information.note
    assert "±" not in str(page).split("LATENTS")[0].split("\n", 1)[1]


@pytest.mark.parametrize("value", [-1, 21, True, 2.0])
def test_bad_input(value):
    with pytest.raises(
        ValueError, match="gap_rows is .*: expected a whole number from 0 to the number of rows, 20"
    ):
        pv.diagnose(composed(), binary_rows(20), gap_rows=value)
    with pytest.raises(ValueError, match="num_samples is 0"):
        pv.diagnose(composed(), binary_rows(20), num_samples=0)
    vae = methods()
    vae.rows(binary_rows(4), torch.eye(3)[torch.arange(4) % 3], 1.0)
    with pytest.raises(ValueError, match="takes 3"):
        pv.diagnose(vae, binary_rows(4))


class Tempered(nn.Module):
    """The minimizer of distortion + beta * rate: q(z|x) proportional to p(z) p(x|z)^(1/beta)."""

    def __init__(self, model, beta):
        super().__init__()
        self.model, self.variance = model, beta * model.scale**2

    def forward(self, x):
        W = self.model.W
        precision = torch.eye(W.shape[1]).double() + W.T @ W / self.variance
        location = (x - self.model.b) @ W / self.variance @ torch.linalg.inv(precision)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(location, precision_matrix=precision))


def test_the_slope_of_the_rate_distortion_curve_is_minus_beta():
    model = LinearGaussian()
    x = model.data(400)
    betas = [0.2, 0.22, 1.0, 1.1, 4.0, 4.4]
    curve = pv.rate_distortion(
        lambda beta: pv.VAE(model, Tempered(model, beta)), betas, x, num_samples=400, seed=0
    )
    assert curve["beta"].tolist() == betas
    assert (curve["rate"].diff()[1:] < 0).all()
    assert (curve["distortion"].diff()[1:] > 0).all()
    for place in (0, 2, 4):
        slope = (curve["distortion"][place + 1] - curve["distortion"][place]) / (
            curve["rate"][place + 1] - curve["rate"][place]
        )
        assert slope == pytest.approx(-math.sqrt(betas[place] * betas[place + 1]), rel=0.1)
    torch.testing.assert_close(
        torch.tensor(curve["elbo"]), torch.tensor(-curve["rate"] - curve["distortion"]), atol=1e-9, rtol=0
    )
    # At beta = 1 the guide is exact, and the ELBO the evidence.
    evidence = model.evidence().log_prob(x)
    assert curve["elbo"][2] == pytest.approx(float(evidence.mean()), abs=0.02)
    found = pv.elbo(pv.VAE(model, Tempered(model, 1.0)), x, num_samples=400, seed=1).rate
    assert curve["rate_error"][2] == pytest.approx(float(found.std()) / 20, rel=0.02)


def test_bad_rate_distortion():
    for betas in ([], [0.0], [1.0, math.inf], [math.nan]):
        with pytest.raises(ValueError, match="expected one or more positive numbers"):
            pv.rate_distortion(lambda beta: composed(), betas, binary_rows())
    with pytest.raises(TypeError, match=r"fit_at\(1.0\) gave NoneType"):
        pv.rate_distortion(lambda beta: None, [1.0], binary_rows())


def test_a_model_of_several_sites_is_checked_by_as_x():
    x = MODELS["MixedTableModel"].data(30)
    vae = pv.VAE(*MODELS["MixedTableModel"].make(), example=x)
    without = pv.diagnose(vae, x, num_samples=20, reverse_rows=20, seed=0)
    assert without.reverse is None
    assert any("give as_x" in note for note in without.notes)
    found = pv.diagnose(vae, x, num_samples=20, reverse_rows=20, as_x=vae.model.table, seed=0)
    assert len(found.reverse) == 20


def test_the_reverse_check_is_a_choice():
    """It changes no other figure."""
    x = binary_rows(10)
    vae = composed()
    with_check, without = (
        pv.diagnose(vae, x, num_samples=100, reverse_rows=n, seed=0) for n in (np.int64(20), 0)
    )
    assert len(with_check.reverse) == 20
    assert without.reverse is None
    assert "no reverse check: it was left out" in without.notes
    assert torch.equal(with_check.quality.log_marginal, without.quality.log_marginal)
