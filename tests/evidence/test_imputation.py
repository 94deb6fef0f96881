"""What rows lack, drawn: against exact conditionals, labels against Bayes' rule, by every kind of program."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.evidence.weighted_draws import spread_places
from pyrovae.pair.completion import _conditional_normal, _given_present
from tests.oracles import LinearGaussian
from tests.pair.test_absence import ExactGivenPresent, holes, marginals

NAN = math.nan


def conditionals(joint, x):
    """Means and standard deviations of what is absent given what is present, under a normal joint, [N,D] each."""
    mean, spread = torch.full_like(x, NAN), torch.full_like(x, NAN)
    for row, (m, s) in zip(x, zip(mean, spread, strict=True), strict=True):
        present, absent = ~row.isnan(), row.isnan()
        C = joint.covariance_matrix
        gain = C[absent][:, present] @ torch.linalg.inv(C[present][:, present])
        m[absent] = joint.loc[absent] + gain @ (row[present] - joint.loc[present])
        s[absent] = (C[absent][:, absent] - gain @ C[present][:, absent]).diagonal().sqrt()
    return mean, spread


class Halved(ExactGivenPresent):
    """The exact means, with half the scales."""

    def forward(self, x):
        exact = self.posterior(x)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.mean, scale_tril=exact.scale_tril / 2))


@pytest.fixture(scope="module")
def linear():
    model = LinearGaussian(K=2, D=6)
    full = model.data(600)
    return model, full, holes(full)


@pytest.mark.parametrize("guide", [ExactGivenPresent, Halved])
def test_linear_gaussian_rows_are_imputed_from_their_exact_conditionals(linear, guide):
    model, full, x = linear
    result = pv.impute(pv.VAE(model, guide(model)), x, num_samples=500, seed=0)
    absent = x.isnan()
    mean, spread = conditionals(model.evidence(), x)
    off = ((result.mean - mean) / spread)[absent].abs()
    low, high = result.interval(0.9)
    covered = float(((low <= full) & (full <= high))[absent].double().mean())
    assert 0.87 < covered < 0.93
    assert torch.equal(result.absent, absent)
    assert torch.equal(result.mean[~absent], x[~absent])
    assert bool((result.draws[:, ~absent] == x[~absent]).all())
    assert bool(result.draws.isfinite().all())
    if guide is ExactGivenPresent:
        assert float(off.max()) < 0.15
        assert result.verdict == "good"
        # Means are those of the weights, and draws have the spread of the conditional.
        drawn = result.draws[:, absent]
        assert float((drawn.std(0) / spread[absent]).log().abs().mean()) < 0.04
    else:
        assert float(off.square().mean().sqrt()) < 0.15
        assert result.verdict == "poor"
        assert "so many are bad" in str(result)


def test_more_proposals_mend_a_narrow_guide(linear):
    model, _, x = linear
    vae = pv.VAE(model, Halved(model))
    mean, spread = conditionals(model.evidence(), x)

    def error(**choices):
        found = pv.impute(vae, x, num_samples=10, seed=0, **choices)
        assert found.draws.shape == (10, *x.shape)
        return float(((found.mean - mean) / spread)[x.isnan()].square().mean().sqrt())

    assert error(resample_from=5000) < 0.5 * error(resample_from=100)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_draws_of_the_prior_mend_a_narrow_guide(linear, share):
    """Of a mixture, or of the prior alone: exact means of what is absent, and log p of what is present."""
    model, _, x = linear
    x = x[:50]
    vae, method = pv.VAE(model, Halved(model)), pv.ImportanceSampling(prior_share=share)
    result = pv.impute(vae, x, num_samples=200, resample_from=4000, method=method, seed=0)
    mean, spread = conditionals(model.evidence(), x)
    absent = x.isnan()
    error = 5 * spread / result.ess[:, None].sqrt()
    assert bool(((result.mean - mean).abs() < error)[absent].all())
    assert abs(float((result.draws.std(0) / spread)[absent].log().mean())) < 0.1
    off = (result.weights.log_marginal - marginals(model, x)) / result.weights.std_error
    assert 0.7 < float(off.square().mean().sqrt()) < 1.4
    alone = pv.impute(vae, x, num_samples=200, resample_from=4000, seed=0)
    assert float(result.khat.median()) < 0.5 < float(alone.khat.median())


def test_methods_that_keep_no_draws_cannot_impute(linear):
    model, _, x = linear
    vae = pv.VAE(model, Halved(model))
    for method in ("auto", pv.EscalatingSampling(), pv.AnnealedImportanceSampling(), None):
        with pytest.raises(TypeError, match=r"expected ImportanceSampling\(prior_share\).*pv.refine"):
            pv.impute(vae, x, method=method)


def test_equal_weights_take_each_draw_once():
    places = spread_places(torch.full((50, 3), 1 / 50), 50)
    assert torch.equal(places.sort(0).values, torch.arange(50)[:, None].expand(50, 3))
    assert not torch.equal(places[:, 0], places[:, 1])
    weights = torch.tensor([[0.0, 0.5], [0.7, 0.5], [0.3, 0.0]])
    counts = torch.stack([torch.bincount(column, minlength=3) for column in spread_places(weights, 10).T], 1)
    assert counts.tolist() == [[0, 5], [7, 5], [3, 0]]


@pytest.mark.parametrize("low_rank", [False, True])
def test_a_multivariate_normals_absent_entries_follow_its_present_ones(low_rank):
    """z ~ N(0, 1), x = w z + correlated noise: the conditional is that of a normal with both."""
    torch.manual_seed(0)
    w, noise = torch.randn(4).double(), torch.randn(4, 2).double()
    likelihood = (
        (lambda loc: dist.LowRankMultivariateNormal(loc, noise, torch.full((4,), 0.3).double()))
        if low_rank
        else (lambda loc: dist.MultivariateNormal(loc, noise @ noise.T + 0.3 * torch.eye(4).double()))
    )

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", likelihood(z[..., None] * w), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0 * x.nan_to_num()[:, 0], 1.0))

    covariance = w[:, None] * w + noise @ noise.T + 0.3 * torch.eye(4).double()
    joint = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance)
    x = holes(joint.sample((40,)), share=0.5)
    result = pv.impute(pv.VAE(model, guide), x, num_samples=4000, seed=0)
    mean, spread = conditionals(joint, x)
    absent = x.isnan()
    # Draws are of a weighted sample: their error comes from its effective size.
    error = 5 * spread / result.ess[:, None].sqrt()
    assert bool(((result.mean - mean).abs() < error)[absent].all())
    assert float((result.draws.std(0) / spread)[absent].log().abs().mean()) < 0.04


def test_the_conditional_of_a_normal_has_the_covariance_of_the_rest():
    torch.manual_seed(0)
    factor = torch.randn(4, 4).double()
    normal = torch.distributions.MultivariateNormal(
        torch.arange(4.0).double(), factor @ factor.T + torch.eye(4)
    )
    row = torch.tensor([NAN, 0.5, NAN, 2.0]).double()
    drawn, _ = _conditional_normal(normal.expand([20000]), row.expand(20000, 4))
    C, a, p = normal.covariance_matrix, [0, 2], [1, 3]
    expected = C[a][:, a] - C[a][:, p] @ torch.linalg.inv(C[p][:, p]) @ C[p][:, a]
    torch.testing.assert_close(drawn[:, a].T.cov(), expected, atol=0.1, rtol=0.04)
    torch.testing.assert_close(drawn[:, p], row[p].expand(20000, 2))


@pytest.mark.parametrize("covariances", [False, True])
def test_the_conditional_of_a_mixture_chooses_components_by_what_is_present(covariances):
    torch.manual_seed(0)
    shares, locs = (
        torch.tensor([0.3, 0.7]).double(),
        torch.tensor([[-1.0, 2.0, 0.0], [1.0, -1.0, 1.0]]).double(),
    )
    factor = torch.randn(3, 3).double() if covariances else torch.zeros(3, 3).double()
    C = factor @ factor.T + 0.25 * torch.eye(3).double()
    parts = dist.MultivariateNormal(locs, C) if covariances else dist.Normal(locs, 0.5).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(shares), parts)
    row = torch.tensor([NAN, 0.4, NAN]).double()
    a, p = [0, 2], [1]
    gain = C[a][:, p] @ torch.linalg.inv(C[p][:, p])
    means = locs[:, a] + (row[p] - locs[:, p]) @ gain.T
    weights = shares * dist.Normal(locs[:, 1], C[1, 1].sqrt()).log_prob(row[1]).exp()
    weights = weights / weights.sum()
    drawn, mean = _given_present(mixture.expand([20000]), row.expand(20000, 3))
    exact = weights @ means
    torch.testing.assert_close(mean[0, a], exact)
    spread = (
        C[a][:, a] - gain @ C[p][:, a] + torch.einsum("k,ki,kj->ij", weights, means - exact, means - exact)
    )
    torch.testing.assert_close(drawn[:, a].mean(0), exact, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn[:, a].T.cov(), spread, atol=0.1, rtol=0.05)


# Labels on which others depend

SHARES, MEANS = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([-2.0, 0.0, 2.0])


def semi_supervised(x, y):
    with pyro.plate("rows", len(x)):
        label = pyro.sample("y", dist.Categorical(SHARES), obs=y, obs_mask=~y.isnan())
        z = pyro.sample("z", dist.Normal(MEANS[label.long()], 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * torch.tensor([1.0, -0.5]), 0.6).to_event(1), obs=x)


def guide_of_z(x, y):
    seen = x.nan_to_num() @ torch.tensor([0.7, -0.4])
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(seen, 1.5))


def guide_of_both(x, y):
    seen = x.nan_to_num() @ torch.tensor([0.7, -0.4])
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(seen, 1.5))
        logits = -((seen[:, None] - MEANS) ** 2) / 5
        # A known label leaves its site out here as it does in the model.
        with pyro.poutine.mask(mask=y.isnan()):
            pyro.sample("y_unobserved", dist.Categorical(logits=logits))


def labelled_rows(N=60):
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(N) % 3
    z = MEANS[y] + torch.randn(N, generator=generator)
    x = z[:, None] * torch.tensor([1.0, -0.5]) + 0.6 * torch.randn(N, 2, generator=generator)
    x[1::3, 0] = NAN
    return x, y.float().masked_fill(torch.arange(N) % 2 == 0, NAN)


def posterior_of_labels(x):
    """p(y | x_present), [N,3]."""
    w = torch.tensor([1.0, -0.5])
    covariance = w[:, None] * w + 0.36 * torch.eye(2)
    both = torch.distributions.MultivariateNormal(MEANS[:, None] * w, covariance).log_prob(
        x.nan_to_num()[:, None]
    )
    second = dist.Normal(MEANS * w[1], covariance[1, 1].sqrt()).log_prob(x[:, 1:])
    joint = torch.where(x[:, :1].isnan(), second, both) + SHARES.log()
    return joint.softmax(-1)


@pytest.mark.parametrize(
    "model, guide",
    [(pyro.infer.config_enumerate(semi_supervised), guide_of_z), (semi_supervised, guide_of_both)],
    ids=["enumerated", "sampled"],
)
def test_absent_labels_follow_bayes_rule_and_known_ones_stand(model, guide):
    x, y = labelled_rows()
    result = pv.impute(pv.VAE(model, guide), x, y, num_samples=2000, seed=0)
    absent = y.isnan()
    exact = posterior_of_labels(x)
    probabilities = result.probabilities["y"]
    assert set(result.probabilities) == {"y"}
    assert float((probabilities - exact)[absent].abs().max()) < 0.03
    torch.testing.assert_close(
        probabilities[~absent], nn.functional.one_hot(y[~absent].long(), 3).double(), atol=0, rtol=0
    )
    shares = torch.stack([(result.draws["y"] == k).double().mean(0) for k in range(3)], -1)
    error = 4 * (0.25 / result.ess).sqrt() + 0.02
    assert bool(((shares - exact).abs() < error[:, None])[absent].all())
    assert torch.equal(result.mean["y"], torch.where(absent, probabilities.argmax(-1).float(), y))
    assert torch.equal(result.absent["y"], absent)
    # An absent entry of x is that of a mixture with weights p(y | x, y known or not), not of the prior's label.
    weights = torch.where(absent[:, None], exact, probabilities.float())
    given_label = []
    for k in range(3):
        covariance = 1.0 * -0.5
        gain = covariance / (0.25 + 0.36)
        given_label.append(MEANS[k] + gain * (x[:, 1] + 0.5 * MEANS[k]))
    exact_mean = (weights * torch.stack(given_label, -1)).sum(-1)
    lacking = x[:, 0].isnan()
    off = (result.mean["x"][:, 0] - exact_mean)[lacking].abs()
    assert bool((off < 5 * 1.5 / result.ess[lacking].sqrt()).all())


def test_mixtures_without_other_latents_have_exact_labels():
    @pyro.infer.config_enumerate
    def model(x, y):
        with pyro.plate("rows", len(x)):
            label = pyro.sample("y", dist.Categorical(SHARES), obs=y, obs_mask=~y.isnan())
            pyro.sample("x", dist.Normal(MEANS[label.long()], 1.0), obs=x)

    x, y = torch.randn(20), torch.full((20,), NAN)
    result = pv.impute(pv.VAE(model, lambda x, y: None), x, y, num_samples=3, seed=0)
    exact = (dist.Normal(MEANS, 1.0).log_prob(x[:, None]) + SHARES.log()).softmax(-1)
    torch.testing.assert_close(result.probabilities["y"].float(), exact)


def test_labels_as_one_hot_vectors_and_binary_ones_have_probabilities_too():
    shares = torch.tensor([0.3, 0.7])

    @pyro.infer.config_enumerate
    def vectors(x, y):
        with pyro.plate("rows", len(x)):
            known = ~y.isnan().any(-1)
            label = pyro.sample("y", dist.OneHotCategorical(shares), obs=y, obs_mask=known)
            pyro.sample("x", dist.Normal(label @ torch.tensor([-1.0, 1.0]), 1.0), obs=x)

    @pyro.infer.config_enumerate
    def binary(x, y):
        with pyro.plate("rows", len(x)):
            label = pyro.sample("y", dist.Bernoulli(0.7), obs=y, obs_mask=~y.isnan())
            pyro.sample("x", dist.Normal(2 * label - 1, 1.0), obs=x)

    x, y = torch.linspace(-2, 2, 6), torch.tensor([0.0, 1.0, NAN, NAN, NAN, NAN])
    exact = torch.stack(
        [0.3 * dist.Normal(-1.0, 1.0).log_prob(x).exp(), 0.7 * dist.Normal(1.0, 1.0).log_prob(x).exp()]
    )
    exact = (exact[1] / exact.sum(0)).where(y.isnan(), y)
    of_binary = pv.impute(pv.VAE(binary, lambda x, y: None), x, y, num_samples=2, seed=0)
    torch.testing.assert_close(of_binary.mean["y"], exact)
    hot = torch.stack([1 - y, y], -1)
    of_vectors = pv.impute(pv.VAE(vectors, lambda x, y: None), x, hot, num_samples=2, seed=0)
    torch.testing.assert_close(of_vectors.mean["y"], torch.stack([1 - exact, exact], -1))


# Families


def one_latent(likelihood):
    """z ~ N(0, 1) and entries given z, independent, with a guide that is the prior: oracles by quadrature."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", likelihood(z[..., None]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))

    return pv.VAE(model, guide)


