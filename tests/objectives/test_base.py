"""What every objective does around its loss: layouts found in silence, steps, traces, refusals, its name."""

import copy

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, IWAE, Constant, Cyclical, FreeBits, LinearWarmUp, ReweightedWakeSleep
from pyrovae.pair.handlers import RowsAsGiven
from pyrovae.pair.programs import Pair
from pyrovae.random_state import fixed_seed
from tests.objectives.scalar import Scalar
from tests.pairs import PAIRS, binary_rows

X = torch.tensor([0.5, -1.2, 2.0, 0.1], dtype=torch.float64)


def with_random_parameters():
    """Parameters that pyro.param draws, batch normalization and dropout: what a needless run would disturb."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    def model(x):
        slope = pyro.param("slope", lambda: torch.randn(2, 3))
        with pyro.plate("rows", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ slope, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)
        with pyro.plate("rows", 100, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    return model, guide, network


class Seeing(pyro.infer.Trace_ELBO):
    """Pyro's own, with rows as given: a subsampled plate draws no indices."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        with RowsAsGiven(len(args[0])):
            return super().loss_and_grads(model, guide, *args, **kwargs)


def test_the_first_step_is_pyros_own_though_the_pair_was_inspected():
    """Random state, param store, modes, running means: two steps end where two steps of Trace_ELBO end."""
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    ends = []
    for loss in (ELBO(analytic_kl=False), Seeing()):
        pyro.clear_param_store()
        model, guide, network = with_random_parameters()
        svi = pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": 1e-2}), loss=loss)
        torch.manual_seed(3)
        losses = [svi.step(x), svi.step(x)]
        assert network.training
        state = {n: v.detach().clone() for n, v in pyro.get_param_store().items()}
        ends.append((losses, state, copy.deepcopy(network.state_dict()), torch.get_rng_state()))
    ours, theirs = ends
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for mine, other in ((ours[1], theirs[1]), (ours[2], theirs[2])):
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], msg=name)
    assert ours[2]["1.num_batches_tracked"] == 2
    assert torch.equal(ours[3], theirs[3])
    pyro.clear_param_store()


