"""Any Pyro pair goes through everything; its parameters are its own; files are safe."""

import copy
import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from torch import nn

import pyrovae as pv
from tests.oracles import ExactGuide, LinearGaussian
from tests.pairs import (
    PAIRS,
    Declared,
    DeclaredGuide,
    Methods,
    binary_rows,
    composed,
    declared,
    tutorial,
    with_param,
)


@pytest.fixture(params=PAIRS)
def pair(request):
    make, context = PAIRS[request.param]
    return make, context


def figures(vae, x, *context):
    bound = pv.elbo(vae, x, *context, num_samples=3, seed=1)
    marginal = pv.log_marginal(vae, x, *context, num_samples=30, seed=1)
    return torch.cat([torch.tensor(r.to_frame().to_numpy()) for r in (bound, marginal)], 1)


DECODER = pv.nn.MLP(2, 6)


def derived(**given):
    model = pv.models.LatentVariableModel(pv.models.StandardNormal(2), pv.models.Bernoulli(DECODER))
    return pv.VAE(model, **given)


def first_weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.guide.parameters()])


def test_a_derived_guide_starts_from_the_seed_of_its_vae():
    x = binary_rows()
    seen = {
        "example": lambda **seed: derived(example=x, **seed),
        "rows": lambda **seed: (vae := derived(**seed), vae.rows(x))[0],
        "elbo": lambda **seed: (vae := derived(**seed), pv.elbo(vae, x, seed=5))[0],
        "fit": lambda **seed: (
            vae := derived(**seed),
            pv.fit(
                vae,
                x,
                epochs=1,
                seed=7,
                progress=False,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
            ),
        )[0],
    }
    starts = {}
    for number, (name, make) in enumerate(seen.items()):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        starts[name] = first_weights(make(seed=3))
        assert torch.equal(torch.get_rng_state(), state), name
    assert all(torch.equal(start, starts["example"]) for start in starts.values())
    assert not torch.equal(first_weights(seen["rows"](seed=4)), starts["rows"])
    torch.manual_seed(0)
    assert not torch.equal(first_weights(seen["rows"]()), first_weights(seen["rows"]()))


def test_parameters_of_programs_start_from_the_seed_of_their_vae():
    def guide(x):
        slope = pyro.param("slope", lambda: torch.randn(6, 1))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z.expand(*z.shape[:-1], 6)).to_event(1), obs=x)

    starts = [pv.VAE(model, guide, example=binary_rows(), seed=3).store["slope"].detach() for _ in range(2)]
    assert torch.equal(*starts)
    assert not torch.equal(starts[0], pv.VAE(model, guide, example=binary_rows(), seed=4).store["slope"])


@pytest.mark.parametrize("seed", ["0", 1.5, True])
def test_a_seed_that_is_no_whole_number(seed):
    with pytest.raises(ValueError, match=r"seed is .*: expected a whole number, or None"):
        derived(seed=seed)


def test_a_pair_goes_through_everything_unchanged(pair):
    make, context = pair
    x, given = binary_rows(), context(40)
    vae = make()
    history = pv.fit(
        vae, (x, *given), epochs=2, batch_size=16, seed=0, progress=False, validation=(x, *given)
    )
    assert bool(np.isfinite(history).all(axis=None))
    assert bool(figures(vae, x, *given)[:, [0, 1, 2, 3, 4]].isfinite().all())
    draws = vae.sample_posterior(x, *given, num_samples=3)
    assert {tuple(value.shape[:2]) for value in draws.values()} == {(3, 40)}
    z = vae.encode(x, *given)
    assert vae.decode(z, *given).shape == (40, 6)
    assert vae.decode(draws, *given).shape == (3, 40, 6)
    torch.testing.assert_close(
        vae.reconstruct(x, *given).mean(), vae.decode(z, *given).mean(), atol=0.05, rtol=0
    )
    assert vae.generate(5, *context(5)).shape == (5, 6)
    tree = pv.to_arviz(vae, x[:4], *context(4), num_samples=6)
    assert tree.posterior.sizes["row"] == 4
    assert not dict(pyro.get_param_store())


