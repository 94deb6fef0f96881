"""Traced steps: the numbers of plain Pyro, for every pair of the tables; and what is not traced, and why."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.guides import AmortizedGuide, ExactGuide, families
from pyrovae.pair.absence import integrated_out
from pyrovae.traced.account import pays_off
from pyrovae.traced.compilation import compiled
from pyrovae.traced.graph_passes import simplify
from pyrovae.traced.tracing import NotTraceableError, Reference, trace
from pyrovae.training.batch_loss import batch_loss, default_objective
from pyrovae.training.steps import MIN_STEPS, Steps
from tests import pairs
from tests.components import LIKELIHOODS, MODELS, PRIORS, D, K, net
from tests.guides.catalogue import CATALOGUE

B = 7


def steps_of(vae, arguments, objective=None, compile="auto"):
    vae.rows(*arguments)
    return Steps(
        vae,
        batch_loss(vae, objective),
        1.0,
        compile=compile,
        steps=MIN_STEPS,
        ragged_steps=MIN_STEPS,
        rows=len(arguments[0]),
    )


def words(engine):
    """How steps are computed, whatever a GPU adds."""
    return engine.replace(", in a CUDA graph", "")


def assert_same_as_pyro(vae, arguments, plate_scale=1.0, rtol=1e-5):
    """Loss and every gradient of the traced step against Pyro's own, from the same random state."""
    traced = steps_of(vae, arguments)
    torch.manual_seed(3)
    statistics, gradients = traced(Batch.of(arguments))
    again, _ = traced(Batch.of(arguments))
    assert traced.outcome.plain_because is None, traced.outcome.plain_because
    torch.manual_seed(3)
    loss = default_objective(vae)
    with vae.scope(), integrated_out(Batch.of(arguments)):
        expected = loss.differentiable_loss(vae.model, vae.guide, *arguments) / plate_scale
        wanted = torch.autograd.grad(expected, traced.parameters, allow_unused=True)
        # Where all latents are summed out, nothing is drawn; under an exact guide every draw gives log p(x).
        exact = isinstance(vae.guide, ExactGuide)
        assert exact or (float(again[0]) != float(statistics[0])) is bool(vae.layout.latents)
    torch.testing.assert_close(statistics[0], expected.detach().to(statistics.dtype), rtol=rtol, atol=1e-5)
    for found, right in zip(gradients, wanted, strict=True):
        assert (found is None) == (right is None)
        if found is not None:
            scale = float(right.abs().max()) + 1e-6
            torch.testing.assert_close(found, right, rtol=rtol, atol=rtol * scale)


def composed(prior, likelihood, seed=0):
    torch.manual_seed(seed)
    prior, likelihood = PRIORS[prior], LIKELIHOODS[likelihood]
    x = likelihood.data(B)
    context = (torch.randn(B, 1),) if prior.conditional else likelihood.context(x)
    encoder = pv.guides.DiagonalNormal(net(D, (K, K)))
    model = pv.models.LatentVariableModel(prior.make(1), likelihood.make(K + prior.conditional))
    return pv.VAE(model, First(encoder)), (x, *context)