class Counting(Messenger):
    """What a handler around an objective sees: SVI is one."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _pyro_sample(self, msg):
        self.seen.append(msg["name"])

    def _pyro_param(self, msg):
        self.seen.append(msg["name"])


def test_handlers_outside_do_not_see_the_inspection():
    pair, objective = Scalar(), ELBO()
    seen = []
    for _ in range(2):
        with Counting() as counting:
            objective.loss(pair.model, pair.guide, X)
        seen.append(counting.seen)
    assert seen[0] == seen[1]
    assert seen[0].count("z") == 2  # guide and model, once each
    pyro.clear_param_store()


@pytest.mark.parametrize("name", PAIRS)
def test_trains_any_pair_by_svi_without_a_vae(name):
    make, context = PAIRS[name]
    vae = make()
    x = binary_rows(12)
    if isinstance(vae.model, nn.Module) and not isinstance(vae.model, pyro.nn.PyroModule):
        model, guide = registered("model", vae.model), registered("guide", vae.guide)
    elif name == "methods":
        model, guide = (
            registered("pair", vae.model.__self__, vae.model),
            registered("pair", vae.model.__self__, vae.guide),
        )
    else:
        model, guide = vae.model, vae.guide
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss=ELBO())
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    torch.manual_seed(0)
    losses = [svi.step(x, *context(12)) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    moved = {n: p.detach() for n, p in vae.named_parameters() if n in before}
    unused = {n for n in before if name == "declared" and "heads.1" in n}  # its guide has a width of its own
    assert {n for n in before if torch.equal(before[n], moved[n])} == unused
    pyro.clear_param_store()


def registered(name, module, program=None):
    """A plain module's program, with its parameters handed to Pyro's store."""

    def run(*arguments):
        pyro.module(name, module)
        return (program or module)(*arguments)

    return run


def test_pyros_module_interface():
    class Program(nn.Module):
        def __init__(self, program):
            super().__init__()
            self.forward = program

    pair = Scalar()
    IWAE(3)(Program(pair.model), Program(pair.guide))(X).backward()
    assert all(p.grad is not None for p in pair.parameters())
    pyro.clear_param_store()


class Flat(nn.Module):
    """A pair whose networks take [B, features] only, unless `broadcasts`."""

    def __init__(self, broadcasts):
        super().__init__()
        torch.manual_seed(1)
        self.encoder, self.decoder = nn.Linear(3, 4).double(), nn.Linear(2, 3).double()
        self.broadcasts = broadcasts

    def flat(self, value):
        return value if self.broadcasts else value.reshape(-1, value.shape[-1])

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("rows", 50, subsample_size=len(x)):
            zero = torch.zeros(2, dtype=torch.float64)
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(self.flat(z)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("pair", self)
        loc, scale = self.encoder(self.flat(x)).chunk(2, -1)
        with pyro.plate("rows", 50, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


EVERY = {
    "ELBO": ELBO(3),
    "sticking the landing": ELBO(3, sticking_the_landing=True),
    "free bits": ELBO(3, free_bits=FreeBits(0.05, per_dimension=True)),
    "IWAE": IWAE(3),
    "DReG": IWAE(3, num_bounds=2, doubly_reparameterized=True),
    "wake-sleep": ReweightedWakeSleep(3),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_pair_that_cannot_broadcast_gives_the_same_loss_and_gradients(name):
    x = torch.randn(6, 3, dtype=torch.float64)
    results = []
    for broadcasts in (True, False):
        pyro.clear_param_store()
        pair, objective = Flat(broadcasts), copy.deepcopy(EVERY[name])
        torch.manual_seed(2)
        loss = objective.loss_and_grads(pair.model, pair.guide, x)
        assert objective._pairs[0].layout.model_broadcasts == broadcasts
        results.append((loss, [p.grad for p in pair.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)
    pyro.clear_param_store()


@pytest.mark.parametrize("name", EVERY)
def test_a_step_can_be_traced_and_coefficients_move_without_a_new_trace(name):
    objective = ELBO(3, beta=0.5, sticking_the_landing=True) if "landing" in name else EVERY[name]
    if name == "ELBO":
        objective = ELBO(3, beta=LinearWarmUp(steps=4, start=0.5))
    pair = Flat(broadcasts=True)
    vae = pv.VAE(pair.model, pair.guide)
    x = torch.randn(6, 3, dtype=torch.float64)
    vae.rows(x)
    parameters = list(vae.parameters())

    def step(parameters, coefficients, x):
        losses = objective.evaluate(vae, Batch((x,)))
        return losses.value, torch.autograd.grad(losses.surrogate.sum(), parameters)

    def results(function):
        with fixed_seed(1, vae.device):
            return function(parameters, objective.coefficients, x)

    with vae.scope(), pyro.validation_enabled(False):
        with fixed_seed(9, vae.device):
            graph = make_fx(step)(parameters, objective.coefficients, x)
        first = results(graph)
        torch.testing.assert_close(first, results(step))
        objective.advance(2, None)  # moves the warm-up to 0.75
        torch.testing.assert_close(results(graph), results(step))
        assert torch.equal(results(graph)[0], first[0]) == (name != "ELBO")


def test_a_captured_coefficient_is_read_anew_too():
    pair, objective = Scalar(), ELBO(beta=LinearWarmUp(steps=2))
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X)
    with vae.scope(), pyro.validation_enabled(False):
        graph = make_fx(lambda x: objective.evaluate(vae, Batch((x,))).value)(X)
        values = []
        for step in (0, 1, 2):
            objective.advance(step, None)
            with fixed_seed(1, vae.device):
                values.append(graph(X).detach())
    torch.testing.assert_close(values[2] - values[1], values[1] - values[0])
    assert float((values[1] - values[0]).abs().min()) > 0.01


def categorical(x):
    logits = pyro.param("logits", torch.zeros(3))
    with pyro.plate("rows", len(x)):
        pyro.sample("k", dist.Categorical(logits=logits).expand([len(x)]))


def mixture(x):
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(k.to(x.dtype), 1.0), obs=x)


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(sticking_the_landing=True), IWAE(2), IWAE(2, doubly_reparameterized=True)]
)
def test_draws_without_paths_are_refused_where_their_gradient_would_be_missed(objective):
    objective = copy.deepcopy(objective)
    with pytest.raises(
        ValueError, match=r"samples 'k' from Categorical.*ReweightedWakeSleep.*TraceGraph_ELBO"
    ):
        objective.loss_and_grads(mixture, categorical, X.float())
    assert objective.loss(mixture, categorical, X.float()) > 0  # the value itself is right
    assert ReweightedWakeSleep(3).loss_and_grads(mixture, categorical, X.float()) > 0
    pyro.clear_param_store()


def test_reparameterization_that_is_switched_off_is_seen():
    pair = Scalar()

    def guide(x):
        with pyro.plate("rows", len(x)):
            q = dist.Normal(pair.a * x, 1.0)
            pyro.sample("z", q.has_rsample_(False))

    with pytest.raises(ValueError, match="samples 'z' from Normal"):
        ELBO().loss_and_grads(pair.model, guide, X)
    pyro.clear_param_store()


def test_a_scale_of_the_programs_own_is_refused():
    pair = Scalar(plate_size=1000)
    with pytest.raises(ValueError, match=r"'z' is scaled by .* where its plate says 250.0.*beta="):
        ELBO().loss(poutine.scale(pair.model, 0.5), pair.guide, X)
    pyro.clear_param_store()


def test_a_pair_that_breaks_the_contract_and_keywords_are_refused():
    pair = Scalar()
    with pytest.raises(ValueError, match="the guide forgets the latent 'z'"):
        ELBO().loss(pair.model, lambda x: None, X)
    with pytest.raises(TypeError, match=r"keyword arguments \['x'\].*by position"):
        ELBO().loss(pair.model, pair.guide, x=X)
    pyro.clear_param_store()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ELBO(0), "num_samples is 0"),
        (lambda: IWAE(0), "num_samples is 0"),
        (lambda: IWAE(2, num_bounds=0), "num_bounds is 0"),
        (lambda: ReweightedWakeSleep(1), "at least 2"),
        (lambda: FreeBits(-0.1), "nats is -0.1"),
        (lambda: ELBO(analytic_kl=True, sticking_the_landing=True), "needs the sampled rate"),
        (
            lambda: ELBO(analytic_kl=False, free_bits=FreeBits(1.0, per_dimension=True)),
            "per dimension need the closed form",
        ),
    ],
)
def test_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_free_bits_are_an_object():
    with pytest.raises(TypeError, match="free_bits is 0.5: expected objectives.FreeBits"):
        ELBO(free_bits=0.5)


def half(step, epoch):
    return 0.5


def test_the_name_says_every_setting_and_is_the_same_in_every_process():
    assert repr(ELBO(2, beta=0.5, analytic_kl=False)) == (
        "ELBO(num_samples=2, beta=0.5, analytic_kl=False, free_bits=None, sticking_the_landing=False)"
    )
    assert "beta=LinearWarmUp(steps=10, epochs=None, start=0.0, end=1.0)" in repr(
        ELBO(beta=LinearWarmUp(steps=10))
    )
    assert "rising=0.5" in repr(ELBO(beta=Cyclical(epochs=10)))
    assert f"beta={__name__}.half" in repr(ELBO(beta=half))
    assert repr(ELBO(beta=Constant(1.0))) != repr(ELBO(beta=Constant(2.0)))
    assert repr(IWAE(5)) == "IWAE(num_samples=5, num_bounds=1, doubly_reparameterized=False)"
    assert repr(ReweightedWakeSleep(4)) == "ReweightedWakeSleep(num_samples=4)"


def test_a_loss_that_is_nan_warns_like_pyros():
    pair = Scalar(log_scale=float("nan"))
    vae_like = (pair.model, lambda x: pair.guide(x))
    objective = ELBO()
    objective._pairs.append(Pair(*vae_like, layout_of(Scalar())))
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="loss is nan|Encountered NaN: loss"):
        objective.loss(*vae_like, X)
    pyro.clear_param_store()


def layout_of(pair):
    vae = pv.VAE(pair.model, pair.guide)
    vae.rows(X)
    return vae.layout


def test_a_description_is_the_same_in_every_process():
    class Late:
        def __call__(self, step, epoch):
            return 1.0

    described = ELBO(num_samples=2, beta=Late()).describe()
    assert described.startswith("ELBO(num_samples=2, beta=<")
    assert " at 0x" not in described
    assert described == ELBO(num_samples=2, beta=Late()).describe()