def quadrature(likelihood, x, what):
    """E[what(z) | x_present], by a grid."""
    z = torch.linspace(-6, 6, 2001)
    terms = likelihood(z[:, None, None]).log_prob(x.nan_to_num()).where(~x.isnan(), 0.0).sum(-1)
    weights = (terms - z[:, None] ** 2 / 2).softmax(0)
    values = what(z[:, None, None])
    return (weights.reshape(*weights.shape, *[1] * (values.dim() - 2)) * values).sum(0)


SLOPES = torch.tensor([1.0, -0.7, 0.5])


def test_categories_have_probabilities_and_their_mean_is_the_most_probable():
    table = torch.stack([SLOPES, -SLOPES, 0 * SLOPES + 0.3], -1)

    def likelihood(z):
        return dist.Categorical(logits=z[..., None] * table)

    x = torch.tensor([[0.0, 1.0, NAN], [2.0, NAN, NAN], [1.0, 0.0, 2.0]])
    result = pv.impute(one_latent(likelihood), x, num_samples=4000, seed=0)
    exact = quadrature(likelihood, x, lambda z: likelihood(z).probs)
    absent = x.isnan()
    found = result.probabilities["x"].float()
    torch.testing.assert_close(found[absent], exact[absent], atol=0.03, rtol=0)
    assert torch.equal(result.mean, torch.where(absent, found.argmax(-1).float(), x))
    assert torch.equal(found[~absent], nn.functional.one_hot(x.nan_to_num().long(), 3).float()[~absent])
    low, _ = result.interval()
    assert torch.equal(low.isnan(), absent)
    frame = result.to_frame()
    assert frame.probability.to_numpy() == pytest.approx(found[absent].amax(-1).numpy())