class First(nn.Module):
    """An encoder of x alone, whatever context the model takes."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x, *context):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", self.posterior(x.float()))


# What runs as plain Pyro, and why.
NOT_TRACED = {
    # Pyro's splines choose what lies outside of their box by a mask.
    "spline_flow": "the shape that aten.index.Tensor gives depends on values",
    "FlowPrior, autoregressive": "an operation of it looks at values of a tensor",
}


def check(name, vae, arguments):
    if name not in NOT_TRACED:
        # with_param's plate says that the rows are a subsample of 1000.
        assert_same_as_pyro(vae, arguments, 1000 / B if name == "with_param" else 1.0)
        return
    steps = steps_of(vae, arguments)
    steps(Batch(arguments))
    assert NOT_TRACED[name] in steps.outcome.plain_because
    assert steps.engine.startswith("plain Pyro (")


def test_an_index_by_places_is_traced_and_one_by_a_mask_is_not():
    table, places = torch.arange(12.0).reshape(3, 4), torch.tensor([0, 2])
    graph = trace(lambda x: [x[..., [0, 2]].sum() + x[places, 1]], (table,))
    torch.testing.assert_close(graph(2 * table)[0], 2 * (table[..., [0, 2]].sum() + table[places, 1]))
    with pytest.raises(NotTraceableError, match="the shape that aten.index.Tensor gives depends on values"):
        trace(lambda x: [x[x > 3].sum()], (table,))


@pytest.mark.parametrize("family", [families.full_normal, families.low_rank_normal])
def test_posteriors_with_covariances(family):
    made, rows = composed("StandardNormal", "Bernoulli")
    assert_same_as_pyro(pv.VAE(made.model, AmortizedGuide(family(D, K, [5]))), rows)


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    check(name, *composed(name, "Normal, fixed scale"))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name):
    check(name, *composed("StandardNormal", name))


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    torch.manual_seed(0)
    model, guide = MODELS[name].make()
    check(name, pv.VAE(model, guide), MODELS[name].data(B))


@pytest.mark.parametrize("name", pairs.PAIRS)
def test_pairs_of_every_style(name):
    make, context = pairs.PAIRS[name]
    check(name, make(), (pairs.binary_rows(B), *context(B)))


ROWS = {
    "positive": lambda columns: torch.poisson(torch.full((B, columns), 2.0)),
    "unit interval": lambda columns: torch.bernoulli(torch.full((B, columns), 0.5)),
    "simplex": lambda columns: torch.distributions.Multinomial(5, torch.ones(columns)).sample((B,)),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_declared_models_with_their_derived_guides(name):
    entry = CATALOGUE[name]
    x = ROWS.get(name, lambda columns: torch.randn(B, columns))(entry.columns)
    check(name, pv.VAE(entry.model), (x,))


def test_what_looks_at_values_is_named_by_its_line():
    vae = pairs.composed()
    plain = vae.model

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = plain

        def forward(self, x):
            if x.sum() > 0:
                self.plain(x)

    steps = steps_of(pv.VAE(Looking(), vae.guide), (torch.ones(B, 6),))
    steps(Batch((torch.ones(B, 6),)))
    assert "traced/test_tracing.py, line" in steps.outcome.plain_because
    with pytest.warns(UserWarning, match=r"plain Pyro: traced/test_tracing.py, line \d+, looks at values"):
        steps_of(pv.VAE(Looking(), vae.guide), (torch.ones(B, 6),), compile=True)(Batch((torch.ones(B, 6),)))


class Weighted(nn.Module):
    """A likelihood weighted by a Python number, as programs are that anneal by hand."""

    def __init__(self, counts=False):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7))
        self.weight, self.calls, self.counts = 1.0, 0, counts

    def model(self, x):
        self.calls += self.counts
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.poutine.scale(scale=self.weight):
                pyro.sample("x", dist.Normal(self.slope * z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 0.5))


def test_a_changed_python_value_is_traced_anew():
    pair, x = Weighted(), torch.randn(B)
    vae = pv.VAE(pair.model, pair.guide)
    steps = steps_of(vae, (x,))
    losses = []
    for weight in (1.0, 3.0, 1.0):
        pair.weight = weight
        torch.manual_seed(0)
        losses.append(float(steps(Batch((x,)))[0][0]))
        torch.manual_seed(0)
        with vae.scope():
            expected = pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, x)
        assert losses[-1] == pytest.approx(expected, rel=1e-5)
    assert losses[0] == losses[2] != losses[1]
    assert steps.outcome.plain_because is None


class Reaching(nn.Module):
    """A pair that reaches two tensors beside its parameters: an attribute and a buffer."""

    of_class, of_parent = 0.1, 0.2

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7))
        self.shift, self.more = torch.tensor(0.1), [2.0]
        self.register_buffer("mean", torch.tensor(0.3))

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample(
                "z", dist.Normal(2 * self.mean + 2 * self.shift + self.of_class + Reaching.of_parent, 1.0)
            )
            pyro.sample(
                "x",
                dist.Normal(self.slope * z + self.more[0] + self.more[-1] + sum([THREE for _ in x[:2]]), 1.0),
                obs=x,
            )

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, 0.5))


THREE = 3.0


@pytest.mark.parametrize(
    "change",
    {
        "an attribute": lambda pair, patch: setattr(pair, "shift", torch.tensor(1.1)),
        "an attribute in place": lambda pair, patch: pair.shift.fill_(1.1),
        "a buffer": lambda pair, patch: setattr(pair, "mean", torch.tensor(1.1)),
        "a buffer, then in place": lambda pair, patch: (
            pair.mean.fill_(2.2) if float(pair.mean) > 1 else setattr(pair, "mean", torch.tensor(1.1))
        ),
        "a buffer in place": lambda pair, patch: pair.mean.fill_(1.1),
        "a parameter": lambda pair, patch: setattr(pair, "slope", nn.Parameter(torch.tensor(-0.4))),
        "an item": lambda pair, patch: pair.more.__setitem__(0, 2.2),
        "one item more": lambda pair, patch: pair.more.append(2.2),
        "an attribute in place of the class's": lambda pair, patch: setattr(pair, "of_class", 1.1),
        "an attribute of a class": lambda pair, patch: patch.setattr(Reaching, "of_parent", 1.1),
        "a global in a comprehension": lambda pair, patch: patch.setitem(globals(), "THREE", 3.3),
    }.items(),
    ids=lambda named: named[0],
)
def test_rebound_tensors_and_values_are_traced_anew(change, monkeypatch):
    pair, x = Reaching(), torch.randn(B)
    vae = pv.VAE(pair.model, pair.guide)
    steps = steps_of(vae, (x,))
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        losses.append(float(steps(Batch((x,)))[0][0]))
        torch.manual_seed(0)
        with vae.scope():
            assert losses[-1] == pytest.approx(
                pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, x), rel=1e-5
            )
        change[1](pair, monkeypatch)
    assert losses[0] != losses[1]
    assert steps.outcome.plain_because is None


def test_a_program_that_rebinds_its_buffer_is_not_traced():
    class Counting(Weighted):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", torch.zeros(()))

        def model(self, x):
            self.rows = self.rows + len(x)
            super().model(x)

    pair, x = Counting(), torch.ones(B)
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x,))
    before = float(pair.rows)
    for _ in range(3):
        steps(Batch((x,)))
    assert steps.outcome.plain_because == "running the program changes model.rows"
    assert float(pair.rows) == before + 4 * B  # once more to find that out


def test_what_is_traced_anew_is_not_compiled_again(monkeypatch):
    compilations = []

    def counted(graph, inputs):
        compilations.append(graph)
        return graph.forward

    monkeypatch.setattr("pyrovae.traced.traced.compiled", counted)
    pair, x = Weighted(), torch.randn(B)
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x,), compile=True)
    steps(Batch((x,)))
    assert words(steps.engine) == "traced and compiled"
    pair.weight = 2.0
    with pytest.warns(UserWarning, match="traced but not compiled: model.weight has changed"):
        steps(Batch((x,)))
    pair.weight = 3.0
    steps(Batch((x,)))
    assert len(compilations) == 1
    assert words(steps.engine) == "traced (not compiled: model.weight has changed, and may do so again)"
    resumed = steps_of(pv.VAE(pair.model, pair.guide), (x,), compile=True)
    with pytest.warns(UserWarning, match="traced but not compiled: model.weight has changed"):
        resumed.load_state_dict(steps.state_dict())
    resumed(Batch((x,)))
    assert len(compilations) == 1


def test_compiling_pays_by_the_time_that_it_saves():
    vae, (x,) = composed("StandardNormal", "Bernoulli")
    vae.rows(x)
    parameters, loss = list(vae.parameters()), batch_loss(vae, None)

    def step(*inputs):
        statistics, gradients = loss.statistics_and_gradients(Batch(inputs[-1:]), parameters, 1.0)
        return [statistics, *gradients]

    with vae.scope():
        graph = trace(step, [*parameters, x])
    operations = sum(node.op == "call_function" for node in graph.graph.nodes)
    assert 50 < operations < 300
    # Of so few rows operations alone count: two or three microseconds each.
    assert not pays_off(graph, int(15 / 4e-6 / operations))
    assert pays_off(graph, int(30 / 2e-6 / operations))


def test_an_operation_without_a_fake_kernel_runs_as_plain_pyro():
    class Custom(Weighted):
        def model(self, x):
            super().model(torch.ops.pyrovae_tests.same(x))

    with torch.library._scoped_library("pyrovae_tests", "FRAGMENT") as library:
        library.define("same(Tensor x) -> Tensor")
        library.impl("same", lambda x: x.clone(), "CPU" if not torch.empty(0).is_cuda else "CUDA")
        pair, x = Custom(), torch.randn(B)
        steps = steps_of(pv.VAE(pair.model, pair.guide), (x,))
        steps(Batch((x,)))
        assert "same" in steps.outcome.plain_because


def test_a_list_among_the_arguments_is_not_traced():
    class Shifted(Weighted):
        def model(self, x, shift=(0.0,)):
            super().model(x + shift[0])

        def guide(self, x, shift=(0.0,)):
            super().guide(x)

    pair, x, shift = Shifted(), torch.randn(B), [0.0]
    vae = pv.VAE(pair.model, pair.guide)
    steps = steps_of(vae, (x,))
    losses = []
    for shift[0] in (0.0, 5.0):
        torch.manual_seed(0)
        losses.append(float(steps(Batch((x, shift)))[0][0]))
    assert losses[0] != losses[1]
    assert steps.outcome.plain_because == "an argument is of type list, not a tensor, number or text"


class Summed(nn.Module):
    """Two maps and two offsets added up: one gradient each for the biases, and for the offsets."""

    def __init__(self):
        super().__init__()
        self.of_z, self.of_c = nn.Linear(2, 3), nn.Linear(1, 3)
        self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def forward(self, z, c):
        return self.of_z(z) + self.of_c(c) + (self.a + self.b)


def summed():
    torch.manual_seed(0)
    decoder, encoder = Summed(), pv.nn.MLP(3, (2, 2))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = decoder

        def forward(self, x, c):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z, c), 1.0).to_event(1), obs=x)

    return pv.VAE(Model(), First(pv.guides.DiagonalNormal(encoder)))


@pytest.mark.parametrize("compile", [False, "auto", True])
def test_gradients_that_are_alike_are_clipped_once(compile):
    vae, data = summed(), (10 * torch.randn(B, 3), torch.randn(B, 1))
    before = [p.detach().clone() for p in vae.parameters()]
    history = pv.fit(
        vae,
        data,
        epochs=1,
        batch_size=B,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        clip_norm=0.1,
        compile=compile,
        seed=0,
        progress=False,
    )
    engines = {False: "plain Pyro (compile=False)", "auto": "traced", True: "traced and compiled"}
    assert words(history.attrs["engine"]) == engines[compile]
    moved = torch.cat([(p - old).flatten() for p, old in zip(vae.parameters(), before, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(0.1, rel=1e-3)


def test_sparse_gradients_are_left_as_they_are():
    class Embedded(Weighted):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 1, sparse=True)

        def model(self, x):
            super().model(x - self.table.weight.new_ones(()) * self.table(torch.tensor(1)))

    pair, x = Embedded(), torch.randn(B)
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x,), compile=False)
    assert {g.layout for g in steps(Batch((x,)))[1]} == {torch.strided, torch.sparse_coo}


@pytest.mark.parametrize("faster", [False, True])
def test_results_share_no_memory(faster):
    constant = torch.ones(4)

    def function(x, w):
        sums = [x.sum(0) for _ in range(3)]
        views = [w.t(), sums[0].view(2, 2), constant.view(2, 2), x.sum().expand(4)]
        return [*sums, *views, x, constant]

    inputs = [torch.randn(5, 4), torch.randn(4, 4)]
    graph = trace(function, inputs)
    run = compiled(graph, inputs) if faster else graph.forward
    expected, results = function(*inputs), run(*inputs)
    kept = [t.untyped_storage().data_ptr() for t in (*inputs, constant, *results)]
    assert len(set(kept)) == len(kept)
    for right, found in zip(expected, results, strict=True):
        torch.testing.assert_close(found, right)
        found.add_(1.0)  # an expanded one would refuse


class Freezing(pv.callbacks.Callback):
    """Freezes the guide in the second epoch and frees the model from the third; keeps the weights of each epoch."""

    def __init__(self):
        self.weights = []

    def on_epoch(self, training, row):
        vae = training.vae
        self.weights.append({name: p.detach().clone() for name, p in vae.named_parameters()})
        vae.guide.requires_grad_(training.epoch != 1)
        vae.model.requires_grad_(training.epoch >= 2)


@pytest.mark.parametrize("objective", [None, pv.objectives.ELBO()], ids=["Pyro's", "of rows"])
def test_freezing_and_freeing_midway_is_the_same_in_all_engines(objective):
    x, found = pairs.binary_rows(4 * B), {}
    for compile in (False, "auto"):
        torch.manual_seed(0)
        vae, freezing = pairs.composed(), Freezing()
        vae.model.requires_grad_(False)
        (last,) = [p for name, p in vae.model.named_parameters() if name.endswith("bias")]
        last.requires_grad_(True)  # so that there is something to train in the second epoch
        history = pv.fit(
            vae,
            x,
            epochs=4,
            batch_size=B,
            objective=objective,
            compile=compile,
            seed=0,
            progress=False,
            callbacks=[freezing, Thawing(last)],
        )
        found[compile] = freezing.weights
    assert history.attrs["engine"].startswith("traced")
    for plain, traced in zip(found[False], found["auto"], strict=True):
        torch.testing.assert_close(plain, traced)
    moved = [
        {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        for before, after in zip(found[False], found[False][1:], strict=False)
    ]
    assert moved == [{"model"}, {"model", "guide"}, {"model", "guide"}]
    weight = next(name for name in found[False][0] if name.startswith("model") and name.endswith("weight"))
    changed = [
        not torch.equal(a[weight], b[weight]) for a, b in zip(found[False], found[False][1:], strict=False)
    ]
    assert changed == [False, True, True]


class Thawing(pv.callbacks.Callback):
    """Keeps one parameter trained, whatever is frozen around it."""

    def __init__(self, parameter):
        self.parameter = parameter

    def on_epoch(self, training, row):
        self.parameter.requires_grad_(True)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_with_all_frozen_there_is_nothing_to_train(compile):
    vae, (x,) = composed("StandardNormal", "Bernoulli")
    steps = steps_of(vae, (x,), compile=compile)
    steps(Batch((x,)))
    for p in vae.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="there is nothing to train"):
        steps(Batch((x,)))


def test_a_value_that_never_rests_ends_in_plain_pyro():
    pair, x = Weighted(), torch.randn(B)
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x,))
    for count in range(30):
        pair.weight = 1.0 + count
        steps(Batch((x,)))
    assert "weight changes again and again" in steps.outcome.plain_because


def test_a_program_that_counts_its_calls_is_not_traced():
    pair, x = Weighted(counts=True), torch.randn(B)
    steps = steps_of(pv.VAE(pair.model, pair.guide), (x,))
    steps(Batch((x,)))
    assert steps.outcome.plain_because == "running the program changes model.calls"


def test_running_statistics_are_those_of_plain_pyro():
    x = pairs.binary_rows(B)
    buffers = []
    for compile in (False, "auto", True):
        torch.manual_seed(0)
        vae = pairs.tutorial()
        steps = steps_of(vae, (x,), compile=compile)
        torch.manual_seed(1)
        before = int(list(vae.buffers())[-1])
        for _ in range(3):
            steps(Batch((x,)))
        buffers.append([b.clone() for b in vae.buffers()])
        assert int(buffers[-1][-1]) == before + 3
        assert (words(steps.engine) == "traced and compiled") == (compile is True)
    assert len(buffers[0]) == 3
    for plain, traced, fused in zip(*buffers, strict=True):
        torch.testing.assert_close(plain, traced)
        torch.testing.assert_close(plain, fused)


def test_a_gradient_that_is_rounding_alone_does_not_speak_against_a_trace():
    """Such as that of a bias before a batch normalization, beside others; one that is wrong does."""
    bias, weight = torch.zeros(3), torch.tensor([2.0, -1.0, 0.5])
    reference = Reference(lambda b, w: [w * 3, w * 1e-8, w], [bias, weight], 1e-4)
    reference.verified(lambda b, w: [w * 3, w * -2e-8, w])
    for wrong in ([3.1, 1e-8, 1], [3, 1e-3, 1]):
        with pytest.raises(NotTraceableError, match="other numbers"):
            reference.verified(lambda b, w, wrong=wrong: [w * factor for factor in wrong])


def test_a_forked_process_compiles_without_threads(monkeypatch):
    """Those that the compiler started are its parent's, and it would wait for them for ever."""
    given = []
    monkeypatch.setattr(
        "torch._inductor.compile", lambda graph, inputs, options: given.append(options) or graph
    )
    graph, inputs = trace(lambda x: [x + 1], [torch.ones(2)]), [torch.ones(2)]
    compiled(graph, inputs)
    monkeypatch.setattr("pyrovae.traced.compilation._PROCESS", -1)
    compiled(graph, inputs)
    assert [options.get("compile_threads") for options in given] == [None, 1]