def test_save_and_load_into_a_fresh_vae_to_the_bit(pair, tmp_path):
    make, context = pair
    x, given = binary_rows(), context(40)
    vae = make()
    pv.fit(vae, (x, *given), epochs=2, batch_size=16, seed=0, progress=False)
    vae.save(tmp_path / "vae")
    fresh = make()
    assert fresh.load(tmp_path / "vae") is fresh
    torch.manual_seed(3)
    expected = vae.generate(4, *context(4))
    torch.manual_seed(3)
    torch.testing.assert_close(fresh.generate(4, *context(4)), expected, rtol=0, atol=0)
    assert torch.equal(figures(vae, x, *given), figures(fresh, x, *given))
    seen = make()
    figures(seen, x, *given)  # its parameters exist already
    seen.load(tmp_path / "vae")
    assert torch.equal(figures(vae, x, *given), figures(seen, x, *given))
    assert {n: p.shape for n, p in vae.named_parameters()} == {n: p.shape for n, p in seen.named_parameters()}
    fresh.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "vae").read_bytes()


def test_training_changes_every_parameter(pair):
    make, context = pair
    x, given = binary_rows(), context(40)
    vae = make()
    vae.rows(x, *given)
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    pv.fit(vae, (x, *given), epochs=3, seed=0, progress=False)
    unchanged = [name for name, p in vae.named_parameters() if torch.equal(p, before[name])]
    expected = ["guide.encoder.heads.1.weight", "guide.encoder.heads.1.bias"] if make is declared else []
    assert unchanged == expected
    assert before


def test_two_vaes_share_no_parameters_though_their_names_are_the_same():
    x = binary_rows()
    first, second = with_param(), with_param()
    second.rows(x)
    before = [p.detach().clone() for p in second.parameters()]
    pv.fit(first, x, epochs=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, second.parameters(), strict=True))
    assert {n for n, _ in first.named_parameters()} == {n for n, _ in second.named_parameters()}


def test_the_users_param_store_is_left_alone():
    pyro.param("other", torch.tensor(123.0))
    try:
        vae = with_param()
        pv.fit(vae, binary_rows(), epochs=1, progress=False)
        assert dict(pyro.get_param_store()) == {"other": torch.tensor(123.0)}
    finally:
        pyro.clear_param_store()


def test_a_pair_that_plain_pyro_trained_is_evaluated_as_trained():
    pair = with_param()
    x = binary_rows()
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
    try:
        for _ in range(20):
            svi.step(x)
        trained = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
        with pytest.warns(UserWarning, match=" start from the values that Pyro's global store holds"):
            vae = pv.VAE(pair.model, pair.guide, example=x)
        with vae.scope():
            assert all(torch.equal(pyro.param(name), value) for name, value in trained.items())
        pv.fit(vae, x, epochs=1, progress=False)
        assert all(torch.equal(pyro.param(name), value) for name, value in trained.items())
    finally:
        pyro.clear_param_store()


def test_a_program_that_raises_leaves_the_users_param_store_as_it_was():
    def guide(x):
        pyro.param("half", torch.ones(1))
        raise RuntimeError("on purpose")

    pyro.param("mine", torch.tensor(1.0))
    try:
        with pytest.raises(ValueError, match="on purpose"):
            pv.elbo(pv.VAE(composed().model, guide), binary_rows())
        assert list(pyro.get_param_store()) == ["mine"]
    finally:
        pyro.clear_param_store()


def test_a_module_of_two_vaes_is_shared():
    module = Methods()
    first, second = (pv.VAE(module.model, module.guide) for _ in range(2))
    assert {id(p) for p in first.parameters()} == {id(p) for p in second.parameters()}


def test_pyro_params_of_one_name_in_model_and_guide_are_refused():
    class Clashing(DeclaredGuide):
        def __init__(self):
            super().__init__()
            self.noise = pyro.nn.PyroParam(torch.tensor(0.5))

    with pytest.raises(ValueError, match="both have a PyroParam 'noise'"):
        pv.VAE(Declared(), Clashing())


def test_encode_is_the_posterior_mean():
    model = LinearGaussian(K=3, D=5)
    vae, x = pv.VAE(model, ExactGuide(model)), model.data(10)
    torch.testing.assert_close(vae.encode(x), model.posterior(x).mean.detach())
    torch.testing.assert_close(vae.decode(vae.encode(x)), (vae.encode(x) @ model.W.T + model.b).detach())
    draws = vae.sample_posterior(x, num_samples=20000)["z"]
    deviation = draws.mean(0) - model.posterior(x).mean
    limit = 5 * model.posterior(x).variance.sqrt() / 20000**0.5
    assert bool((deviation.abs() < limit).all())


