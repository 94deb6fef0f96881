"""Evidence by stages, each row as far as it needs: against exact truth, under good guides and bad ones."""

import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.evidence import escalation
from pyrovae.evidence.proposal import Mixture, Proposals
from tests.oracles import LinearGaussian, WideGuide

N = 400
COVERS = 0.95, math.sqrt(0.95 * 0.05 / N)  # what 1.96 errors are to cover, and the error of such a share
# As "auto" but for rows that are annealed: the 1024 temperatures that a row may have take minutes for the same proof.
SHORT, LONGER = pv.EscalatingSampling(most_temperatures=16), pv.EscalatingSampling(most_temperatures=64)


def linear_gaussian():
    model = LinearGaussian(K=4, D=6)
    x = model.data(N)
    return model, x, model.evidence().log_prob(x)


def mixture():
    """z of two normals far apart, k summed out: a posterior of two modes wherever x lies between them."""
    shares, means, scales = torch.tensor([0.3, 0.7]), torch.tensor([-2.0, 2.0]), torch.tensor([0.5, 0.7])

    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(shares), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[k], scales[k]))
            pyro.sample("x", dist.Normal(z, 1.5), obs=x)

    components = torch.distributions.Normal(means, (scales**2 + 1.5**2).sqrt())
    exact = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(shares), components)
    x = exact.sample((N,))
    return model, x, exact.log_prob(x).double()


def gamma_poisson():
    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("z", dist.Gamma(1.5, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    exact = dist.GammaPoisson(torch.tensor(1.5), 0.5)
    x = exact.sample((N,))
    return model, x, exact.log_prob(x).double()


def beta_binomial():
    def model(x):
        with pyro.plate("rows", len(x)):
            p = pyro.sample("z", dist.Beta(0.8, 2.0))
            pyro.sample("x", dist.Binomial(20, p), obs=x)

    exact = dist.BetaBinomial(torch.tensor(0.8), torch.tensor(2.0), 20)
    x = exact.sample((N,))
    return model, x, exact.log_prob(x).double()


def two_modes():
    """x sees only the size of z's first number: modes on both sides; log p(x) by quadrature."""

    def mean_of(z):
        return torch.stack([z[..., 0].abs() * 1.5, z[..., 1] + 0.5 * z[..., 0].abs()], -1)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean_of(z), 0.4).to_event(1), obs=x)

    line = torch.linspace(-5, 5, 201, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    log_prior = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1) + 2 * (line[1] - line[0]).log()
    x = mean_of(torch.randn(N, 2)) + 0.4 * torch.randn(N, 2)
    log_p = [
        (log_prior + dist.Normal(mean_of(grid), 0.4).log_prob(row.double()).sum(-1)).logsumexp(0) for row in x
    ]
    return model, x, torch.stack(log_p)


# name: the truth, and by guide the posterior of z; "missing" a mode, "narrow" and "off" in place.
CASES = {
    "linear_gaussian": (
        linear_gaussian,
        {"wide": (1.3, 0.2), "narrow": (0.5, 0.3), "far": (0.2, 4.0)},
    ),
    "mixture": (
        mixture,
        {
            "wide": lambda x: dist.Normal(0.5 * x, 2.5),
            "missing": lambda x: dist.Normal(torch.full_like(x, 2.0), 0.7),
        },
    ),
    "gamma_poisson": (
        gamma_poisson,
        {
            "good": lambda x: dist.LogNormal(((x + 1.5) / 1.5).log() - 0.2, 1 / (x + 1).sqrt()),
            "narrow": lambda x: dist.LogNormal(((x + 1.5) / 1.5).log(), 0.3 / (x + 1).sqrt()),
        },
    ),
    "beta_binomial": (
        beta_binomial,
        {
            "exact": lambda x: dist.Beta(0.8 + x, 22 - x),
            "light": lambda x: dist.TransformedDistribution(
                dist.Normal(((x + 0.8) / (22 - x)).log(), 0.5), [dist.transforms.SigmoidTransform()]
            ),
        },
    ),
    "two_modes": (
        two_modes,
        {
            "prior": lambda x: dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1),
            "missing": lambda x: dist.Normal(x * torch.tensor([0.6, 0.7]), 0.3).to_event(1),
        },
    ),
}


@pytest.fixture(scope="module")
def truths():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: truth() for name, (truth, _) in CASES.items()}