def test_a_ragged_batch_and_many_shapes():
    vae = pairs.composed()
    steps = steps_of(vae, (pairs.binary_rows(40),))
    for size in (40, 3, 40, 3):
        steps(Batch((pairs.binary_rows(size),)))
    assert len(steps.traced.traces) == 2
    for size in range(4, 12):
        steps(Batch((pairs.binary_rows(size),)))
    assert steps.outcome.plain_because == "batches come in more than 8 shapes"


def test_simplified_graphs_give_the_same_bits():
    vae, (x,) = composed("StandardNormal", "Bernoulli")
    vae.rows(x)
    parameters = list(vae.parameters())
    loss = batch_loss(vae, None)

    def step(*inputs):
        statistics, gradients = loss.statistics_and_gradients(Batch(inputs[-1:]), parameters, 1.0)
        return [statistics, *gradients]

    from torch.fx.experimental.proxy_tensor import make_fx

    from pyrovae.traced.tracing import _NoValues

    def guarded(*inputs):
        with _NoValues():
            return step(*inputs)

    inputs = [*parameters, x]
    with vae.scope(), pyro.validation_enabled(False):
        whole = make_fx(guarded)(*inputs)
        small = simplify(make_fx(guarded)(*inputs), inputs)
    assert len(small.graph.nodes) < 0.7 * len(whole.graph.nodes)
    results = []
    for graph in (whole, small):
        torch.manual_seed(2)
        with torch.no_grad():
            results.append(graph(*inputs))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_constants_are_not_folded_where_they_are_changed_in_place():
    def function(x):
        total = torch.zeros(3)
        total += x
        return [total, torch.zeros(3) + 1]

    graph = trace(function, [torch.ones(3)])
    for value in (2.0, 5.0):
        total, one = graph(torch.full((3,), value))
        assert total.tolist() == [value] * 3
        assert one.tolist() == [1.0] * 3


