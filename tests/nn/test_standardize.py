"""`Standardize`: mean and scale of the first data, learnt once, saved, traced."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.guides import AmortizedGuide, AutoGuide, DiagonalNormal, HierarchicalGuide
from pyrovae.guides.features import RowFeatures
from pyrovae.models import (
    Bernoulli,
    HierarchicalModel,
    LatentVariableModel,
    Normal,
    StandardNormal,
    VampPrior,
)
from pyrovae.nn import GRU, MLP, ConvEncoder, MissingAsZero, PositiveParameter, Standardize
from pyrovae.pair.inspected import ROWS_TO_BUILD_FROM
from tests.traced.test_tracing import assert_same_as_pyro

K, D = 2, 3
SCALES = torch.tensor([1e4, 1.0, 1e-3])


def table(rows=200):
    return torch.tensor([5e4, -2.0, 0.5]) + SCALES * torch.randn(rows, D)


def pair(size=D, prior=None, network=None):
    likelihood = Normal(MLP(K, D), scale=PositiveParameter(SCALES))
    encoder = network or Standardize(size, MLP(size, (K, K), hidden=[5]))
    return LatentVariableModel(prior or StandardNormal(K), likelihood), AmortizedGuide(
        DiagonalNormal(encoder)
    )


def layers(vae):
    return [m for m in vae.modules() if isinstance(m, Standardize)]


def check_learnt(layer, x):
    torch.testing.assert_close(layer.centre, x.mean(0))
    torch.testing.assert_close(layer.scale, 1 / x.std(0, correction=0))


def test_it_learns_from_all_leading_dimensions_and_joins_its_inputs():
    x, labels = table().reshape(20, 10, D), torch.randint(4, (20, 10, 1))
    layer = Standardize(D + 1).learn(x, labels)
    out = layer(x, labels).flatten(0, 1)
    torch.testing.assert_close(out.mean(0), torch.zeros(D + 1), atol=1e-2, rtol=0)  # 1e4 at float32
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(D + 1), atol=1e-3, rtol=0)
    assert layer(x[:3, :1], labels[0, 0]).shape == (3, 1, D + 1)


def test_images_have_a_mean_each_pixel_or_each_channel():
    x = 100 + torch.randint(2, (50, 3, 4, 4)) * torch.tensor([1.0, 20.0, 50.0]).reshape(3, 1, 1)
    by_pixel, by_channel = Standardize((3, 4, 4)).learn(x), Standardize((3, 1, 1)).learn(x.byte())
    torch.testing.assert_close(by_pixel.centre, x.mean(0))
    torch.testing.assert_close(by_channel.centre.flatten(), x.mean((0, 2, 3)))
    torch.testing.assert_close(
        by_channel(x.byte()).std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0
    )
    encoder = Standardize((3, 1, 1), ConvEncoder((3, 4, 4), (K, K))).learn(x)
    assert encoder(x)[0].shape == (50, K)


def test_constants_stay_finite():
    layer = Standardize(2).learn(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))
    assert layer(torch.tensor([2.0, 7.0])).tolist() == [0.0, 0.0]


def test_derived_guides_standardize_the_same():
    x = table()
    torch.testing.assert_close(RowFeatures([x])(x), Standardize(D).learn(x)(x), rtol=0, atol=0)


def test_a_vae_sets_it_once_before_training():
    x = table(1500)
    vae = pv.VAE(*pair())
    (layer,) = layers(vae)
    assert not layer.known
    history = pv.fit(vae, x, epochs=3, batch_size=500, seed=0, progress=False)
    check_learnt(layer, x[:ROWS_TO_BUILD_FROM])
    pv.elbo(vae, table() + 100.0)
    check_learnt(layer, x[:ROWS_TO_BUILD_FROM])
    assert bool(torch.tensor(history["elbo"].values).isfinite().all())


def test_it_is_traced(monkeypatch):
    monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 0)
    monkeypatch.setattr("pyrovae.traced.traced.tracing_pays_off", lambda work, calls, **_: True)
    assert_same_as_pyro(pv.VAE(*pair()), (table(7),))


def test_seven_rows_do_not_decide():
    vae, x = pv.VAE(*pair()), table()
    vae.rows(x)
    check_learnt(layers(vae)[0], x)
    torch.testing.assert_close(vae.encode(x[:3]), vae.encode(x)[:3])


def test_it_trains_where_raw_inputs_do_not():
    x = table(1000)

    def bound(standardize):
        torch.manual_seed(0)
        network = MLP(D, (K, K), hidden=[16])
        vae = pv.VAE(*pair(network=Standardize(D, network) if standardize else network))
        with torch.no_grad():
            vae.model.likelihood.network.heads[0].weight.mul_(SCALES.unsqueeze(1))
            vae.model.likelihood.network.heads[0].bias.copy_(x.mean(0))
        vae.model.requires_grad_(False)
        adam = lambda parameters: torch.optim.Adam(parameters, lr=1e-2)  # noqa: E731
        pv.fit(vae, x, epochs=10, optimizer=adam, seed=0, progress=False, compile=False)
        return float(pv.elbo(vae, x, seed=0).elbo.mean())

    assert bound(True) > bound(False) + 1


def test_it_is_saved_and_copied_with_the_weights(tmp_path):
    x = table()
    vae = pv.VAE(*pair(), example=x)
    vae.save(tmp_path / "vae")
    loaded = pv.VAE(*pair()).load(tmp_path / "vae")
    other = x + 1e5
    for twin in (loaded, copy.deepcopy(vae)):
        torch.testing.assert_close(twin.encode(other), vae.encode(other), rtol=0, atol=0)
        check_learnt(layers(twin)[0], x)


def test_a_training_goes_on_with_the_same(tmp_path):
    x, path = table(), tmp_path / "state"
    whole, first, second = (pv.VAE(*pair()) for _ in range(3))
    for twin in (first, second):
        twin.load_state_dict(whole.state_dict())
    settings = {"batch_size": 50, "seed": 0, "progress": False, "compile": False}
    pv.fit(whole, x, epochs=4, **settings)
    pv.fit(first, x, epochs=2, checkpoint=path, **settings)
    pv.fit(second, x, epochs=4, checkpoint=path, resume=True, **settings)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)


def test_without_data_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"no mean and scale yet.*layer\.learn\(x\)"):
        Standardize(3)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="Standardize takes 3 features and got 4"):
        Standardize(3).learn(torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r"takes one input \[..., \*\(1, 4, 4\)\] and got \[\[2, 1, 5, 4\]\]"
    ):
        Standardize((1, 4, 4)).learn(torch.zeros(2, 1, 5, 4))


def test_a_wrong_program_keeps_its_message():
    vae = pv.VAE(*pair(size=4))
    with pytest.raises(
        ValueError, match=r"the guide failed on its first rows: ValueError: Standardize takes 4"
    ):
        vae.rows(table())
    assert not layers(vae)[0].learning


def test_a_program_that_is_refused_leaves_nothing_behind():
    encoder, decoder = Standardize(D, MLP(D, K)), pair()[0]

    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.site = encoder, "w"

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample(self.site, dist.Normal(self.encoder(x), 0.5).to_event(1))

    guide = Forgets()
    with pytest.raises(ValueError, match="the guide forgets the latent 'z'"):
        pv.VAE(decoder, guide, example=table(7))
    guide.site = "z"
    x = table()
    pv.VAE(decoder, guide, example=x)
    check_learnt(encoder, x)


def check(vae, *data):
    x = data[0]
    pv.fit(vae, data, epochs=1, seed=0, progress=False)
    assert bool(pv.elbo(vae, *data, seed=0).elbo.isfinite().all())
    (layer, *_) = layers(vae)
    return layer, x


class TestWithEverything:
    def test_context(self):
        x, c = table(), torch.randint(3, (200, 1)).float()
        model = LatentVariableModel(StandardNormal(K), Normal(MLP(K + 1, D), scale=PositiveParameter(SCALES)))
        layer, _ = check(pv.VAE(model, pair(size=D + 1)[1]), x, c)
        check_learnt(layer, torch.cat([x, c], 1))

    def test_absent_entries(self):
        parts = [([0, 1, 2], Normal(MLP(K, (D, D))))]
        encoder = MissingAsZero(Standardize(2 * D, MLP(2 * D, (K, K))))
        vae = pv.VAE(
            pv.models.MixedTableModel(StandardNormal(K), parts), AmortizedGuide(DiagonalNormal(encoder))
        )
        x, observed = torch.randn(50, D), torch.rand(50, D) > 0.2
        observed[:, 0] = True
        layer, _ = check(vae, x.where(observed, torch.nan))
        seen = torch.cat([x.where(observed, torch.zeros(())), observed.float()], 1)
        torch.testing.assert_close(layer.centre, seen.mean(0))
        assert layer.scale[D] == 1  # always observed

    def test_a_vamp_prior_of_its_encoder(self):
        x = table()
        encoder = DiagonalNormal(Standardize(D, MLP(D, (K, K))))
        prior = VampPrior(encoder, x[:4], low=-1e6, high=1e6)
        model = LatentVariableModel(prior, Normal(MLP(K, D), scale=PositiveParameter(SCALES)))
        layer, _ = check(pv.VAE(model, AmortizedGuide(encoder)), x)
        check_learnt(layer, x)

    def test_a_derived_guides_encoder(self, tmp_path):
        x = table()
        make = lambda: AutoGuide(model, encoder=Standardize(D, MLP(D, 8)))  # noqa: E731
        model = pair()[0]
        vae = pv.VAE(model, make())
        layer, _ = check(vae, x)
        check_learnt(layer, x)
        vae.save(tmp_path / "vae")
        check_learnt(layers(pv.VAE(model, make()).load(tmp_path / "vae"))[0], x)

    def test_a_file_of_another_build_leaves_nothing_behind(self, tmp_path):
        x, model = table(), pair()[0]
        make = lambda hidden: AutoGuide(model, encoder=Standardize(D, MLP(D, hidden)))  # noqa: E731
        pv.VAE(model, make(8), example=x).save(tmp_path / "vae")
        vae = pv.VAE(model, make(9))
        with pytest.raises(ValueError, match="another architecture"):
            vae.load(tmp_path / "vae")
        vae.rows(x)
        check_learnt(layers(vae)[0], x)

    def test_a_hierarchy(self):
        priors = [StandardNormal(K), Normal(MLP(K, (K, K)))]
        model = HierarchicalModel(priors, Bernoulli(MLP(K, D)))
        posteriors = [
            DiagonalNormal(Standardize(D, MLP(D, (K, K)))),
            DiagonalNormal(Standardize(D + K, MLP(D + K, (K, K)))),
        ]
        x = torch.bernoulli(torch.full((100, D), 0.3))
        layer, _ = check(pv.VAE(model, HierarchicalGuide(posteriors)), x)
        check_learnt(layer, x)

    def test_sequences(self):
        transition = Normal(MLP(K, (K, K)))
        model = pv.models.DeepMarkovModel(StandardNormal(K), transition, Normal(MLP(K, (D, D))))

        class Standardized(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = GRU(D, 5, past=False, future=True)
                self.layer = Standardize(D)
                self.out_features = self.network.out_features

            def forward(self, x, *rest):
                return self.network(self.layer(x), *rest)

        network = Standardized()
        step = DiagonalNormal(MLP(K + network.out_features, (K, K)))
        guide = AmortizedGuide(pv.guides.MarkovPosterior(network, step, K))
        x = 3 + 2 * torch.randn(20, 4, D)
        layer, _ = check(pv.VAE(model, guide), x, torch.full((20,), 4))
        check_learnt(layer, x.flatten(0, 1))

    def test_a_program_of_functions(self):
        encoder, decoder = Standardize(D, MLP(D, K)), nn.Linear(K, D)

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z), SCALES).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

        x = table()
        vae = pv.VAE(model, guide, example=x)
        check_learnt(encoder, x)
        assert any(name.endswith("encoder.centre") for name in vae.tensors())


def test_absent_entries_do_not_count_and_stay_absent():
    x = 5 + 2 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    x[::3, 1] = torch.nan
    layer = Standardize(3).learn(x)
    torch.testing.assert_close(layer.centre[1], x[:, 1][~x[:, 1].isnan()].mean())
    found = layer(x)
    assert torch.equal(found.isnan(), x.isnan())
    assert float(found[:, 1].nanmean().abs()) < 1e-5


def test_derived_guides_see_numbers_far_out_by_their_logarithm():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e-3])
    features = RowFeatures([x])
    out = features(torch.tensor([[0.0, 0.05], [0.0, -50.0]]))
    assert 20 < out[0, 1] < 30  # fifty standard deviations
    assert -100 < out[1, 1] < -90  # fifty thousand
    near = torch.linspace(-7, 7, 50)[:, None] * torch.tensor([1.0, 1e-3])
    assert torch.equal(features(near), (near - features.centre) * features.scale)
    just = torch.tensor([[9.999], [10.001]], dtype=torch.float64)
    values = RowFeatures([torch.tensor([[-1.0], [1.0]])])(just)
    assert 0 < float(values[1] - values[0]) < 0.0025