def test_encode_averages_over_the_latents_above():
    module = Methods()
    vae = pv.VAE(module.model, module.guide)
    x, y = binary_rows(8), torch.eye(3)[torch.zeros(8, dtype=torch.long)]
    means = vae.encode(x, y, num_samples=20000)
    exact = module.encoder(torch.cat([x, y], -1)).detach()
    torch.testing.assert_close(means["a"], exact[:, :2])
    expected = exact[:, 2] + exact[:, :2].sum(-1) / 2
    torch.testing.assert_close(means["b"], expected, atol=5 * 0.5 * 0.7 * (2 / 20000) ** 0.5, rtol=0)


def test_generate_draws_from_the_model():
    model = LinearGaussian(K=2, D=3)
    vae = pv.VAE(model, ExactGuide(model), example=model.data(5))
    draws = vae.generate(40000)
    evidence = model.evidence()
    deviation = (draws.mean(0) - evidence.mean) / (evidence.variance / 40000).sqrt()
    assert float(deviation.abs().max()) < 5
    torch.testing.assert_close(torch.cov(draws.T), evidence.covariance_matrix, rtol=0.05, atol=0.05)
    latents, observed = vae.sample_prior(7)
    assert latents["z"].shape == (7, 2)
    assert observed["x"].shape == (7, 3)


def test_sample_likelihood_draws_from_the_likelihood():
    model = LinearGaussian(K=2, D=3, scale=0.5)
    vae = pv.VAE(model, ExactGuide(model), example=model.data(5))
    z = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    draws = vae.sample_likelihood(z.expand(20000, 2, 2), seed=0)
    assert draws.shape == (20000, 2, 3)
    assert bool(((draws.mean(0) - vae.decode(z)).abs() < 5 * 0.5 / 20000**0.5).all())
    torch.testing.assert_close(draws.std(0), torch.full_like(draws[0], 0.5), rtol=0.03, atol=0)
    assert vae.sample_likelihood(z).shape == (2, 3)


@pytest.mark.parametrize("method", ["sample_posterior", "sample_likelihood", "generate", "encode"])
def test_a_seed_decides_the_draws_and_leaves_the_random_state(method):
    module = Methods()
    x, y = binary_rows(8), torch.eye(3)[torch.zeros(8, dtype=torch.long)]
    vae = pv.VAE(module.model, module.guide, example=(x, y))
    first = {"sample_likelihood": {"a": torch.zeros(8, 2), "b": torch.zeros(8)}, "generate": 8}.get(method, x)

    def draw(seed=None):
        found = getattr(vae, method)(first, y, seed=seed)
        return found["b"] if isinstance(found, dict) else found

    state = torch.get_rng_state()
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draw(), draw())


def test_categories_are_decoded_to_probabilities():
    num_options = 3  # as many as columns, so that shapes could be confused
    columns = pv.models.Categorical(pv.nn.MLP(2, 3 * num_options), num_options=num_options)
    guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(3, (2, 2))))
    vae = pv.VAE(pv.models.LatentVariableModel(pv.models.StandardNormal(2), columns), guide)
    x = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 2.0]])
    chances = vae.reconstruct(x)
    assert chances.shape == (2, 3, num_options)
    draws = vae.sample_likelihood(vae.encode(x).expand(20000, 2, 2), seed=0)
    shares = torch.stack([(draws == option).float().mean(0) for option in range(num_options)], -1)
    torch.testing.assert_close(shares, chances, atol=5 * 0.5 / 20000**0.5, rtol=0)
    with pytest.raises(ValueError, match="labels of categories"):
        pv.plots.reconstructions(vae, x)


def test_a_model_that_reads_x_does_not_generate_silently():
    def reading(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = z + torch.where(x > 0, 5.0, -5.0)
            pyro.sample("x", dist.Normal(loc, 1.0).mask(True), obs=x.float())

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.float(), 1.0))

    for x in (torch.randn(5), torch.randint(-2, 2, (5,))):
        vae = pv.VAE(reading, guide, example=x)
        with pytest.raises(ValueError, match="reads values of x beyond observing them"):
            vae.generate(3)
        with pytest.raises(ValueError, match="context argument"):
            vae.decode(torch.zeros(4))


def test_modes_of_modules_are_restored():
    vae = tutorial()
    x = binary_rows()
    vae.rows(x)
    vae.train()
    modes = [m.training for m in vae.modules()]
    statistics = [b.clone() for b in vae.buffers()]
    assert statistics
    figures(vae, x)
    assert [m.training for m in vae.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(statistics, vae.buffers(), strict=True))


