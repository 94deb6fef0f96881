"""Experts of the arguments that a row has: exact posteriors for every subset of linear-Gaussian sites."""

import itertools
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.evidence.simulated_data import simulated_like
from pyrovae.guides import AmortizedGuide, DiagonalNormal, MixtureOfExperts, ProductOfExperts
from pyrovae.models import LearnedNormal, Normal, StandardNormal
from pyrovae.nn import MLP, MissingAsZero
from tests.components import MODELS, experts

K, B = 2, 12
SIZES = (3, 4, 0)  # columns of each site; the last is a number without dimensions
KINDS = (ProductOfExperts, MixtureOfExperts)
both = pytest.mark.parametrize("kind", KINDS)


def orthogonal(D, generator):
    """[D, K] with orthogonal columns of different lengths: what a row says of z has no correlations."""
    columns = torch.linalg.qr(torch.randn(D, K, generator=generator, dtype=torch.float64))[0]
    return columns * torch.tensor([1.5, 0.7], dtype=torch.float64)


class Sites(nn.Module):
    """z ~ p(z|c), x_m | z ~ N(W_m z + b_m, s_m^2 I), m = 1..3, the last of z_2 alone."""

    def __init__(self, prior):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.prior = prior
        self.W = [orthogonal(D, generator) for D in SIZES[:2]]
        self.W.append(torch.tensor([[0.0, 1.2]], dtype=torch.float64))
        self.b = [torch.randn(len(W), generator=generator, dtype=torch.float64) for W in self.W]
        self.scales = (0.5, 1.3, 0.8)

    def mean(self, m, z):
        found = z @ self.W[m].T + self.b[m]
        return found if SIZES[m] else found[..., 0]

    def forward(self, x, y, w, *context):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", self.prior(*context))
            for m, value in enumerate((x, y, w)):
                entries = dist.Normal(self.mean(m, z), self.scales[m])
                pyro.sample("xyw"[m], entries.to_event(1) if SIZES[m] else entries, obs=value)

    def evidence(self, arguments, *context):
        """log p of the arguments that are there, by linear algebra, row by row."""
        prior = self.prior(*context).expand([B])
        found = []
        for row in range(B):
            kept = [m for m, a in enumerate(arguments) if not bool(a[row].isnan().any())]
            W, b = (torch.cat([parts[m] for m in kept]) for parts in (self.W, self.b))
            noise = torch.cat([torch.full((len(self.W[m]),), self.scales[m] ** 2).double() for m in kept])
            covariance = W * prior.variance[row] @ W.T + noise.diag()
            normal = torch.distributions.MultivariateNormal(W @ prior.mean[row] + b, covariance)
            found.append(normal.log_prob(torch.cat([arguments[m][row].reshape(-1) for m in kept])))
        return torch.stack(found)


class Exact(nn.Module):
    """What x_m says of z: p(x_m|z) as a normal density of z, as wide as nothing where it says nothing."""

    def __init__(self, model, m):
        super().__init__()
        self.W, self.b, self.scale = model.W[m], model.b[m], model.scales[m]

    def forward(self, x, *context):
        lengths = self.W.square().sum(0)
        x = x if x.dim() == 2 else x[:, None]
        location = (x - self.b) @ self.W / lengths.clamp(min=1e-30)
        return dist.Normal(location, (self.scale / lengths.sqrt()).clamp(max=1e30)).to_event(1)


def rows(model, *context, size=B):
    torch.manual_seed(1)
    z = model.prior(*context).expand([size]).sample()
    found = []
    for m in range(3):
        mean = model.mean(m, z)
        found.append(mean + model.scales[m] * torch.randn_like(mean))
    return tuple(found)


SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]


def only(arguments, subset):
    return tuple(a if m in subset else torch.full_like(a, math.nan) for m, a in enumerate(arguments))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("subset", [*SUBSETS, None], ids=str)
def test_every_weight_is_p_of_what_a_row_has(subset, conditional):
    torch.manual_seed(0)
    context = (torch.randn(B, 2, dtype=torch.float64),) if conditional else ()
    model = Sites((Normal(MLP(2, (K, K))) if conditional else LearnedNormal(K)).double()).requires_grad_(
        False
    )
    guide = AmortizedGuide(ProductOfExperts([Exact(model, m) for m in range(3)], model.prior))
    vae = pv.VAE(model, guide)
    arguments = rows(model, *context)
    if subset is None:  # another subset in each row
        lacking = [[m not in SUBSETS[row % 7] for row in range(B)] for m in range(3)]
        given = tuple(
            a.masked_fill(torch.tensor(absent).reshape(-1, *[1] * (a.dim() - 1)), math.nan)
            for a, absent in zip(arguments, lacking, strict=True)
        )
    else:
        given = only(arguments, subset)
    truth = model.evidence(given, *context)
    found = pv.log_marginal(vae, *given, *context, num_samples=20, seed=0)
    torch.testing.assert_close(found.log_marginal, truth, atol=1e-5, rtol=0)
    assert float(found.std_error.max()) < 1e-5  # so every weight is
    bound = pv.elbo(vae, *given, *context, num_samples=100, seed=0)
    assert bool(((bound.elbo - truth).abs() < 6 * bound.std_error).all())
    with vae.evaluating():
        q, p = guide.posterior(*given, *context), model.prior(*context)
    torch.testing.assert_close(bound.rate, torch.distributions.kl_divergence(q, p.expand([B])))


