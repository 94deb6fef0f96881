"""AutoGuide over the catalogue: builds, trains, and gets as near to the truth as its structure allows."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import AutoGuide, families
from pyrovae.guides.inversion import faithful_inverse
from pyrovae.pair.traces import sites_of
from tests.components import FAMILIES, MODELS
from tests.guides.catalogue import CATALOGUE

ROWS = 300


class MeanField(AutoGuide):
    """The same heads, each of the data alone."""

    def build(self, *arguments):
        if self.is_built:
            return
        make, self._make_networks = self._make_networks, lambda *_: None
        super().build(*arguments)
        observed = sorted({p for above in self.parents.values() for p in above if p not in self.sites})
        self.parents = dict.fromkeys(self.sites, observed)
        batch = Batch(arguments)
        make(batch, sites_of(self._model[0], batch))


def by_hand_for(entry, latents):
    """The diagonal guide that one would write for a model of one site."""
    ((site, layout),) = latents.items()
    K = math.prod(entry.bijection.inverse_shape(layout.event_shape))
    encoder = pv.nn.MLP(entry.columns, (K, K), hidden=[32])

    class ByHand(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, x):
            loc, raw = self.encoder(x)
            base = dist.Normal(loc, pv.nn.positive(raw))
            base = (
                base.to_event(1)
                if layout.event_shape
                else dist.Normal(loc[..., 0], pv.nn.positive(raw)[..., 0])
            )
            with pyro.plate("rows", len(x)):
                pyro.sample(site, dist.TransformedDistribution(base, [entry.bijection]))

    return ByHand()


def data(name):
    """Rows drawn from the model itself."""
    entry = CATALOGUE[name]
    torch.manual_seed(7)
    blank = torch.ones(ROWS, entry.columns)
    trace = pyro.poutine.trace(pyro.poutine.uncondition(entry.model)).get_trace(blank)
    observed = [s["value"] for n, s in trace.nodes.items() if n.startswith("x") and s["type"] == "sample"]
    if len(observed) > 1:
        return torch.stack(observed, -1)
    x = observed[0]
    x = x.unsqueeze(-1) if x.dim() == 1 else x
    return x.T if x.shape[0] != ROWS else x


def trained(name, guide):
    vae, x = pv.VAE(CATALOGUE[name].model, guide), data(name)
    torch.manual_seed(0)
    # Guides of several sites reach their bounds in half of the steps.
    share = 0.5 if CATALOGUE[name].coupled else 1
    for rate, epochs in ((1e-2, int(120 * share)), (1e-3, int(60 * share))):
        pv.fit(
            vae,
            x,
            epochs=epochs,
            batch_size=100,
            optimizer=lambda p, rate=rate: torch.optim.Adam(p, lr=rate),
            seed=0,
            progress=False,
        )
    return vae, x


@pytest.mark.parametrize("name", CATALOGUE)
def test_gap_to_the_truth(name):
    entry = CATALOGUE[name]
    vae, x = trained(name, AutoGuide(entry.model, hidden=(32,)))
    assert str(vae.guide) == f"AutoGuide: {entry.factorization}"
    bound = pv.elbo(vae, x, num_samples=100, seed=1)
    estimate = pv.log_marginal(vae, x, num_samples=2000, seed=1)
    if entry.truth is None:
        truth = estimate.log_marginal
        assert estimate.share_good > 0.9
    else:
        truth = entry.truth(x).double()
        # A normal of logits has lighter tails than the truth, so k says little for these rows; the mean does.
        error = float((estimate.std_error**2).sum().sqrt() / ROWS)
        assert abs(float((estimate.log_marginal - truth).mean())) < 5 * error + 0.01
    gap = float((truth - bound.elbo).mean())
    noise = float((bound.std_error**2).sum().sqrt() / ROWS)
    assert gap > -5 * noise
    if entry.tolerance is not None:
        assert gap < entry.tolerance + 5 * noise
    if entry.bijection is not None:
        by_hand, _ = trained(name, by_hand_for(entry, vae.layout.latents))
        other = float((truth - pv.elbo(by_hand, x, num_samples=100, seed=1).elbo).mean())
        assert gap < other + 0.02
    if entry.coupled:
        mean_field, _ = trained(name, MeanField(entry.model, hidden=(32,)))
        other = float((truth - pv.elbo(mean_field, x, num_samples=100, seed=1).elbo).mean())
        assert gap < other - 0.02


def test_its_structure_is_faithful():
    def inverse(parents, latents, summed_out=()):
        return faithful_inverse(parents, latents, summed_out)

    # Eliminating the top of a fork couples what it branched into: c depends on both observations.
    fork = {"z": [], "b": ["z"], "c": ["z"], "x": ["b"], "y": ["c"]}
    assert inverse(fork, ["z", "b", "c"]) == {"c": ["x", "y"], "b": ["c", "x"], "z": ["b", "c"]}
    assert inverse({"a": [], "b": [], "x": ["a"], "y": ["b"]}, ["a", "b"]) == {"b": ["y"], "a": ["x"]}
    # Summing out the root couples its children.
    assert inverse({"k": [], "a": ["k"], "b": ["k"], "x": ["a"], "y": ["b"]}, ["a", "b"], ["k"]) == {
        "b": ["x", "y"],
        "a": ["b", "x"],
    }
    assert inverse({"a": [], "x": []}, ["a"]) == {"a": []}


def train(vae, rows, epochs):
    return pv.fit(
        vae,
        rows,
        epochs=epochs,
        batch_size=30,
        seed=0,
        progress=False,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_structure_of_the_package(name, tmp_path):
    entry = MODELS[name]
    torch.manual_seed(0)
    model, hand_written = entry.make()
    rows = entry.data(60)
    vae = pv.VAE(model)
    assert "AutoGuide" in str(vae.guide)
    history = train(vae, rows, 50)
    assert history.elbo.iloc[-1] > history.elbo.iloc[0]
    model.requires_grad_(False)
    results = {}
    for which, guide in (("auto", vae.guide), ("hand", hand_written)):
        pair = pv.VAE(model, guide)
        pair.rows(*rows)
        if any(p.requires_grad for p in guide.parameters()):
            train(pair, rows, 100)
        results[which] = pv.elbo(pair, *rows, num_samples=100, seed=0)
    difference = results["auto"].elbo - results["hand"].elbo
    noise = float((results["auto"].std_error ** 2 + results["hand"].std_error ** 2).sum().sqrt() / 60)
    assert float(difference.mean()) > -0.1 - 5 * noise
    model.requires_grad_(True)  # recurrent layers take another code path without
    vae.save(tmp_path / "vae")
    fresh = pv.VAE(entry.make()[0]).load(tmp_path / "vae")
    a, b = (pv.elbo(v, *rows, num_samples=3, seed=0).to_frame() for v in (vae, fresh))
    assert a.equals(b)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, joint):
    entry = CATALOGUE["scale above"]
    vae, x = (
        pv.VAE(entry.model, AutoGuide(entry.model, family=FAMILIES[family], joint=joint, hidden=(16,))),
        data("scale above"),
    )
    pv.fit(vae, x, epochs=10, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    result = pv.log_marginal(vae, x, num_samples=500, seed=0)
    assert bool(result.log_marginal.isfinite().all())
    terms = pv.elbo(vae, x, num_samples=500, seed=0)
    noise = float((terms.std_error**2).sum().sqrt() / ROWS)
    assert float(terms.elbo.mean()) == pytest.approx(float(result.elbo.mean()), abs=7 * noise)
    assert ("q(scale,z|x)" in str(vae.guide)) == joint


def test_a_joint_normal_is_exact_where_the_posterior_is_normal():
    model = CATALOGUE["sequence"].model
    vae, x = trained("sequence", AutoGuide(model, family=families.full_normal, joint=True, hidden=(32,)))
    gap = CATALOGUE["sequence"].truth(x).double() - pv.elbo(vae, x, num_samples=100, seed=1).elbo
    assert -0.01 < float(gap.mean()) < 0.05


def test_a_joint_density_counts_the_change_of_variables():
    """Importance weights of a joint guide through a positive site average to the truth."""
    entry = CATALOGUE["positive"]
    vae, x = pv.VAE(entry.model, AutoGuide(entry.model, joint=True)), data("positive")
    pv.fit(vae, x, epochs=40, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    result = pv.log_marginal(vae, x, num_samples=2000, seed=0)
    error = float((result.std_error**2).sum().sqrt() / ROWS)
    assert float(result.log_marginal.mean()) == pytest.approx(
        float(entry.truth(x).mean()), abs=5 * error + 1e-3
    )


def test_a_subsampled_row_plate_and_context():
    def model(x, y):
        with pyro.plate("data", 500, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(y, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    y = torch.randn(300)
    x = y + 1.25**0.5 * torch.randn(300)
    vae = pv.VAE(model, example=(x, y))
    pv.fit(vae, (x, y), epochs=100, seed=0, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    truth = torch.distributions.Normal(y, 1.25**0.5).log_prob(x)
    assert float(truth.mean()) - float(pv.elbo(vae, x, y, num_samples=50).elbo.mean()) < 0.03


def test_a_mask_of_entries_hides_them_from_the_encoder():
    def model(x, observed):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            entries = dist.Normal(z.sum(-1, keepdim=True) * torch.ones(5), 1.0)
            pyro.sample("x", entries.mask(observed).to_event(1), obs=x)

    x, observed = torch.randn(30, 5), torch.rand(30, 5) > 0.3
    vae = pv.VAE(model, example=(x, observed))
    garbage = torch.where(observed, x, x.abs() + 3.0)
    torch.testing.assert_close(vae.encode(x, observed), vae.encode(garbage, observed), rtol=0, atol=0)


def test_images_get_a_convolutional_encoder():
    model = pv.models.LatentVariableModel(
        pv.models.StandardNormal(2), pv.models.Normal(pv.nn.ConvDecoder(2, (1, 8, 8)), scale=0.5)
    )
    vae = pv.VAE(model, example=torch.rand(5, 1, 8, 8))
    assert any(isinstance(m, pv.nn.ConvEncoder) for m in vae.guide.modules())
    assert vae.encode(torch.rand(3, 1, 8, 8)).shape == (3, 2)


def test_an_encoder_of_ones_own():
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 20), torch.nn.Tanh())
    vae = pv.VAE(
        one := CATALOGUE["one vector"].model, AutoGuide(one, encoder=encoder), example=data("one vector")
    )
    assert {id(p) for p in encoder.parameters()} <= {id(p) for p in vae.parameters()}


def test_before_and_after_it_is_built():
    model = CATALOGUE["collider"].model
    guide = AutoGuide(model)
    assert str(guide) == "AutoGuide (built at the first batch)"
    pv.VAE(model, guide, example=torch.randn(5, 1))
    assert str(guide) == "AutoGuide: q(b|x) q(a|b,x)"


def test_a_seed_decides_its_networks():
    x = data("chain")

    def weights(seed):
        torch.manual_seed(seed)
        return [p.detach() for p in pv.VAE(CATALOGUE["chain"].model, example=x).parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


def declared(site):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", site())
            pyro.sample("x", dist.Normal(z.sum() * 0.0, 1.0).expand([len(x)]), obs=x[:, 0])

    return model


@pytest.mark.parametrize(
    "model, guide, message",
    [
        (
            declared(lambda: dist.Poisson(3.0)),
            {},
            "the latent 'z' is discrete .Poisson.*has no head.*summed out",
        ),
        (
            declared(lambda: dist.Geometric(torch.tensor([0.5, 0.5])).to_event(1)),
            {},
            "'z' is discrete .Geometric, event shape .2,.",
        ),
        (
            CATALOGUE["discrete"].model,
            {"joint": True},
            "joint=True covers continuous latents.*use joint=False",
        ),
        (CATALOGUE["masked"].model, {"joint": True}, "joint=True covers continuous latents"),
        (
            CATALOGUE["collider"].model,
            {"encoder": torch.nn.Flatten(0)},
            r"the encoder gave \[300\] for 300 rows: expected features \[300, H\]",
        ),
    ],
)
def test_models_it_cannot_guide(model, guide, message):
    with pytest.raises(ValueError, match=message):
        pv.VAE(
            model,
            AutoGuide(model, **guide),
            example=torch.randn(300, 1 if model is not CATALOGUE["masked"].model else 2),
        )


def test_models_that_break_the_contract_are_named_first():
    def without_latents(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    def without_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    for model, message in (
        (without_latents, "has no latents"),
        (without_plate, "stands outside a row plate"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.VAE(model, example=torch.randn(5, 1))


def test_a_mask_by_row_inside_a_distribution_counts_as_one_of_the_statement():
    def inside(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(x[:, 0] > 0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def outside(x):
        with pyro.plate("rows", len(x)):
            with pyro.poutine.mask(mask=x[:, 0] > 0):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    x = torch.randn(20, 1)
    vaes = [pv.VAE(model, example=x) for model in (inside, outside)]
    vaes[0].load_state_dict(vaes[1].state_dict())
    first, second = (pv.elbo(vae, x, num_samples=3, seed=0) for vae in vaes)
    torch.testing.assert_close(first.elbo, second.elbo)
    assert bool((first.rate[x[:, 0] <= 0] == 0).all())


def test_supports_that_move_are_refused():
    bound = torch.nn.Parameter(torch.zeros(()))

    def by_parameter(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, bound.exp()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def by_row(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1 + x[:, 0].abs()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    for model, message in (
        (by_parameter, "support of the latent 'z' differs between rows, or depends on parameters"),
        (by_row, "support of the latent 'z' differs between rows, or depends on parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            pv.VAE(model, example=torch.randn(20, 1))


def test_loading_what_cannot_be_built_without_data_says_what_to_do(tmp_path):
    def model(x, shift):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    x = torch.randn(10)
    vae = pv.VAE(model, example=(x, 0.3))
    vae.save(tmp_path / "vae")
    with pytest.raises(ValueError, match="is of another model.*the derived guide cannot be built .*example="):
        pv.VAE(model).load(tmp_path / "vae")
    again = pv.VAE(model, example=(x, 0.3)).load(tmp_path / "vae")
    assert torch.equal(pv.elbo(again, x, 0.3, seed=0).elbo, pv.elbo(vae, x, 0.3, seed=0).elbo)