def test_functools_partial_and_objects_with_methods():
    class Holder:
        def __init__(self):
            self.net = nn.Linear(2, 6)

        def model(self, x):
            pyro.module("net", self.net)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)

    def guide(net, x):
        pyro.module("encoder", net)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    from functools import partial

    vae = pv.VAE(Holder().model, partial(guide, nn.Linear(6, 2)))
    pv.fit(vae, binary_rows(), epochs=1, progress=False)
    assert len(list(vae.parameters())) == 4


@pytest.mark.parametrize("program", [None, 3, Declared])
def test_programs_that_cannot_be_called(program):
    with pytest.raises(TypeError, match="expected a function, a method or a module"):
        pv.VAE(program, lambda x: None)


def test_what_needs_data_first_says_so():
    with pytest.raises(ValueError, match="has not seen any data.*example=x"):
        composed().generate(3)


@pytest.mark.parametrize(
    "z, message",
    [
        (torch.zeros(4, 3), r"latent 'z' has shape \[4, 3\]: expected \[B, 2\] or \[S, B, 2\]"),
        (torch.zeros(2), r"expected \[B, 2\]"),
        ({"w": torch.zeros(4, 2)}, "got the latents \\['w'\\]: the model has \\['z'\\]"),
    ],
)
def test_latents_that_do_not_fit(z, message):
    vae = composed()
    vae.rows(binary_rows())
    with pytest.raises(ValueError, match=message):
        vae.decode(z)


def composed_on_rows():
    vae = composed()
    vae.rows(binary_rows())
    return vae


def test_generate_says_what_to_pass_for_a_mask_and_a_label():
    def model(x, seen, label, scale):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(label.float(), scale))
            rows = dist.Normal(z.unsqueeze(-1), torch.ones(6)).mask(seen)
            pyro.sample("x", rows.to_event(1), obs=x)

    def guide(x, seen, label, scale):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), scale))

    vae = pv.VAE(model, guide)
    x = binary_rows()
    vae.rows(x, x == x, torch.zeros(40, dtype=torch.long), 1.0)
    told = (
        r"model and guide take 3 beside x\. Give those of the 4 rows to draw: seen \(bool \[4, 6\], True where there "
        r"is something to draw if it is a mask\), label \(int64 \[4\]\), scale \(what it was with the data\)\."
    )
    for ask in (vae.generate, vae.sample_prior):
        with pytest.raises(ValueError, match=told):
            ask(4)
    assert vae.generate(
        4, torch.ones(4, 6, dtype=torch.bool), torch.zeros(4, dtype=torch.long), 1.0
    ).shape == (4, 6)


def test_context_of_another_number():
    make, context = PAIRS["methods"]
    vae = make()
    vae.rows(binary_rows(), *context(40))
    with pytest.raises(ValueError, match="got 0 context arguments"):
        vae.generate(4)
    with pytest.raises(
        ValueError, match=r"got 2 context arguments: model and guide take 0 beside x\. Leave them out"
    ):
        composed_on_rows().generate(4, 1, 2)
    with pytest.raises(ValueError, match="4 rows were asked for and context 1 has 40"):
        vae.generate(4, *context(40))


# Files


def test_files_that_are_no_vae(tmp_path):
    x = binary_rows()
    vae = composed()
    vae.rows(x)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        vae.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello" * 100)
    with pytest.raises(ValueError, match="not a saved VAE, or it is truncated"):
        vae.load(tmp_path / "text")
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="not a saved VAE"):
        vae.load(tmp_path / "empty")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="safetensors file of another program"):
        vae.load(tmp_path / "foreign")
    safetensors.torch.save_file(
        {}, tmp_path / "other", metadata={"pyrovae": json.dumps({"kind": "checkpoint"})}
    )
    with pytest.raises(ValueError, match="not a saved VAE but a saved checkpoint"):
        vae.load(tmp_path / "other")


def test_a_truncated_file_changes_nothing(tmp_path):
    x = binary_rows()
    vae = composed(hidden=[50])
    vae.rows(x)
    vae.save(tmp_path / "vae")
    whole = (tmp_path / "vae").read_bytes()
    before = figures(vae, x)
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            vae.load(tmp_path / "part")
    assert torch.equal(before, figures(vae, x))