def test_counts_are_whole_draws_with_real_means():
    def likelihood(z):
        return dist.Poisson((z * SLOPES + 1).exp())

    x = torch.tensor([[3.0, NAN, 2.0], [NAN, NAN, 5.0], [0.0, 1.0, 2.0]])
    result = pv.impute(one_latent(likelihood), x, num_samples=4000, seed=0)
    exact = quadrature(likelihood, x, lambda z: likelihood(z).mean)
    torch.testing.assert_close(result.mean[x.isnan()], exact[x.isnan()], rtol=0.05, atol=0)
    assert torch.equal(result.draws, result.draws.round())
    drawn = result.draws.mean(0)[x.isnan()]
    torch.testing.assert_close(drawn, exact[x.isnan()], rtol=0.1, atol=0)


def test_families_without_means_take_their_draws():
    def likelihood(z):
        return dist.Cauchy(z * SLOPES, 0.1)

    x = torch.tensor([[0.1, NAN, 0.2]])
    result = pv.impute(one_latent(likelihood), x, num_samples=50, seed=0)
    assert bool(result.mean.isfinite().all())
    assert len(result.draws[:, 0, 1].unique()) == 50


# Programs of all kinds


def test_sites_that_follow_take_what_was_drawn():
    """With y absent and x following y, both are drawn together."""

    def model(y, x):
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            first = pyro.sample("y", dist.Normal(z, 0.1), obs=y)
            pyro.sample("x", dist.Normal(first + 5, 0.1), obs=x)
            pyro.sample("w", dist.Normal(z, 0.1), obs=torch.ones(len(y)))

    def guide(y, x):
        with pyro.plate("rows", len(y)):
            pyro.sample("z", dist.Normal(1.0, 0.1).expand([len(y)]))

    nothing = torch.full((4,), NAN)
    result = pv.impute(pv.VAE(model, guide), nothing, nothing, num_samples=300, seed=0)
    assert set(result.draws) == {"y", "x", "w"}
    rest = result.draws["x"] - result.draws["y"] - 5
    assert 0.08 < float(rest.std()) < 0.12


