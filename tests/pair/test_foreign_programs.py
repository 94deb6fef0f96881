"""What programs of other people do that runs in Pyro: it runs here, or its message says what to do."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.training.batch_loss import batch_loss

T = dist.transforms
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


class Declared(nn.Module):
    """A linear decoder of what `latent()` is; `observe(mean)` gives p(x|z)."""

    def __init__(self, latent, observe=lambda mean: dist.Normal(mean, 1.0), name="z", decode=None):
        super().__init__()
        self.latent, self.observe, self.name, self.decode = latent, observe, name, decode
        self.decoder = nn.Linear(2, 6)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample(self.name, self.latent())
            mean = self.decoder(z) if self.decode is None else self.decode(self.decoder, z)
            pyro.sample("x", self.observe(mean).to_event(1), obs=x)


class Encoded(nn.Module):
    """q(z|x) that `posterior` makes of a linear layer's two numbers."""

    def __init__(self, posterior):
        super().__init__()
        self.encoder, self.posterior = nn.Linear(6, 2), posterior

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.posterior(self.encoder(x)))


def normal():
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


class Unstated(dist.TorchDistribution):
    """Around another distribution, which states no support, as Pyro's wrapper of zuko's does not."""

    def __init__(self, inside):
        self.inside = inside

    has_rsample = True
    batch_shape = property(lambda self: self.inside.batch_shape)
    event_shape = property(lambda self: self.inside.event_shape)

    def expand(self, shape):
        return Unstated(self.inside.expand(shape))

    def rsample(self, shape=()):
        return self.inside.rsample(shape)

    def log_prob(self, value):
        return self.inside.log_prob(value)


def figures(vae, x=X):
    """The figures that densities and draws give, at one seed."""
    return (
        pv.elbo(vae, x, num_samples=3, seed=0).elbo,
        pv.log_marginal(vae, x, num_samples=30, seed=0).log_marginal,
        vae.encode(x, num_samples=5, seed=0),
    )


@pytest.mark.parametrize("guided", [False, True])
def test_distributions_without_a_support_are_what_they_are_around(guided):
    """Only in closed forms, of the rate and of the mean, do they lag behind."""
    torch.manual_seed(0)
    pairs = []
    for wrap in (Unstated, lambda inside: inside):
        model = Declared(lambda wrap=wrap: wrap(normal()))
        guide = Encoded(lambda mean, wrap=wrap: wrap(dist.Normal(mean, 0.8).to_event(1))) if guided else None
        pairs.append(pv.VAE(model, guide, example=X))
    pairs[0].load_state_dict(pairs[1].state_dict())
    unstated, stated = (pv.log_marginal(vae, X, num_samples=30, seed=0).log_marginal for vae in pairs)
    assert torch.allclose(unstated, stated, atol=1e-5)
    pv.fit(pairs[0], X, epochs=2, batch_size=12, seed=0, progress=False)
    pv.diagnose(pairs[0], X, num_samples=20)


def test_flows_of_zuko_through_pyro():
    zuko = pytest.importorskip("zuko")
    from pyro.contrib.zuko import ZukoToPyro

    class Model(Declared):
        def __init__(self):
            super().__init__(lambda: ZukoToPyro(self.flow()))
            self.flow = zuko.flows.NSF(2, transforms=1, hidden_features=[8])

    class Guide(Encoded):
        def __init__(self):
            super().__init__(None)
            self.flow = zuko.flows.MAF(2, 6, transforms=1, hidden_features=[8])

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", ZukoToPyro(self.flow(x)))

    for guide in (None, Guide()):
        vae = pv.VAE(Model(), guide)
        pv.fit(vae, X, epochs=2, batch_size=12, seed=0, progress=False)
        assert all(bool(figure.isfinite().all()) for figure in figures(vae))


def view_rows(decoder, z):
    return decoder(z.view(-1, 2)).view(*z.shape[:-1], 6)


def view_matrix(decoder, z):
    return decoder(z.view(-1, 4)[:, :2]).view(*z.shape[:-2], 6)