def encoders(sizes=(3, 4), prior=None, wrap=lambda D: MLP(D, (K, K), hidden=[8])):
    return [DiagonalNormal(wrap(D)) for D in sizes]


def holes(*arguments):
    """Rows without the first, the second, and both."""
    found = [a.clone() for a in arguments]
    found[0][[0, 2]] = math.nan
    found[1][[1, 2]] = math.nan
    return found


@both
def test_gradients_are_finite_and_those_of_rows_without_experts(kind):
    torch.manual_seed(0)
    posterior = kind(encoders(), LearnedNormal(K))
    given = holes(torch.randn(5, 3), torch.randn(5, 4))
    q = posterior(*given)
    z = q.rsample((50,))
    ((z**2).sum() + q.log_prob(z).sum()).backward()
    for name, parameter in posterior.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name
    # What an absent argument would have said reaches nothing: rows that lack x leave x's encoder alone.
    posterior.zero_grad()
    alone = posterior(*(a[:1] for a in given)).rsample()
    alone.sum().backward()
    assert all(bool((p.grad == 0).all()) for p in posterior.experts[0].parameters())
    assert any(bool((p.grad != 0).any()) for p in posterior.experts[1].parameters())


@both
def test_a_row_without_all_has_the_prior_and_a_row_with_one_its_expert(kind):
    torch.manual_seed(0)
    posterior = kind(encoders(), StandardNormal(K))
    x, y = holes(torch.randn(5, 3), torch.randn(5, 4))
    q = posterior(x, y)
    z = torch.randn(5, K)
    first, second = (expert(a.nan_to_num()) for expert, a in zip(posterior.experts, (x, y), strict=True))
    torch.testing.assert_close(q.log_prob(z)[2], StandardNormal(K)().log_prob(z[2]))
    assert bool(torch.isclose(q.mean[2], torch.zeros(K)).all())
    if kind is MixtureOfExperts:
        torch.testing.assert_close(q.log_prob(z)[0], second.log_prob(z)[0])
        torch.testing.assert_close(q.log_prob(z)[1], first.log_prob(z)[1])
        mean = (first.log_prob(z).exp() + second.log_prob(z).exp()) / 2
        torch.testing.assert_close(q.log_prob(z)[3:].exp(), mean[3:])
    else:
        precision = 1 + 1 / first.variance + 1 / second.variance
        torch.testing.assert_close(q.variance[3:], 1 / precision[3:])
        mean = (first.mean / first.variance + second.mean / second.variance) / precision
        torch.testing.assert_close(q.mean[3:], mean[3:])
        torch.testing.assert_close(q.variance[0], (1 / (1 + 1 / second.variance))[0])


@pytest.mark.parametrize("scale", [1e-6, 1e30])
def test_scales_at_the_ends_of_what_networks_give(scale):
    class Extreme(nn.Module):
        def forward(self, x):
            raw = x.new_full((len(x), K), scale).requires_grad_()
            return dist.Normal(torch.ones_like(raw), raw).to_event(1)

    q = ProductOfExperts([Extreme()] * 3, StandardNormal(K))(*[torch.zeros(4, 2)] * 3)
    assert bool((q.mean - (1.0 if scale < 1 else 0.0)).abs().max() < 1e-6)
    assert bool(((q.stddev > 0) & q.stddev.isfinite()).all())


def test_partly_absent_arguments_go_to_their_expert():
    torch.manual_seed(0)
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    x[0, 1] = math.nan
    plain = ProductOfExperts(encoders(), StandardNormal(K))
    with pytest.raises(ValueError, match="found invalid values"):
        plain(x, y)
    aware = ProductOfExperts(encoders(wrap=lambda D: MissingAsZero(MLP(2 * D, (K, K)))), StandardNormal(K))
    assert bool(aware(x, y).mean.isfinite().all())
    x[0] = math.nan
    torch.testing.assert_close(
        aware(x, y).mean[0], ProductOfExperts(aware.experts[1:], aware.prior)(y).mean[0]
    )


@both
def test_integers_are_always_there(kind):
    labels = torch.arange(5) % 3

    class OfLabel(nn.Module):
        def forward(self, y):
            return dist.Normal(torch.eye(3)[y][:, :K], 1.0).to_event(1)

    assert bool(kind([OfLabel()], StandardNormal(K))(labels).mean.isfinite().all())


@both
def test_what_is_refused(kind):
    with pytest.raises(ValueError, match="experts is empty"):
        kind([], StandardNormal(K))
    posterior = kind(encoders(), StandardNormal(K))
    with pytest.raises(ValueError, match=f"{kind.__name__} of 2 experts got 1 argument: .*absent as NaN"):
        posterior(torch.zeros(5, 3))
    for wrong in (pv.models.NormalMixture(K, 3), pv.models.affine_flow(K)):
        with pytest.raises(
            TypeError, match="combines diagonal normals.*LearnedNormal in the place of the prior"
        ):
            kind(encoders(), wrong)(torch.zeros(5, 3), torch.zeros(5, 4))