@pytest.mark.parametrize("broadcasts", [True, False])
def test_inner_plates_and_programs_that_run_on_repeated_rows(broadcasts):
    def model(x):
        with pyro.plate("rows", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if not broadcasts:
                z = z.reshape(len(x))  # no room for samples
            with pyro.plate("twice", 2, dim=-2):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.8 * x.nanmean(-1), 0.5))

    x = holes(torch.randn(30, 2), share=0.4)
    vae = pv.VAE(model, guide)
    result = pv.impute(vae, x, num_samples=2000, seed=0)
    assert vae.layout.model_broadcasts is broadcasts
    exact = (x.nansum(-1) / 1.25)[:, None].expand(30, 2)
    absent = x.isnan()
    assert torch.equal(result.absent, absent)
    torch.testing.assert_close(result.mean[absent], exact[absent], atol=0.1, rtol=0)
    assert torch.equal(result.draws[:, ~absent], x[~absent].expand(2000, -1))
    assert float((result.draws[:, absent].var(0) - 0.45).abs().mean()) < 0.05


def test_what_a_mask_leaves_out_is_not_drawn():
    def model(x, lengths):
        real = torch.arange(3) < lengths[:, None]
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).expand_by([]).mask(real).to_event(1), obs=x)

    def guide(x, lengths):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.nanmean(-1), 1.0))

    x = torch.tensor([[1.0, NAN, NAN], [1.0, NAN, 2.0]])
    result = pv.impute(pv.VAE(model, guide), x, torch.tensor([2, 3]), num_samples=5, seed=0)
    assert result.absent.tolist() == [[False, True, False], [False, True, False]]
    assert result.draws[:, 0, 2].isnan().all()
    assert result.mean.isnan().tolist() == [[False, False, True], [False, False, False]]


