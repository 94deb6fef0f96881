"""log p(some sites | others): against exact conditionals, with errors that cover, by all methods."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.models.sequences import MarkovSequence, PaddedSequence
from tests.evidence.test_imputation import MEANS, SHARES, guide_of_both, guide_of_z, semi_supervised
from tests.pair.test_absence import holes

NAN = math.nan
W = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
SCALE = 0.6


class TwoSites(nn.Module):
    """z ~ N(0, I), rna and protein linear in z: every density by linear algebra. x holds both, or one each."""

    def forward(self, rna, protein):
        with pyro.plate("rows", len(rna)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("rna", dist.Normal(z @ W[:3].T, SCALE).to_event(1), obs=rna)
            pyro.sample("protein", dist.Normal(z @ W[3:].T, SCALE).to_event(1), obs=protein)


class TheirGuide(nn.Module):
    """p(z | what is present), with scales and means that may be off."""

    def __init__(self, factor=1.0, shift=0.0, diagonal=False):
        super().__init__()
        self.factor, self.shift, self.diagonal = factor, shift, diagonal

    def forward(self, rna, protein):
        x = torch.cat([rna, protein], 1)
        present = (~x.isnan()).double()
        precision = torch.eye(2).double() + (W.T * present[:, None]) @ W / SCALE**2
        loc = torch.linalg.solve(precision, (x.nan_to_num() @ W / SCALE**2)[..., None])[..., 0]
        tril = torch.linalg.cholesky(torch.linalg.inv(precision))
        if self.diagonal:
            tril = torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1).sqrt().diag_embed()
        with pyro.plate("rows", len(x)):
            loc = loc + self.shift * tril.sum(-1)
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.factor * tril))


JOINT = torch.distributions.MultivariateNormal(
    torch.zeros(5).double(), W @ W.T + SCALE**2 * torch.eye(5).double()
)


def rows(N=400):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = JOINT.sample((N,))
    return x[:, :3], x[:, 3:]


def log_p(x):
    """Of what is present, row by row."""
    found = []
    for row in x:
        kept = ~row.isnan()
        C = JOINT.covariance_matrix[kept][:, kept]
        found.append(
            torch.distributions.MultivariateNormal(torch.zeros(int(kept.sum())).double(), C).log_prob(
                row[kept]
            )
        )
    return torch.stack(found)


def exact(rna, protein):
    """log p(protein | rna)."""
    return log_p(torch.cat([rna, protein], 1)) - log_p(torch.cat([rna, protein * NAN], 1))


def test_exact_guides_give_exact_conditionals_without_error():
    rna, protein = rows(50)
    rna = holes(rna)
    protein[3, 1] = NAN
    result = pv.log_marginal(
        pv.VAE(TwoSites(), TheirGuide()), rna, protein, given=["rna"], num_samples=20, seed=0
    )
    torch.testing.assert_close(result.log_marginal, exact(rna, protein), atol=1e-9, rtol=0)
    assert bool((result.std_error < 1e-6).all())
    torch.testing.assert_close(result.joint.log_marginal, log_p(torch.cat([rna, protein], 1)))
    assert result.verdict == "good"


def test_where_both_guides_are_off_alike_the_difference_has_no_error():
    """Scales and means off by the same factors of the posteriors': the weights of both terms are the same functions."""
    rna, protein = rows(50)
    vae = pv.VAE(TwoSites(), TheirGuide(1.2, 0.3))
    result = pv.log_marginal(vae, rna, protein, given=["rna"], num_samples=100, seed=0)
    torch.testing.assert_close(result.log_marginal, exact(rna, protein), atol=1e-9, rtol=0)
    assert bool((result.std_error < 1e-6).all())
    assert bool((result.joint.std_error > 0.01).all())


@pytest.mark.parametrize(
    "method", [pv.ImportanceSampling(), pv.ImportanceSampling(prior_share=0.3)], ids=["guide", "mixture"]
)
def test_errors_cover_and_are_those_of_the_difference(method):
    rna, protein = rows()
    vae = pv.VAE(TwoSites(), TheirGuide(1.2, 0.3, diagonal=True))
    result = pv.log_marginal(vae, rna, protein, given=["rna"], num_samples=300, method=method, seed=0)
    z_scores = (result.log_marginal - exact(rna, protein)) / result.std_error
    assert 0.85 < float(z_scores.std()) < 1.15
    assert abs(float(z_scores.mean())) < 0.2
    alone = torch.hypot(result.joint.std_error, result.given.std_error)
    assert float((result.std_error / alone).mean()) < 0.85
    whole = pv.log_marginal(vae, rna, protein, num_samples=300, method=method, seed=0)
    torch.testing.assert_close(result.joint.log_marginal, whole.log_marginal)
    torch.testing.assert_close(result.log_marginal, result.joint.log_marginal - result.given.log_marginal)