@pytest.mark.parametrize(
    ("latent", "decode"),
    [(normal, view_rows), (lambda: dist.Normal(torch.zeros(2, 2), 1.0).to_event(2), view_matrix)],
    ids=["vector", "matrix"],
)
def test_latents_are_contiguous_wherever_they_reach_a_decoder(latent, decode):
    """Of some rows, or moved between layouts: `.view` works on them as on draws."""
    vae = pv.VAE(Declared(latent, decode=decode), example=X)
    assert vae.layout.model_broadcasts
    pv.log_marginal(vae, X, num_samples=7, batch_size=10, seed=0)
    pv.diagnose(vae, X, num_samples=7, seed=0)
    pv.plots.report(vae, X)
    draws = vae.sample_posterior(X, num_samples=3, seed=0)["z"]
    assert vae.decode(draws).shape == (3, 24, 6)
    assert vae.decode(draws.transpose(0, 1).contiguous().transpose(0, 1)).shape == (3, 24, 6)


class Bag:
    """Keeps what it is given."""

    def __init__(self, **kept):
        vars(self).update(kept)


def by_name_and_in_a_list():
    """A decoder that the model reaches by its name, and the guide in the list that its encoder is in."""
    decoder = nn.Linear(2, 6)
    bag = Bag(decoder=decoder, nets=nn.ModuleList([nn.Linear(6, 2), decoder]))

    def model(x):
        pyro.module("decoder", bag.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", normal())
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", bag.nets[0])
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(bag.nets[0](x), 1.0).to_event(1))

    return pv.VAE(model, guide)


def test_modules_that_hang_in_one_container_are_loaded_where_they_were_saved(tmp_path):
    vae = by_name_and_in_a_list()
    pv.fit(vae, X, epochs=1, seed=0, progress=False)
    vae.save(tmp_path / "vae")
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    pv.fit(vae, X, epochs=1, seed=1, progress=False)
    vae.load(tmp_path / "vae")
    assert all(torch.equal(vae.tensors()[name], tensor) for name, tensor in before.items())
    other = by_name_and_in_a_list().load(tmp_path / "vae")
    assert torch.equal(*(pv.elbo(v, X, seed=0).elbo for v in (vae, other)))
    other.save(tmp_path / "other")
    by_name_and_in_a_list().load(tmp_path / "other")


def test_programs_that_name_what_is_not_bound_yet():
    """A function of a notebook's cell, say, whose cell comes later."""

    def model(x):
        if len(x) == 0:
            unbound(x)
        return declared(x)

    declared = Declared(normal).requires_grad_(False)
    vae = pv.VAE(model, Encoded(lambda mean: dist.Normal(mean, 1.0).to_event(1)))
    assert len(pv.elbo(vae, X)) == 24
    unbound = None


# As those of torch's containers themselves.
NAMES = ["values", "type", "keys", "get", "training", "forward", "_parameters", "a.b", "a/b"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_parameter(name, tmp_path):
    def make():
        def model(x):
            scale = pyro.param(name, torch.ones(()), constraint=constraints.positive)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", normal())
                mean = z.sum(-1, keepdim=True).expand([*z.shape[:-1], 6])
                pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)

        return pv.VAE(model)

    vae = make()
    pv.fit(vae, X, epochs=1, seed=0, progress=False)
    vae.save(tmp_path / "vae")
    twin = make().load(tmp_path / "vae")
    assert torch.equal(*(pv.elbo(v, X, seed=0).elbo for v in (vae, twin)))
    with vae.scope():
        assert list(pyro.get_param_store()) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_latent(name, tmp_path):
    vae = pv.VAE(Declared(normal, name=name))
    pv.fit(vae, X, epochs=1, seed=0, progress=False)
    assert all(bool(figure.isfinite().all()) for figure in figures(vae))
    pv.diagnose(vae, X, num_samples=5)
    pv.to_arviz(vae, X, num_samples=5)
    vae.save(tmp_path / "vae")
    twin = pv.VAE(Declared(normal, name=name)).load(tmp_path / "vae")
    assert torch.equal(*(pv.elbo(v, X, seed=0).elbo for v in (vae, twin)))