def test_rows_that_lack_nothing_come_back(linear):
    model, full, _ = linear
    result = pv.impute(pv.VAE(model, ExactGivenPresent(model)), full[:300], num_samples=3, seed=0)
    assert torch.equal(result.mean, full[:300])
    assert torch.equal(result.draws, full[:300].expand(3, -1, -1))
    assert result.to_frame().empty


def test_seeds_decide_and_blocks_of_rows_join(linear):
    model, _, x = linear
    vae = pv.VAE(model, ExactGivenPresent(model))
    one, same, other = (pv.impute(vae, x[:600], num_samples=4, seed=seed).draws for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    first = pv.impute(vae, x[:256], num_samples=4, seed=0).draws
    assert torch.equal(one[:, :256], first)


def test_tables_have_a_line_for_each_absent_entry():
    x, y = labelled_rows(6)
    vae = pv.VAE(pyro.infer.config_enumerate(semi_supervised), guide_of_z)
    result = pv.impute(vae, x, y, num_samples=100, seed=0)
    frame = result.to_frame()
    assert frame[["row", "site", "entry"]].to_numpy().tolist() == [
        [0, "y", ()],
        [1, "x", 0],
        [2, "y", ()],
        [4, "y", ()],
        [4, "x", 0],
    ]
    assert list(frame) == ["row", "site", "entry", "mean", "low", "high", "probability", "ess", "khat"]
    numbers = frame[frame.site == "x"]
    assert bool(((numbers.low < numbers["mean"]) & (numbers["mean"] < numbers.high)).all())
    assert numbers.probability.isna().all()
    assert frame[frame.site == "y"].low.isna().all()
    assert len(result) == 6
    np.testing.assert_array_equal(frame.ess, result.ess.numpy()[frame.row])
    assert "50.0% of y" in str(result)


def test_lines_are_named_by_the_index_of_a_frame(linear):
    model, full, _ = linear
    vae = pv.VAE(model, ExactGivenPresent(model))
    lacking = full[:4].clone()
    lacking[1, 2] = lacking[3, 0] = NAN
    frame = pd.DataFrame(lacking.numpy(), index=["a", "b", "c", "d"])
    assert pv.impute(vae, frame, num_samples=20, seed=0).to_frame()["row"].tolist() == ["b", "d"]
    assert pv.impute(vae, lacking, num_samples=20, seed=0).to_frame()["row"].tolist() == [1, 3]


def test_images_name_entries_by_their_places():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None, None], torch.ones(2, 3)).to_event(2), obs=x)

    x = torch.zeros(2, 2, 3)
    x[1, 0, 2] = NAN
    frame = pv.impute(pv.VAE(model), x, num_samples=20, seed=0).to_frame()
    assert frame[["row", "entry"]].to_numpy().tolist() == [[1, (0, 2)]]


def test_wrong_calls_are_named(linear):
    model, _, x = linear
    vae = pv.VAE(model, ExactGivenPresent(model))
    with pytest.raises(ValueError, match="num_samples is 0"):
        pv.impute(vae, x, num_samples=0)
    with pytest.raises(ValueError, match="resample_from is -1"):
        pv.impute(vae, x, resample_from=-1)
    with pytest.raises(ValueError, match="probability is 90"):
        pv.impute(vae, x[:5], num_samples=2).interval(90)
    far = x[:5].clone()
    far[3, 0] = 1e200
    with pytest.raises(ValueError, match="weights of row 3 are all zero or not finite"):
        pv.impute(vae, far, num_samples=5)