def test_chains_given_chains():
    """Two sequences of one chain: the difference and its error by runs of particles, with what their steps say."""
    T, N = 6, 120

    def chain(of, scale):
        initial = dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)
        return MarkovSequence(initial, lambda z: dist.Normal(0.9 * z, scale).to_event(1), of.shape[1])

    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", chain(x, 0.5))
            for name, sign, scale, value in (("x", 1.0, 0.5, x), ("y", -1.0, 0.8, y)):
                step = functools.partial(lambda z, a, s: dist.Normal(a * z, s).to_event(1), a=sign, s=scale)
                pyro.sample(name, PaddedSequence.emitted(step, z), obs=value)

    def guide(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", chain(x, 0.6))

    lag = torch.arange(T)
    variances = torch.ones(T).double()
    for t in range(1, T):
        variances[t] = 0.81 * variances[t - 1] + 0.25
    C = variances[torch.minimum(lag[:, None], lag)] * 0.9 ** (lag[:, None] - lag).abs()
    eye = torch.eye(T).double()
    whole = torch.cat([torch.cat([C + 0.25 * eye, -C], 1), torch.cat([-C, C + 0.64 * eye], 1)])
    joint, of_x = (
        torch.distributions.MultivariateNormal(torch.zeros(len(c)).double(), c)
        for c in (whole, whole[:T, :T])
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rows_of_both = joint.sample((N,))
    x, y = rows_of_both[:, :T, None], rows_of_both[:, T:, None]
    result = pv.log_marginal(
        pv.VAE(model, guide), x, y, given=["x"], num_samples=300, method=pv.SequentialMonteCarlo(), seed=0
    )
    off = (result.log_marginal - joint.log_prob(rows_of_both) + of_x.log_prob(rows_of_both[:, :T])).abs()
    assert float((off < 1.96 * result.std_error).double().mean()) > 0.88
    assert result.verdict == "good"
    for term in (result.joint, result.given):
        assert isinstance(term, pv.SequentialLogMarginal)
        assert term.step_ess.shape == (N, T)
    assert "5 runs, each within 1 nat" in str(result)


def test_annealing_finds_them_too():
    rna, protein = rows(20)
    vae = pv.VAE(TwoSites(), TheirGuide(1.3, 0.5))
    method = pv.AnnealedImportanceSampling(num_temperatures=40)
    result = pv.log_marginal(vae, rna, protein, given=["protein"], num_samples=30, method=method, seed=0)
    truth = log_p(torch.cat([rna, protein], 1)) - log_p(torch.cat([rna * NAN, protein], 1))
    assert float(((result.log_marginal - truth) / result.std_error).abs().max()) < 5


@pytest.mark.parametrize(
    "model, guide",
    [(pyro.infer.config_enumerate(semi_supervised), guide_of_z), (semi_supervised, guide_of_both)],
    ids=["enumerated", "sampled"],
)
def test_labels_have_probabilities_by_bayes_rule(model, guide):
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(30) % 3).float()
    w = torch.tensor([1.0, -0.5])
    x = (MEANS[y.long()] + torch.randn(30, generator=generator))[:, None] * w
    x = x + 0.6 * torch.randn(30, 2, generator=generator)
    covariance = w[:, None] * w + 0.36 * torch.eye(2)
    terms = torch.distributions.MultivariateNormal(MEANS[:, None] * w, covariance).log_prob(x[:, None])
    truth = (terms + SHARES.log()).log_softmax(-1).gather(1, y.long()[:, None])[:, 0]
    result = pv.log_marginal(pv.VAE(model, guide), x, y, given=["x"], num_samples=4000, seed=0)
    assert float((result.log_marginal.exp() - truth.exp()).abs().max()) < 0.03
    assert float(((result.log_marginal - truth) / result.std_error).abs().max()) < 4.5
    reverse = pv.log_marginal(pv.VAE(model, guide), x, y, given=["y"], num_samples=4000, seed=0)
    of_x = terms.gather(1, y.long()[:, None])[:, 0]
    assert float(((reverse.log_marginal - of_x) / reverse.std_error).abs().max()) < 4.5


def test_columns_given_columns():
    """Columns of one table, picked by index."""

    class Table(nn.Module):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                pyro.sample("some", dist.Normal(z @ W[[0, 2, 4]].T, SCALE).to_event(1), obs=x[..., [0, 2, 4]])
                pyro.sample("others", dist.Normal(z @ W[[1, 3]].T, SCALE).to_event(1), obs=x[..., [1, 3]])

    guide = TheirGuide()
    rna, protein = rows(20)
    x = torch.cat([rna, protein], 1)
    vae = pv.VAE(Table(), lambda x: guide(x[:, :3], x[:, 3:]))
    found = pv.log_marginal(vae, x, given=["others"], num_samples=5, seed=0)
    lacking = x.clone()
    lacking[:, [0, 2, 4]] = NAN
    torch.testing.assert_close(found.log_marginal, log_p(x) - log_p(lacking), atol=1e-9, rtol=0)


def test_what_it_says():
    rna, protein = rows(10)
    result = pv.log_marginal(
        pv.VAE(TwoSites(), TheirGuide(1.2)), rna, protein, given=["rna"], num_samples=100, seed=0
    )
    assert list(result.to_frame()) == ["log_marginal", "std_error", "ess", "khat"]
    assert len(result) == 10
    assert "log p(others | given)" in str(result)
    assert repr(result) == str(result)
    assert "<table" in result._repr_html_()
    total, error = result.total
    assert total == pytest.approx(float(result.log_marginal.sum()))
    assert error == pytest.approx(float(result.variance.sum().sqrt()))
    assert bool((result.khat >= result.joint.khat).all())
    single = pv.log_marginal(pv.VAE(TwoSites(), TheirGuide(1.2)), rna, protein, given=["rna"], num_samples=1)
    assert bool(single.std_error.isnan().all())


def test_labels_more_probable_than_certain_are_said():
    """The guide is too narrow where it lacks the label, so that log p(x) errs low and log p(y | x) high."""

    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Bernoulli(logits=torch.full((len(x),), 3.0)), obs=y)
            pyro.sample("x", dist.Normal(z, 0.3), obs=x)

    def guide(x, y):
        scale = torch.where(y.isnan(), 0.02, 0.3)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.nan_to_num() / 1.09, scale))

    vae, x, y = pv.VAE(model, guide), torch.linspace(-2, 2, 40), torch.ones(40)
    result = pv.log_marginal(vae, x, y, given=["x"], num_samples=100, seed=0)
    above = result.log_marginal > 0
    assert int(above.sum()) > 0
    assert torch.equal(result.above_one, above)
    assert result.verdict == "poor"
    assert "; so many are bad that the others are no better" in str(result)
    assert f"{int(above.sum())} of 40 rows are above 0, which no log probability is" in str(result)
    # A density may be above one.
    assert not bool(pv.log_marginal(vae, x, y, given=["y"], num_samples=100, seed=0).above_one.any())