GREY = torch.rand(24, 6, generator=torch.Generator().manual_seed(0))


def unchecked(logits):
    return dist.Bernoulli(logits=logits, validate_args=False)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: d.mask(torch.ones(6, dtype=torch.bool))])
def test_a_program_that_switches_its_checks_off_is_taken_at_its_word(wrap, validation):
    vae = pv.VAE(Declared(normal, lambda logits: wrap(unchecked(logits))))
    with pyro.validation_enabled(validation):
        pv.fit(vae, GREY, epochs=1, seed=0, progress=False)
        assert all(bool(figure.isfinite().all()) for figure in figures(vae, GREY))


@pytest.mark.parametrize("validation", [True, False])
def test_checks_that_a_program_says_nothing_of_are_made(validation):
    """Expanded distributions have a switch of their own, which is that of the whole process."""
    model = Declared(normal, lambda logits: dist.Bernoulli(logits=logits).expand(logits.shape))
    with (
        pyro.validation_enabled(validation),
        pytest.raises(
            ValueError, match=r"outside the support.*transform=torch\.bernoulli.*validate_args=False"
        ),
    ):
        pv.fit(pv.VAE(model), GREY, epochs=1, progress=False)
    vae = pv.VAE(model)
    pv.fit(vae, GREY, epochs=1, seed=0, transform=torch.bernoulli, progress=False)


