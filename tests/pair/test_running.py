"""The waist: row-wise densities against hand-computed ones."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.pair.layout import slice_latents
from pyrovae.pair.recording import BatchTerms
from pyrovae.pair.running import row_terms, run_guide, run_model
from pyrovae.random_state import fixed_seed
from tests.oracles import ExactGuide, LinearGaussian, WideGuide


def terms_of(vae, x, *context, num_samples=4, seed=0):
    vae.rows(x, *context)
    with vae.evaluating(), fixed_seed(seed, vae.device):
        return row_terms(vae, Batch((x, *context)), num_samples)


@pytest.fixture
def linear():
    model = LinearGaussian()
    return pv.VAE(model, WideGuide(model)), model.data(5)


def test_terms_are_the_densities_of_the_programs(linear):
    vae, x = linear
    terms = terms_of(vae, x)
    z = terms.latents["z"]
    model, exact = vae.model, vae.model.posterior(x)
    scale = 1.3 * exact.variance.sqrt()
    assert z.shape == (4, 5, 2)
    expected_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected_guide = torch.distributions.Normal(exact.mean + 0.2 * scale, scale).log_prob(z).sum(-1)
    expected = torch.distributions.Normal(z @ model.W.T + model.b, model.scale).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_prior, expected_prior)
    torch.testing.assert_close(terms.log_guide, expected_guide)
    torch.testing.assert_close(terms.log_likelihood, expected)
    torch.testing.assert_close(terms.rate, vae.guide.kl(x).expand(4, 5))


def test_the_encoder_runs_once_for_all_samples(linear):
    vae, x = linear
    vae.rows(x)
    calls = []
    posterior = vae.model.posterior
    vae.model.posterior = lambda x: calls.append(len(x)) or posterior(x)
    terms_of(vae, x, num_samples=50)
    assert calls == [5]


@pytest.mark.parametrize("broadcasts", [True, False])
def test_the_guide_scores_given_latents(linear, broadcasts):
    vae, x = linear
    vae.rows(x)
    z = torch.randn(4, 5, 2, dtype=torch.float64)
    with vae.evaluating():
        sites = run_guide(vae, Batch((x,)), 4, latents={"z": z}, broadcasts=broadcasts)
    exact = vae.model.posterior(x)
    scale = 1.3 * exact.variance.sqrt()
    assert torch.equal(sites["z"].value, z)
    expected = torch.distributions.Normal(exact.mean + 0.2 * scale, scale).log_prob(z).sum(-1)
    torch.testing.assert_close(sites["z"].log_prob, expected.detach())


def pair_with_plate(subsampled):
    """One pair, its rows in a plain plate or in a subsample of 1000."""

    def rows_plate(x):
        return pyro.plate("rows", 1000, subsample_size=len(x)) if subsampled else pyro.plate("rows", len(x))

    def model(x):
        with rows_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        with rows_plate(x):
            pyro.sample("z", dist.Normal(0.7 * x, 0.6).to_event(1))

    return model, guide


def test_a_subsampled_plate_gives_the_same_numbers():
    x = torch.randn(6, 2)
    plain, subsampled = (pv.VAE(*pair_with_plate(s)) for s in (False, True))
    for function in (pv.elbo, pv.log_marginal):
        a, b = (function(vae, x, num_samples=30, seed=3).to_frame() for vae in (plain, subsampled))
        assert a.equals(b)


class Flattening(nn.Module):
    """Networks that only accept [B, features], in the manner of reshape(-1, 784)."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(z.reshape(len(x), 2))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.reshape(-1, 4))

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x.reshape(-1, 4)), 1.0).to_event(1))