def test_another_architecture_names_what_differs_and_changes_nothing(tmp_path):
    x = binary_rows()
    composed(hidden=[5]).save(tmp_path / "hidden5")
    wide = composed(hidden=[7])
    before = figures(wide, x)
    with pytest.raises(ValueError, match=r"another architecture: 'guide.*' has shape \[5\].* and \[7\] here"):
        wide.load(tmp_path / "hidden5")
    with pytest.raises(
        ValueError, match="it has 'guide.posterior.network.body.0.bias'.* which this VAE does not"
    ):
        composed().load(tmp_path / "hidden5")
    with pytest.raises(ValueError, match="it lacks"):
        composed(hidden=[5, 5]).load(tmp_path / "hidden5")
    with pytest.raises(ValueError, match=r"float32 in the file and torch.float64 here"):
        composed(hidden=[5]).double().load(tmp_path / "hidden5")
    assert torch.equal(before, figures(wide, x))


def test_saving_is_atomic(tmp_path, monkeypatch):
    vae = composed()
    path = tmp_path / "vae"
    vae.save(path)
    old = path.read_bytes()

    def half(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        vae.save(path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["vae"]


def test_tied_weights_are_saved_once(tmp_path):
    def build():
        model = Declared()
        guide = DeclaredGuide()
        guide.also = model.decoder
        return pv.VAE(model, guide)

    vae = build()
    vae.rows(binary_rows())
    vae.save(tmp_path / "vae")
    names = list(safetensors.torch.load_file(tmp_path / "vae"))
    assert not [n for n in names if "also" in n]
    fresh = build().load(tmp_path / "vae")
    assert fresh.guide.also.heads[0].weight is fresh.model.decoder.heads[0].weight


# What a reviewer found


def test_modules_in_containers_are_found():
    nets = {"decoder": nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.5)), "encoder": [nn.Linear(6, 2)]}

    def model(x):
        pyro.module("decoder", nets["decoder"])
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=nets["decoder"](z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", nets["encoder"][0])
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(nets["encoder"][0](x), 1.0).to_event(1))

    vae, x = pv.VAE(model, guide), binary_rows()
    torch.testing.assert_close(vae.reconstruct(x), vae.reconstruct(x), rtol=0, atol=0)  # dropout is off
    assert len(list(vae.reached)) == 2
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(vae)


def test_a_module_that_nobody_trains_is_named():
    decoder = nn.Linear(2, 6)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    with pytest.warns(
        UserWarning, match="can reach the module 'decoder' and does not hand it to pyro.module"
    ) as told:
        pv.elbo(pv.VAE(model), binary_rows())
    assert {warning.filename for warning in told} == {__file__}
    decoder.requires_grad_(False)
    pv.VAE(model, example=binary_rows())


def test_copies_are_apart():
    vae, x = composed(), binary_rows()
    twin = copy.deepcopy(vae)
    pv.fit(twin, x, epochs=1, progress=False)
    assert not torch.equal(next(vae.parameters()), next(twin.parameters()))
    assert torch.equal(figures(twin, x), figures(copy.deepcopy(twin), x))


def test_lazy_initial_values_follow_the_random_state():
    def values(seed):
        torch.manual_seed(seed)

        def model(x):
            loc = pyro.param("loc", lambda: torch.randn(6))
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

        return pv.VAE(model, example=binary_rows()).store["loc"].detach()

    assert torch.equal(values(0), values(0))
    assert not torch.equal(values(0), values(1))


def test_files_with_a_strange_header(tmp_path):
    for header in ("xx", "[1]", '{"kind": "VAE"}'):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "f", metadata={"pyrovae": header})
        with pytest.raises(ValueError, match="is not a saved VAE"):
            composed().load(tmp_path / "f")
    with pytest.raises(FileNotFoundError, match="no folder"):
        composed().save(tmp_path / "nowhere" / "vae")