def of_two(kind, seed=0):
    torch.manual_seed(seed)
    model, _ = MODELS["ProductOfExperts, two modalities"].make()
    return pv.VAE(model, experts(model, kind))


def test_modalities_at_random_train_traced_as_they_do_plain():
    x, y = MODELS["ProductOfExperts, two modalities"].data(400)
    found = []
    for compile in (False, True):
        vae = of_two(ProductOfExperts)
        history = pv.fit(vae, (x, y), epochs=3, batch_size=50, seed=0, compile=compile, progress=False)
        assert ("plain" in history.attrs["engine"]) is not compile
        assert history["loss"].iloc[-1] < history["loss"].iloc[0]
        found.append(torch.cat([q.detach().reshape(-1) for q in vae.parameters()]))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)


@both
def test_a_pair_with_experts_goes_through_everything(kind):
    vae, (x, y) = of_two(kind), MODELS["ProductOfExperts, two modalities"].data(200)
    pv.fit(vae, (x, y), epochs=2, seed=0, progress=False)
    page = pv.diagnose(vae, x, y, num_samples=50, seed=0)
    rates = pv.elbo(vae, x, y, num_samples=50, seed=0).rate
    assert bool(rates.isfinite().all())
    assert float(page.quality.elbo.mean()) == pytest.approx(
        float(pv.elbo(vae, x, y, seed=0).elbo.mean()), abs=0.5
    )
    drawn = vae.generate(6, y[:6], seed=0)
    assert drawn["x"].shape == (6, 3)
    assert bool(drawn["y"].isfinite().all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = pv.to_arviz(vae, x, y, num_samples=10, seed=0)["observed_data"]
    for name, value in {"x": x, "y": y}.items():
        assert torch.equal(torch.tensor(np.asarray(observed[name])).isnan(), value.isnan())
    alone = pv.log_marginal(vae, x[::4], torch.full((50, 2), math.nan), num_samples=20, seed=0)
    assert bool(alone.log_marginal.isfinite().all())


def test_files_of_derived_guides_know_which_arguments_had_holes(tmp_path):
    model, _ = MODELS["ProductOfExperts, two modalities"].make()
    data = MODELS["ProductOfExperts, two modalities"].data(20)
    vae = pv.VAE(model, example=data)
    vae.save(tmp_path / "a")
    again = pv.VAE(model).load(tmp_path / "a")
    again.save(tmp_path / "b")
    last = pv.VAE(model).load(tmp_path / "b")
    for loaded in (again, last):
        torch.testing.assert_close(pv.elbo(loaded, *data, seed=0).elbo, pv.elbo(vae, *data, seed=0).elbo)


def test_rows_of_several_arguments_are_simulated():
    """Each argument is what the site of its name observes: an exact guide passes, a wrong one does not."""
    model = Sites(LearnedNormal(K).double()).requires_grad_(False)
    arguments = rows(model)
    for factor, right in ((1.0, True), (1.5, False)):

        class Of(Exact):
            def forward(self, x, *context, factor=factor):
                normal = super().forward(x).base_dist
                return dist.Normal(normal.loc, factor * normal.scale).to_event(1)

        posterior = ProductOfExperts([Of(model, m) for m in range(3)], model.prior)
        vae = pv.VAE(model, AmortizedGuide(posterior), example=arguments)
        assert pv.calibrate(vae, *arguments[1:], num_simulations=300, num_draws=49, seed=0).passed is right
        assert pv.reverse_check(vae, *rows(model, size=200)[1:], num_rows=200, seed=0).passed is right
    by_hand = pv.calibrate(
        vae,
        *arguments[1:],
        num_simulations=100,
        num_draws=9,
        as_x=lambda observed: (observed["x"], observed["y"], observed["w"]),
        seed=0,
    )
    again = pv.calibrate(vae, *arguments[1:], num_simulations=100, num_draws=9, seed=0)
    assert torch.equal(by_hand.ranks, again.ranks)
    # Beside rows that lack arguments, rows are simulated that lack them too.
    _, like = simulated_like(vae, vae.rows(*only(arguments, (0, 2))), 30)
    x, y, w = like.arguments
    assert bool(y.isnan().all() and x.isfinite().all() and w.isfinite().all())


def test_sites_by_other_names_than_their_arguments_need_as_x():
    def model(image, text):
        with pyro.plate("rows", len(image)):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            pyro.sample("seen", dist.Normal(z, 1.0).to_event(1), obs=image)
            pyro.sample("read", dist.Normal(z, 1.0).to_event(1), obs=text)

    torch.manual_seed(0)
    vae = pv.VAE(model, example=(torch.randn(B, K), torch.randn(B, K)))
    with pytest.raises(
        ValueError, match="observes several sites.*or all arguments where several are observed"
    ):
        pv.calibrate(vae, torch.randn(B, K), num_simulations=20)