def pair(name, truths, guide):
    model, x, exact = truths[name]
    posterior = CASES[name][1][guide]
    if isinstance(posterior, tuple):
        return pv.VAE(model, WideGuide(model, *posterior)), x, exact

    def program(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", posterior(x))

    return pv.VAE(model, program), x, exact


@pytest.mark.parametrize(
    "name, guide", [(name, guide) for name, (_, guides) in CASES.items() for guide in guides]
)
def test_errors_cover_the_truth_at_their_rate(truths, name, guide):
    vae, x, exact = pair(name, truths, guide)
    method = (
        LONGER if name == "two_modes" else SHORT
    )  # both where pilot chains ask for more and where none are left
    result = pv.log_marginal(vae, x, method=method, num_samples=2000, seed=1)
    off = (result.log_marginal - exact).abs() / result.std_error
    assert abs(float((off < 1.96).double().mean()) - COVERS[0]) < 3 * COVERS[1]
    good = ~result.unreliable & ~result.unknown
    assert float(good.double().mean()) > 0.95
    # At most one in a hundred, and two errors of such a share of 400 rows.
    assert float((off[good] > 3).double().mean()) < 0.01 + 2 * math.sqrt(0.01 * 0.99 / N)
    assert float(result.std_error.median()) < 0.1


@pytest.mark.parametrize("stage", ["guide", "proposal", "annealed"])
def test_every_stage_is_unbiased(truths, stage, monkeypatch):
    """Copies of one row are repetitions, each with its own pilot draws, proposal and step sizes."""
    vae, x, exact = pair("two_modes", truths, "missing")

    def promised(self, at, pilot):
        return torch.full_like(pilot.khat, at == stage, dtype=torch.bool), torch.zeros_like(pilot.khat)

    monkeypatch.setattr(escalation.ByStages, "_promised", promised)
    method = pv.EscalatingSampling(target_error=0.3, most_temperatures=16)
    result = pv.log_marginal(vae, x[:1].expand(200, -1), method=method, num_samples=200, seed=0)
    assert set(result.to_frame()["stage"]) == {stage}
    ratio = (result.log_marginal - exact[0]).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(200)
    assert float(ratio.std()) > 0.01
    if stage == "annealed":  # what lies between the bounds
        above = exact[0] - (-((-result.stages.upper).exp().mean().log()))
        assert abs(float(above)) < 0.1


def test_figures_are_not_chosen_by_their_value(truths):
    """Rows at mixed stages: exp of the whole is unbiased as well."""
    vae, x, exact = pair("gamma_poisson", truths, "narrow")
    found = pv.log_marginal(vae, x[:1].expand(600), method="auto", num_samples=500, seed=3)
    assert len(set(found.to_frame()["stage"])) > 1
    ratio = (found.log_marginal - exact[0]).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(600)


def test_weights_are_of_the_mixture_that_is_drawn():
    """Draws that do not come out even among four components: its share of them is what each counts, exactly."""
    J = 4
    loc = 1e3 * torch.arange(J).double()[:, None, None]
    proposals = Proposals(loc, torch.ones(J, 1, 1, 1).double(), torch.ones(1, dtype=torch.bool))
    mixture = Mixture(SimpleNamespace(score_guide=False), proposals)
    for S in (14, 15, 203):
        *sizes, of_prior = mixture.sizes(S)
        assert len(set(sizes)) == 2
        assert sum(sizes) + of_prior == S
        own = dist.StudentT(proposals.degrees).log_prob(torch.zeros((), dtype=torch.float64))
        found = proposals.log_density(loc, sizes)[:, 0]
        torch.testing.assert_close(found.exp(), own.exp() * torch.tensor(sizes) / sum(sizes))


METHODS = {
    "guide": pv.ImportanceSampling(),
    "mixture": pv.ImportanceSampling(0.2),
    "annealing": pv.AnnealedImportanceSampling(5, 2),
    "auto": "auto",
}


@pytest.mark.parametrize("method", METHODS)
def test_figures_of_a_row_do_not_depend_on_the_others(truths, method):
    vae, x, _ = pair("linear_gaussian", truths, "narrow")
    x = x[:300]
    given = {"method": METHODS[method], "num_samples": 20 if method == "annealing" else 300, "seed": 5}
    whole = pv.log_marginal(vae, x, **given)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for some in (order, order[:1], order[5:40]):
        part = pv.log_marginal(vae, x[some], **given)
        torch.testing.assert_close(part.log_marginal, whole.log_marginal[some], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(part.khat, whole.khat[some], rtol=1e-6, atol=1e-6)
    other = pv.log_marginal(vae, x[:5], **(given | {"seed": 6}))
    assert not bool((other.log_marginal == whole.log_marginal[:5]).any())


def test_equal_rows_draw_independently(truths):
    vae, x, _ = pair("linear_gaussian", truths, "wide")
    found = pv.log_marginal(vae, x[[0, 1, 0, 0]], num_samples=50, seed=0).log_marginal
    alone = pv.log_marginal(vae, x[:1], num_samples=50, seed=0).log_marginal
    assert len(found.unique()) == 4
    torch.testing.assert_close(found[:1], alone)


def test_what_is_told(truths):
    vae, x, _ = pair("mixture", truths, "missing")
    whole, auto = (pv.log_marginal(vae, x[:3], method=m, seed=0) for m in (pv.EscalatingSampling(), "auto"))
    assert torch.equal(whole.log_marginal, auto.log_marginal)
    result = pv.log_marginal(vae, x[:40], method=pv.EscalatingSampling(0.05, of_mean=True), seed=0)
    frame = result.to_frame()
    assert list(frame)[5:] == ["stage", "num_samples", "upper"]
    assert set(frame["stage"]) <= {"guide", "proposal", "annealed"}
    assert bool((frame["upper"].notna() == (frame["stage"] == "annealed")).all())
    assert "guide " in str(result)
    assert "proposal " in str(result)
    both = pv.compare({"a": vae, "b": vae}, x[:40], method="auto", num_samples=500, seed=0)
    assert both.results["a"].stages is not None
    assert abs(float(both.table["elpd_diff"].max())) < 5


def test_refusals(truths):
    vae, x, _ = pair("mixture", truths, "wide")
    for target in (0.0, -1.0, math.inf, math.nan, True):
        with pytest.raises(ValueError, match="target_error is .* positive number of nats"):
            pv.EscalatingSampling(target)
    with pytest.raises(ValueError, match="most_temperatures is 0"):
        pv.EscalatingSampling(most_temperatures=0)
    with pytest.raises(ValueError, match="num_samples is 100: escalating takes at least 200"):
        pv.log_marginal(vae, x, method="auto", num_samples=100)
    with pytest.raises(TypeError, match='method is .best.: expected "auto", or an object such as'):
        pv.log_marginal(vae, x, method="best")


def test_latents_that_cannot_be_moved_have_the_first_stage_alone():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
            pyro.sample("x", dist.Normal(k.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(3).expand(len(x), 3)))

    x = torch.tensor([-1.0, 0.5, 3.0])
    shares = torch.tensor([0.2, 0.5, 0.3]).log()
    exact = (torch.distributions.Normal(torch.arange(3.0), 1.0).log_prob(x[:, None]) + shares).logsumexp(1)
    result = pv.log_marginal(pv.VAE(model, guide), x, num_samples=5000, method="auto", seed=0)
    assert bool(((result.log_marginal - exact).abs() < 4.5 * result.std_error).all())
    assert result.stages is None
    assert "the guide's stage alone: the guide samples 'k', which is discrete" in str(result)


def test_what_is_scored_at_once_does_not_decide_the_stages(truths):
    vae, x, _ = pair("beta_binomial", truths, "exact")
    given = {"method": "auto", "num_samples": 300, "seed": 0}
    whole = pv.log_marginal(vae, x[:9], **given)
    assert set(whole.to_frame()["stage"]) == {"guide"}
    for limit in ({"batch_size": 4}, {"chunk_size": 2}):
        found = pv.log_marginal(vae, x[:9], **given, **limit)
        torch.testing.assert_close(found.log_marginal, whole.log_marginal, rtol=1e-6, atol=1e-6)
        assert torch.equal(found.stages.stage, whole.stages.stage)


def test_padded_rows_of_a_guide_that_scores_its_own_draws_alone():
    """Latents follow from auxiliary sites, so that the guide's density elsewhere is not known."""

    def model(x, lengths):
        real = torch.arange(3) < lengths[:, None]
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).mask(real).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).mask(real).to_event(1), obs=x)

    def guide(x, lengths):
        real = torch.arange(3) < lengths[:, None]
        with pyro.plate("rows", len(x)):
            noise = dist.Normal(torch.zeros(3), 1.0).mask(real).to_event(1)
            a = pyro.sample("a", noise, infer={"is_auxiliary": True})
            log_density = -math.log(0.7) * real.sum(-1).expand(a.shape[:-1])
            pyro.sample("z", dist.Delta(0.8 * x + 0.7 * a, log_density=log_density, event_dim=1))

    x, lengths = torch.randn(6, 3), torch.tensor([1, 2, 3] * 2)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x).where(torch.arange(3) < lengths[:, None], 0.0).sum(1)
    result = pv.log_marginal(pv.VAE(model, guide), x, lengths, method="auto", num_samples=500, seed=0)
    assert [escalation.STAGES[place] for place in result.stages.stage.tolist()][:2] == ["guide", "guide"]
    assert bool(((result.log_marginal - exact).abs() < 4.5 * result.std_error + 1e-6).all())