class Labelled(nn.Module):
    """A model and a guide of a label and a latent; `marks` says which of them mark the label for enumeration."""

    def __init__(self, marks):
        super().__init__()
        self.marks = marks
        self.prior, self.decoder = nn.Linear(3, 2), nn.Linear(5, 6)
        self.labels, self.encoder = nn.Linear(6, 3), nn.Linear(9, 2)

    def infer(self, program):
        return {"enumerate": self.marks[program]} if program in self.marks else {}

    def model(self, x):
        pyro.module("of model", nn.ModuleList([self.prior, self.decoder]))
        with pyro.plate("rows", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3)), infer=self.infer("model"))
            z = pyro.sample("z", dist.Normal(self.prior(y), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(pv.nn.join(y, z)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("of guide", nn.ModuleList([self.labels, self.encoder]))
        with pyro.plate("rows", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.labels(x)), infer=self.infer("guide"))
            pyro.sample("z", dist.Normal(self.encoder(pv.nn.join(x, y)), 1.0).to_event(1))


@pytest.mark.parametrize("marks", [{}, {"model": "parallel"}])
def test_labels_that_the_guide_does_not_mark_are_drawn(marks):
    labelled = Labelled(marks)
    vae = pv.VAE(labelled.model, labelled.guide, example=X)
    assert type(batch_loss(vae, None).objective) is pyro.infer.Trace_ELBO


@pytest.mark.parametrize("kind", ["parallel", "sequential"])
@pytest.mark.parametrize("programs", [("guide",), ("guide", "model")])
def test_the_default_objective_follows_the_guides_marks(kind, programs):
    """Loss and gradients are those of Pyro's enumerating objective."""
    labelled = Labelled(dict.fromkeys(programs, kind))
    vae = pv.VAE(labelled.model, labelled.guide, example=X)
    loss = batch_loss(vae, None)
    parameters = list(vae.parameters())
    with vae.scope():
        torch.manual_seed(1)
        statistics, gradients = loss.statistics_and_gradients(Batch((X,)), parameters, 1.0)
        torch.manual_seed(1)
        pyros = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
        expected = pyros.differentiable_loss(vae.model, vae.guide, X)
    torch.testing.assert_close(statistics[0], expected.detach())
    for found, right in zip(
        gradients, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(found, right)
    history = pv.fit(vae, X, epochs=2, seed=0, progress=False)
    assert bool(history[["loss", "elbo"]].notna().all(axis=None))
    assert all(bool(t.isfinite().all()) for t in figures(vae)[:2])


def test_objectives_by_row_name_the_one_that_enumerates():
    labelled = Labelled({"guide": "parallel"})
    vae = pv.VAE(labelled.model, labelled.guide, example=X)
    for objective in (pv.objectives.ELBO(), pv.objectives.IWAE(num_samples=3)):
        with pytest.raises(ValueError, match=r"Train with pyro\.infer\.TraceEnum_ELBO\(\).*objective=None"):
            pv.fit(vae, X, objective=objective, epochs=1, progress=False)
    unmarked = Labelled({})
    with pytest.raises(ValueError, match=r"Train with objectives\.ReweightedWakeSleep"):
        pv.fit(pv.VAE(unmarked.model, unmarked.guide), X, objective=pv.objectives.ELBO(), epochs=1)


def observed(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", normal())
        pyro.sample(
            "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:-1], 6]).to_event(1), obs=x
        )


def encoded(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def of_dict(program):
    return lambda batch: program(batch["x"])


def with_keyword(program):
    return lambda x, *, shift: program(x + shift)


def with_offsets(program):
    return lambda x, offsets: program(x + offsets["of rows"])


PACKED = nn.utils.rnn.pack_sequence([X[:3, :6], X[:2, :6]])
CALLS = {
    "packed sequence": (
        lambda p: p,
        (PACKED,),
        TypeError,
        r"PackedSequence.*pad_packed_sequence.*lengths as context",
    ),
    "packed context": (
        lambda p: p,
        (X, PACKED),
        TypeError,
        "context 1 is PackedSequence.*pad_packed_sequence",
    ),
    "dict": (
        of_dict,
        ({"x": X, "y": X},),
        TypeError,
        r"x is dict.*arguments of their own.*takes a dict is wrapped.*x, y",
    ),
    "list": (lambda p: p, ([X],), TypeError, r"x is list.*f\(vae, \*data\)"),
    "keyword": (with_keyword, (X,), ValueError, r"(?s)keyword-only.*functools\.partial\(model, name=value\)"),
    "dict of context": (
        with_offsets,
        (X, {"of rows": X}),
        ValueError,
        r"(?s)Context 1 is a dict that holds tensors",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_are_no_rows_are_told_what_to_be(name):
    wrap, data, kind, message = CALLS[name]
    with pytest.raises(kind, match=message):
        pv.elbo(pv.VAE(wrap(observed), wrap(encoded)), *data)


@pytest.mark.parametrize(
    ("name", "message"), [("packed sequence", "pad_packed"), ("dict", "one dict is wrapped")]
)
def test_fit_tells_so_too(name, message):
    wrap, (data,), _, _ = CALLS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        pv.fit(pv.VAE(wrap(observed), wrap(encoded)), data, epochs=1, progress=False)


def test_the_remedies_of_these_messages_work():
    as_dict = lambda program: lambda x, y: of_dict(program)({"x": x, "y": y})  # noqa: E731
    of_two = pv.VAE(lambda x, y: observed(x), lambda x, y: encoded(x))
    taken = pv.elbo(pv.VAE(as_dict(observed), as_dict(encoded)), X, X, seed=0)
    assert torch.equal(taken.elbo, pv.elbo(of_two, X, X, seed=0).elbo)
    expected = pv.elbo(pv.VAE(observed, encoded), X, seed=0).elbo
    bound = [functools.partial(with_keyword(program), shift=0.0) for program in (observed, encoded)]
    assert torch.equal(pv.elbo(pv.VAE(*bound), X, seed=0).elbo, expected)


class Shifted(Declared):
    def forward(self, x, *, shift):
        super().forward(x + shift)


def test_a_module_with_a_keyword_bound_is_trained():
    vae = pv.VAE(functools.partial(Shifted(normal), shift=1.0))
    before = [p.clone() for p in vae.parameters()]
    assert len(before) == 2
    pv.fit(vae, X, epochs=2, seed=0, progress=False)
    assert not any(torch.equal(*pair) for pair in zip(before, vae.parameters(), strict=False))
