"""What is decided of a function that is called again and again, told as a value and in words."""

import dataclasses
import gc
import logging
import warnings
import weakref

import pytest
import torch

from pyrovae.data import Batch
from pyrovae.traced import traced as module
from pyrovae.traced.outcome import Kind, Outcome
from pyrovae.traced.policy import Policy
from pyrovae.traced.repeated import Repeated
from pyrovae.traced.traced import MAX_SHAPES, Traced
from pyrovae.training.batch_loss import batch_loss
from pyrovae.training.steps import Steps
from tests import pairs

MANY = 1000

WORDS = {
    "plain Pyro (compile=False)": (Outcome("compile=False", compiled=True), Kind.PLAIN),
    "traced": (Outcome(), Kind.TRACED),
    "traced (not compiled: no compiler)": (
        Outcome(compiled=False, not_compiled_because="no compiler"),
        Kind.TRACED,
    ),
    "traced and compiled": (Outcome(compiled=True), Kind.COMPILED),
    "traced and compiled, in a CUDA graph": (Outcome(compiled=True, graphed=True), Kind.COMPILED),
    "traced, in a CUDA graph": (Outcome(compiled=False, graphed=True), Kind.TRACED),
    "traced (not compiled: one; no CUDA graph: two)": (
        Outcome(compiled=False, not_compiled_because="one", not_graphed_because="two"),
        Kind.TRACED,
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_an_outcome_has_a_kind_and_words(words):
    outcome, kind = WORDS[words]
    assert (str(outcome), outcome.kind) == (words, kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.compiled = None


class Scaled:
    """A function of a tensor and a number, that counts its calls; None in the place of its second result."""

    def __init__(self, compile="auto", **policy):
        self.vae, self.calls = pairs.composed(), 0
        self.vae.rows(pairs.binary_rows(4))
        policy = {"calls": MANY, "fewest_calls": 200, "tolerance": 1e-5} | policy
        self.factor = torch.tensor(3.0)
        self.traced = Traced(
            self.vae,
            self.function,
            Policy("calls", compile, **policy),
            steady=lambda: [self.factor],
            is_rare=lambda arguments: len(arguments[0]) < 4,
        )

    def function(self, arguments):
        x, power = arguments
        self.calls += 1
        return [self.factor * x**power, None, x.sum()]

    def __call__(self, *arguments):
        product, nothing, total = self.traced(arguments)
        torch.testing.assert_close(product, self.factor * arguments[0] ** arguments[1])
        torch.testing.assert_close(total, arguments[0].sum())
        assert nothing is None
        return self.traced.outcome.kind


def test_a_trace_stands_for_the_function_on_arguments_of_its_shapes():
    f = Scaled()
    assert f(torch.rand(4), 2) is Kind.TRACED
    calls = f.calls
    f.factor.fill_(5.0)
    assert f(torch.rand(4), 2) is Kind.TRACED
    assert f.calls == calls
    f(torch.rand(4), 3)  # a number is baked in
    assert f.calls > calls
    assert len(f.traced.traces) == 2
    f(torch.rand(3), 2)  # rare: as plain Pyro
    assert len(f.traced.traces) == 2
    for size in range(5, 5 + MAX_SHAPES):
        kind = f(torch.rand(size), 2)
    assert kind is Kind.PLAIN


def test_one_shape_alone():
    f = Scaled(one_shape=True)
    for size in (5, 6, 5, 7):
        assert f(torch.rand(size), 2) is Kind.TRACED
    assert len(f.traced.traces) == 1


def test_rare_shapes_are_traced_where_they_come_often_enough_and_not_compiled(monkeypatch):
    monkeypatch.setattr(
        module, "pays_off", lambda graph, calls, before: pytest.fail("asked for a rare shape")
    )
    f = Scaled(rare_calls=200)
    assert f(torch.rand(3), 2) is Kind.TRACED
    assert len(f.traced.traces) == 1


def test_few_calls_run_plainly():
    f = Scaled(fewest_calls=MANY + 1)
    assert str(f.traced.outcome) == "plain Pyro (a trace does not pay for 1000 calls)"
    assert Scaled(compile=True, fewest_calls=MANY + 1).traced.outcome == Outcome(compiled=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("in_cuda_graph", [False, True])
def test_what_is_compiled_where_it_pays(monkeypatch, device, in_cuda_graph):
    """On a GPU what becomes a CUDA graph alone."""
    monkeypatch.setattr(module, "pays_off", lambda graph, calls, before: calls == MANY)
    monkeypatch.setattr(module, "compiled", lambda graph, inputs: graph.forward)
    moving = []

    def graphed(run, inputs, first_moving):
        moving.extend(inputs[first_moving:])
        return run

    monkeypatch.setattr(module, "cuda_graphed", graphed)
    f = Scaled(in_cuda_graph=in_cuda_graph)
    f.traced.device = torch.device(device)
    x = torch.rand(4)
    f(x, 2)
    on_gpu = device == "cuda"
    assert f.traced.outcome.compiled == (in_cuda_graph or not on_gpu)
    assert f.traced.outcome.graphed == (in_cuda_graph and on_gpu)
    assert [id(tensor) for tensor in moving] == ([id(x)] if in_cuda_graph and on_gpu else [])


def test_no_cuda_graph_and_why(monkeypatch):
    def waiting(*given):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(module, "cuda_graphed", waiting)
    f = Scaled(in_cuda_graph=True)
    f.traced.device = torch.device("cuda")
    f(torch.rand(4), 2)
    assert str(f.traced.outcome) == (
        "traced (no CUDA graph: RuntimeError: called a synchronizing CUDA operation)"
    )


@pytest.mark.parametrize("compile", ["auto", True])
def test_falling_back_warns_where_compiling_was_asked_for_and_is_logged_else(compile, caplog):
    f, x = Scaled(compile), torch.rand(4)
    f.traced.function = lambda arguments: [arguments[0] * float(arguments[0].sum())]
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO, "pyrovae.traced"):
        warnings.simplefilter("always")
        for _ in range(2):
            torch.testing.assert_close(f.traced([x]), [x * x.sum()])
    told = f"calls run as plain Pyro: {f.traced.outcome.plain_because}"
    assert "looks at values" in told
    assert [str(warning.message) for warning in warned] == ([told + "."] if compile is True else [])
    assert caplog.messages == ([] if compile is True else [told])


def test_what_is_neither_tensor_nor_plain_value_is_traced_where_nothing_changes_between_calls():
    for watched, kind in ((False, Kind.TRACED), (True, Kind.PLAIN)):
        f = Scaled(watched=watched)
        f.traced.function = lambda arguments: [arguments[0] + arguments[1][0]]
        f.traced([torch.rand(4), [2.0]])
        assert f.traced.outcome.kind is kind


@pytest.mark.parametrize("of", ["steps", "chunks"])
def test_what_is_traced_goes_with_its_last_user(of):
    """At once, not when the garbage collector comes by: traces hold memory, of a GPU above all."""
    vae, x = pairs.composed(), pairs.binary_rows(4)
    vae.rows(x)
    if of == "steps":
        given = {"compile": "auto", "steps": MANY, "ragged_steps": 0, "rows": 4}
        user = Steps(vae, batch_loss(vae, None), 1.0, **given)
        user(Batch((x,)))
        left = weakref.ref(user.traced)
    else:
        user = Repeated(vae, lambda x: [x + 1], MANY, "auto")
        user(x)
        left = weakref.ref(user._traced)
    assert left().outcome.kind is Kind.TRACED
    gc.disable()
    try:
        del user
        assert left() is None
    finally:
        gc.enable()