def test_a_program_that_cannot_broadcast_runs_on_repeated_rows_with_the_same_results():
    module = Flattening()
    x = torch.bernoulli(torch.full((9, 2, 2), 0.5))

    class Broadcasting(Flattening):
        def model(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.reshape(-1, 4))

    twin = Broadcasting()
    twin.load_state_dict(module.state_dict())
    repeated, broadcast = pv.VAE(module.model, module.guide), pv.VAE(twin.model, twin.guide)
    a, b = (pv.log_marginal(vae, x, num_samples=100, seed=0).to_frame() for vae in (repeated, broadcast))
    assert (repeated.layout.model_broadcasts, repeated.layout.guide_broadcasts) == (False, True)
    assert (broadcast.layout.model_broadcasts, broadcast.layout.guide_broadcasts) == (True, True)
    torch.testing.assert_close(torch.tensor(a.to_numpy()), torch.tensor(b.to_numpy()), rtol=1e-4, atol=1e-4)
    a, b = (pv.elbo(vae, x, num_samples=7, seed=0).to_frame() for vae in (repeated, broadcast))
    torch.testing.assert_close(torch.tensor(a.to_numpy()), torch.tensor(b.to_numpy()), rtol=1e-5, atol=1e-5)
    assert repeated.decode(torch.zeros(3, 5, 2)).shape == (3, 5, 4)
    torch.testing.assert_close(repeated.decode(torch.ones(3, 5, 2)), broadcast.decode(torch.ones(3, 5, 2)))


def test_scales_are_left_out_and_masks_are_kept():
    def model(x, mask):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.scale(scale=17.0), poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x, mask):
        with pyro.plate("rows", len(x)), poutine.scale(scale=0.1):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x, mask = torch.randn(6, 2), torch.tensor([True, False, True, True, False, True])
    terms = terms_of(pv.VAE(model, guide), x, mask)
    z = terms.latents["z"]
    expected = torch.distributions.Normal(z, 0.5).log_prob(x).sum(-1) * mask
    torch.testing.assert_close(terms.log_likelihood, expected)
    torch.testing.assert_close(terms.log_guide, torch.distributions.Normal(x, 1.0).log_prob(z).sum(-1))