# What is refused


@pytest.mark.parametrize(
    "given, error, message",
    [
        (
            ["gene"],
            ValueError,
            "given names 'gene', which the model does not observe: it observes 'rna', 'protein'",
        ),
        (["rna", "protein"], ValueError, "given names all that the model observes.*nothing is left"),
        ([], ValueError, "given names no site"),
        ("rna", TypeError, r"given is 'rna': expected a list of names of sites, such as \['rna'\]"),
    ],
)
def test_wrong_names_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        pv.log_marginal(pv.VAE(TwoSites(), TheirGuide()), *rows(5), given=given)


def pair_of(model):
    def guide(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))

    return pv.VAE(model, guide)


def test_sites_that_depend_on_what_would_be_absent_are_refused():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Normal(z, 1.0), obs=y)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'x' depends on what 'y' observes.*obs_mask=~y.isnan\(\)"):
        pv.log_marginal(pair_of(model), torch.ones(5), torch.zeros(5), given=["x"], num_samples=5)
    found = pv.log_marginal(pair_of(model), torch.zeros(5), torch.zeros(5), given=["y"], num_samples=5)
    torch.testing.assert_close(found.log_marginal, dist.Normal(0.0, 1.0).log_prob(torch.zeros(5)).double())


def test_data_that_cannot_be_absent_are_refused():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y.float())

    with pytest.raises(ValueError, match=r"'y' observes .* comes as integers.*y.float\(\)"):
        pv.log_marginal(pair_of(model), torch.zeros(5), torch.ones(5, dtype=torch.long), given=["x"])
    found = pv.log_marginal(
        pair_of(model), torch.zeros(5), torch.ones(5), given=["x"], num_samples=2000, seed=0
    )
    assert float(found.log_marginal.exp().mean()) == pytest.approx(0.5, abs=0.02)


def test_sites_that_observe_the_same_are_refused():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("again", dist.Normal(z, 2.0), obs=x)

    with pytest.raises(ValueError, match="'again' and 'x' observe the same entries"):
        pv.log_marginal(pair_of(model), torch.zeros(5), torch.zeros(5), given=["x"])


def test_masks_that_do_not_follow_from_the_values_are_refused():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            known = torch.ones(len(x), dtype=torch.bool)
            y = pyro.sample("y", dist.Normal(0.0, 1.0), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=y.isnan()):
            pyro.sample("y_unobserved", dist.Normal(0.0 * x, 1.0))

    with pytest.raises(ValueError, match=r"obs_mask= of 'y' does not follow from its values"):
        pv.log_marginal(pv.VAE(model, guide), torch.zeros(5), torch.zeros(5), given=["x"])


def test_guides_that_cannot_do_without_are_told_what_helps():
    def model(x, y):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal((x + y) / 3, 1.0))

    with pytest.raises(ValueError, match=r"(?s)log p\(x\) needs rows without 'y'.*MissingAsZero"):
        pv.log_marginal(pv.VAE(model, guide), torch.zeros(5), torch.zeros(5), given=["x"])