def test_a_file_of_another_pair_of_the_same_tensors(tmp_path):
    def pair(site):
        module = nn.ModuleDict({"encoder": nn.Linear(6, 1)})

        class Model(nn.Module):
            def forward(self, x):
                with pyro.plate("rows", len(x)):
                    z = pyro.sample(site, dist.Normal(0.0, 1.0))
                    pyro.sample(
                        "x", dist.Normal(z.unsqueeze(-1).expand([*z.shape, 6]), 1.0).to_event(1), obs=x
                    )

        class Guide(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = module

            def forward(self, x):
                with pyro.plate("rows", len(x)):
                    pyro.sample(site, dist.Normal(self.module["encoder"](x).squeeze(-1), 1.0))

        return pv.VAE(Model(), Guide())

    x = binary_rows()
    saved = pair("z")
    saved.rows(x)
    saved.save(tmp_path / "vae")
    message = r"belongs to another pair: its sites are \{'x': 'Normal, observed'"
    unseen, seen = pair("w"), pair("w")
    seen.rows(x)
    with pytest.raises(ValueError, match=message):
        seen.load(tmp_path / "vae")
    unseen.load(tmp_path / "vae")
    with pytest.raises(ValueError, match=message):
        pv.elbo(unseen, x)


def test_numpy_counts_and_latents():
    vae, x = composed(), binary_rows()
    z = vae.encode(x).numpy()
    torch.testing.assert_close(vae.decode(z), vae.decode(torch.as_tensor(z)))
    assert pv.elbo(vae, x, num_samples=np.int64(2)).num_samples == 2


def test_a_file_of_another_likelihood_is_refused(tmp_path):
    def pair(family):
        guide = pv.guides.AmortizedGuide(pv.guides.DiagonalNormal(pv.nn.MLP(6, (2, 2))))
        return pv.VAE(
            pv.models.LatentVariableModel(pv.models.StandardNormal(2), family(pv.nn.MLP(2, 6))), guide
        )

    x, saved = binary_rows(), pair(pv.models.Bernoulli)
    saved.rows(x)
    saved.save(tmp_path / "vae")
    seen = pair(pv.models.Poisson)
    seen.rows(x)
    with pytest.raises(
        ValueError, match="'x': 'Bernoulli, observed'.* this VAE's .*'x': 'Poisson, observed'"
    ):
        seen.load(tmp_path / "vae")


def test_latents_of_different_lengths():
    make, context = PAIRS["methods"]
    vae = make()
    vae.rows(binary_rows(), *context(40))
    with pytest.raises(ValueError, match="different numbers of samples or rows"):
        vae.decode({"a": torch.zeros(4, 2), "b": torch.zeros(5)}, *context(4))
    with pytest.raises(ValueError, match="different numbers of samples or rows"):
        vae.decode({"a": torch.zeros(3, 4, 2), "b": torch.zeros(4)}, *context(4))


def test_encode_averages_over_auxiliary_sites():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(x / 2, 5.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(a))

    x = torch.randn(4)
    means = pv.VAE(model, guide).encode(x, num_samples=10000)
    assert bool(((means - x / 2).abs() < 5 * 5 / 100).all())


def test_its_repr_shows_its_programs_and_nothing_empty():
    assert "Bernoulli" in repr(composed())
    functions = pv.VAE(Methods().model, DeclaredGuide())
    for text in (repr(composed()), repr(functions)):
        assert "ModuleDict()" not in text
        assert "ParameterDict()" not in text
    assert "(model): Methods.model" in repr(functions)


def test_data_come_as_the_tuple_that_fit_takes_too():
    make, context = PAIRS["methods"]
    vae, x = make(), binary_rows()
    expected = pv.elbo(vae, x, *context(40), seed=0)
    assert torch.equal(pv.elbo(vae, (x, *context(40)), seed=0).elbo, expected.elbo)
    with pytest.raises(ValueError, match="each row of x needs its own context"):
        pv.elbo(vae, (x, context(3)[0], 2.0))


def test_means_of_several_latents_keep_their_dtype():
    """Averages over draws of float64 are float64, which the decoder takes."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(2, 4).double()

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                a, b = (
                    pyro.sample(name, dist.Normal(x.new_zeros(1), 1.0).to_event(1)) for name in ("a", "b")
                )
                pyro.sample("x", dist.Normal(self.decoder(torch.cat([a, b], -1)), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Normal(x[:, :1], 1.0).to_event(1))
            pyro.sample("b", dist.Normal(x[:, 1:2] + a, 1.0).to_event(1))

    vae, x = pv.VAE(Model(), guide), torch.randn(5, 4, dtype=torch.float64)
    means = vae.encode(x)
    assert {mean.dtype for mean in means.values()} == {torch.float64}
    torch.testing.assert_close(vae.decode(means), vae.model.decoder(torch.cat([means["a"], means["b"]], -1)))
    assert vae.reconstruct(x).dtype == torch.float64
    derived = pv.VAE(Model(), example=x)  # its networks are of the latents' dtype too
    assert derived.floats == torch.float64
    assert derived.reconstruct(x).dtype == torch.float64