def test_a_plate_inside_the_rows_is_summed_and_users_see_rows_first():
    def model(x):
        with pyro.plate("rows", len(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("steps", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(w, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x.T)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("w", dist.Normal(0.1, 1.0))
            with pyro.plate("steps", 3, dim=-2):
                pyro.sample("z", dist.Normal(0.2, 1.1))

    x = torch.randn(5, 3)
    vae = pv.VAE(model, guide)
    terms = terms_of(vae, x)
    normal = torch.distributions.Normal
    w, z = terms.latents["w"], terms.latents["z"]
    assert (w.shape, z.shape) == ((4, 1, 5), (4, 3, 5))
    expected_prior = normal(0.0, 1.0).log_prob(w[:, 0]) + normal(w, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(terms.log_prior, expected_prior)
    torch.testing.assert_close(terms.log_likelihood, normal(z, 0.5).log_prob(x.T).sum(1))
    draws = vae.sample_posterior(x, num_samples=4)
    assert {name: tuple(value.shape) for name, value in draws.items()} == {"w": (4, 5), "z": (4, 5, 3)}
    assert vae.decode(draws).shape == (4, 5, 3)
    assert vae.generate(6).shape == (6, 3)
    repeated = {**terms.latents}
    scored = run_model(vae, Batch((x,)), repeated, 4, broadcasts=False)
    for name, site in terms.model_sites.items():
        torch.testing.assert_close(scored[name].log_prob, site.log_prob)


def test_a_row_does_not_depend_on_the_other_rows(linear):
    vae, x = linear
    latents = terms_of(vae, x).latents
    with vae.evaluating():
        whole = run_model(vae, Batch((x,)), latents, 4)["x"].log_prob
        one = slice_latents(latents, vae.layout, slice(None), slice(2, 3))
        alone = run_model(vae, Batch((x[2:3],)), one, 4)["x"].log_prob
    torch.testing.assert_close(whole[:, 2:3], alone)


def test_auxiliary_sites_of_the_guide_count_in_q():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(x / 2, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(a))

    x = torch.randn(5)
    terms = terms_of(pv.VAE(model, guide), x)
    z = terms.latents["z"]
    torch.testing.assert_close(terms.log_guide, torch.distributions.Normal(x / 2, 1.0).log_prob(z))
    sampled = terms.log_guide - terms.log_prior
    torch.testing.assert_close(terms.rate, sampled)


def test_batch_terms_tell_the_parts_of_a_pyro_objective(linear):
    vae, x = linear
    recorder = BatchTerms()
    objective = pyro.infer.Trace_ELBO(num_particles=3)
    with vae.evaluating():
        loss = objective.loss(recorder.model(vae.model), recorder.guide(vae.guide), x)
        bound, reconstruction, rate = recorder.take(objective)
    assert loss == pytest.approx(-float(bound), rel=1e-6)
    torch.testing.assert_close(bound, reconstruction - rate)
    assert float(recorder.plate_scale) == 1.0


def test_exact_guide_makes_weights_constant():
    model = LinearGaussian(K=3, D=6)
    x = model.data(20)
    terms = terms_of(pv.VAE(model, ExactGuide(model)), x, num_samples=10)
    torch.testing.assert_close(terms.log_weights, model.evidence().log_prob(x).expand(10, 20))


# Enumeration


class Mixture(nn.Module):
    """k ~ Cat, z|k ~ N(m_k, 1) if deep, x ~ N(z or m_k, 0.5): the discrete latent summed out."""

    def __init__(self, deep, inner=False):
        super().__init__()
        self.deep, self.inner = deep, inner
        self.logits = nn.Parameter(torch.tensor([0.5, -0.5, 0.1]))
        self.means = nn.Parameter(torch.tensor([[-2.0, 0.0], [0.0, 1.5], [2.0, -1.0]]))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            weights = dist.Categorical(logits=self.logits)
            k = pyro.sample("k", weights, infer={"enumerate": "parallel"})
            mean = self.means[k]
            if self.deep:
                mean = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def evidence(self, variance):
        scale = torch.full((3, 2), variance**0.5)
        parts = torch.distributions.Independent(torch.distributions.Normal(self.means.detach(), scale), 1)
        weights = torch.distributions.Categorical(logits=self.logits.detach())
        return torch.distributions.MixtureSameFamily(weights, parts)


def guide_of_z(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.6).to_event(1))


def no_guide(x):
    pass


def test_enumerated_latents_are_summed_out_exactly():
    model, x = Mixture(deep=False), torch.randn(9, 2)
    vae = pv.VAE(model, no_guide)
    truth = model.evidence(0.25).log_prob(x)
    for result in (pv.elbo(vae, x).elbo, pv.log_marginal(vae, x, num_samples=30).log_marginal):
        torch.testing.assert_close(result.float(), truth)
    assert list(vae.layout.enumerated) == ["k"]
    draws = vae.sample_posterior(x, num_samples=20000)["k"]
    responsibilities = model.evidence(0.25)
    log_joint = responsibilities.component_distribution.log_prob(x.unsqueeze(1)) + model.logits.log_softmax(0)
    frequencies = torch.stack([(draws == k).float().mean(0) for k in range(3)], -1)
    torch.testing.assert_close(frequencies, log_joint.softmax(-1).detach(), atol=5 * 0.5 / 20000**0.5, rtol=0)
    assert vae.generate(5).shape == (5, 2)
    with pytest.raises(ValueError, match="discrete and summed out.*draws' frequencies"):
        vae.encode(x)
    shares = log_joint.softmax(-1).detach()
    expected = shares @ model.means.detach()
    error = (shares @ model.means.detach() ** 2 - expected**2).sqrt() / 100**0.5
    assert bool(((vae.reconstruct(x, seed=0) - expected).abs() <= 5 * error + 1e-5).all())


def test_enumeration_beside_a_continuous_latent():
    model, x = Mixture(deep=True), torch.randn(9, 2)
    vae = pv.VAE(model, guide_of_z)
    terms = terms_of(vae, x, num_samples=5)
    z = terms.latents["z"]
    prior = model.evidence(1.0).log_prob(z)
    likelihood = torch.distributions.Normal(z, 0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_prior, prior)
    torch.testing.assert_close(terms.log_likelihood, likelihood)
    torch.testing.assert_close(terms.rate, terms.log_guide - prior)
    truth = model.evidence(1.25).log_prob(x)
    result = pv.log_marginal(vae, x, num_samples=4000, seed=0)
    assert bool(((result.log_marginal - truth).abs() < 5 * result.std_error).all())
    tree = pv.to_arviz(vae, x, num_samples=10)
    assert set(tree.posterior) == {"k", "z"}
    assert vae.decode(vae.sample_posterior(x, num_samples=2)).shape == (2, 9, 2)


class GroupedRows(nn.Module):
    """k ~ Cat, z ~ N(0, 1), x ~ N(z + m_k, 0.5)."""

    means = torch.tensor([-2.0, 3.0])
    shares = torch.tensor([0.3, 0.7])

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(self.shares), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.means[k].unsqueeze(-1), 0.5).to_event(1), obs=x)


def test_latents_beside_enumerated_ones_have_means_and_reconstructions():
    model, x = GroupedRows(), 2 * torch.randn(230, 2)  # more rows than a pass of reconstruct() takes
    vae = pv.VAE(model, guide_of_z)
    torch.testing.assert_close(vae.encode(x), 0.8 * x)
    torch.testing.assert_close(pv.features(vae, x), 0.8 * x)
    z = 0.8 * x
    likelihood = torch.distributions.Normal(z.unsqueeze(1) + model.means[:, None], 0.5)
    log_joint = likelihood.log_prob(x.unsqueeze(1)).sum(-1) + model.shares.log()
    second = log_joint.softmax(-1)[:, 1:]
    expected = z + model.means[0] + 5.0 * second
    error = 5.0 * (second * (1 - second) / 100).sqrt()
    found = vae.reconstruct(x, seed=3)
    # 5 errors and a draw: false alarms below 1e-4 over all rows.
    assert bool(((found - expected).abs() <= 5 * error + 0.05).all())
    assert bool(((second > 0.1) & (second < 0.9)).any())  # or the draws would not matter
    before = torch.get_rng_state()
    torch.testing.assert_close(vae.reconstruct(x, seed=3), found, rtol=0, atol=0)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(vae.reconstruct(x, seed=4), found)


def test_enumeration_inside_an_inner_plate_multiplies_after_summing():
    logits, means = torch.tensor([0.3, -0.3]), torch.tensor([-1.0, 1.0])

    def model(x):
        with pyro.plate("rows", len(x)), pyro.plate("columns", 4, dim=-2):
            k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(means[k], 0.5), obs=x.T)

    x = torch.randn(6, 4)
    vae = pv.VAE(model, no_guide)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits), torch.distributions.Normal(means, 0.5)
    )
    torch.testing.assert_close(pv.elbo(vae, x).elbo.float(), mixture.log_prob(x).sum(-1))


@pytest.mark.parametrize("deep", [False, True])
def test_a_mixture_trains_and_logs_its_true_elbo(deep):
    model, x = Mixture(deep), torch.randn(200, 2)
    vae = pv.VAE(model, guide_of_z if deep else no_guide)
    still = pv.fit(vae, x, epochs=1, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), seed=0, progress=False)
    expected = pv.elbo(vae, x, num_samples=100)
    tolerance = 1e-4 if not deep else 5 * float(expected.std_error.mean()) * 10 / 200**0.5
    assert still.elbo[0] == pytest.approx(float(expected.elbo.mean()), abs=tolerance)
    history = pv.fit(
        vae, x, epochs=30, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=0.05)
    )
    assert history.elbo.iloc[-1] > history.elbo[0] + 0.3