@pytest.mark.parametrize("read", [lambda x: x.tolist(), lambda x: x.numpy(), lambda x: float(x[0])])
def test_values_read_past_the_dispatcher_are_seen(read):
    with pytest.raises(NotTraceableError, match="looks at values"):
        trace(lambda x: [x * float(torch.as_tensor(read(x)).sum())], [torch.ones(3)])


def test_compiled_steps_are_those_of_plain_pyro():
    x = pairs.binary_rows(B)
    found = {}
    for compile in (False, True):
        torch.manual_seed(0)
        vae = pairs.composed(hidden=[5])
        steps = steps_of(vae, (x,), compile=compile)
        torch.manual_seed(1)
        # The third lies in memory by columns.
        found[compile] = [steps(Batch((data,))) for data in (x, x, (1 - x).t().contiguous().t())]
        assert words(steps.engine) == ("traced and compiled" if compile else "plain Pyro (compile=False)")
    for (a, gradients), (b, others) in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        for g, h in zip(gradients, others, strict=True):
            torch.testing.assert_close(g, h, rtol=1e-5, atol=1e-5 * float(g.abs().max()))


def test_without_a_compiler_steps_are_traced(monkeypatch):
    def missing(*arguments):
        raise RuntimeError("InvalidCxxCompiler: no C++ compiler here")

    monkeypatch.setattr("pyrovae.traced.traced.compiled", missing)
    x = pairs.binary_rows(B)
    steps = steps_of(pairs.composed(), (x,), compile=True)
    with pytest.warns(UserWarning, match="traced but not compiled: RuntimeError: InvalidCxxCompiler"):
        steps(Batch((x,)))
    assert (
        words(steps.engine) == "traced (not compiled: RuntimeError: InvalidCxxCompiler: no C++ compiler here)"
    )
    resumed = steps_of(pairs.composed(), (x,), compile="auto")
    resumed.load_state_dict(steps.state_dict())
    assert resumed.engine == words(steps.engine)


def test_few_steps_are_not_worth_a_trace():
    vae, (x,) = composed("StandardNormal", "Bernoulli")
    history = pv.fit(vae, x, epochs=3, batch_size=4, seed=0, progress=False)
    assert history.attrs["engine"] == "plain Pyro (a trace does not pay for 6 steps)"
    # 7 rows: each epoch ends with a batch of 3, which comes too rarely for a trace of its own.
    history = pv.fit(vae, x, epochs=5 * MIN_STEPS, batch_size=4, seed=0, progress=False)
    assert words(history.attrs["engine"]) == "traced"
