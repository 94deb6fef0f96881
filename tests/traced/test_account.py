"""What tracing costs and saves: operations are counted, and the choice goes by their number alone, without a clock."""

import functools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyrovae.data import Batch
from pyrovae.traced import traced as module
from pyrovae.traced.account import Work, counted, tracing_pays_off
from pyrovae.traced.repeated import Repeated
from pyrovae.traced.tracing import trace
from pyrovae.training.batch_loss import batch_loss
from pyrovae.training.steps import Steps
from tests.pairs import binary_rows, composed


def test_operations_of_backward_passes_are_counted_and_numbers_of_neither_products_nor_views():
    a, b = torch.ones(3, 5, requires_grad=True), torch.ones(5, 2)

    def function():
        total = (a @ b).t().exp().sum()
        return torch.autograd.grad(total, [a])

    with torch.no_grad():
        forward, _ = counted(lambda: (a @ b).t().exp().sum())
    assert forward == Work(functions=4, operations=4, numbers=3 * 2 + 1)
    both, (gradient,) = counted(function)
    assert gradient.shape == a.shape
    assert both.functions in (4, 5)  # whether `grad` passes through torch's functions
    assert both.operations > 2 * forward.operations - 2
    assert both.numbers >= forward.numbers + 3 * 2  # the gradient of exp


# Functions, operations, numbers; measured seconds of the first trace in a process, and seconds saved a step.
MEASURED = {
    "perceptrons": (Work(324, 294, 56_727), 0.5, 1.7e-3),
    "784-400-20": (Work(303, 283, 1_958_497), 0.6, 3.3e-3),
    "columns": (Work(687, 664, 215_538), 0.9, 4.4e-3),
    "images": (Work(334, 288, 2_156_689), 0.7, 3.0e-3),
    "GRU, 32 steps": (Work(457, 3217, 5_224_350), 3.0, 2.3e-3),
    "GRU, 240 steps": (Work(457, 21937, 36_000_000), 19.5, 7.8e-3),
    "GRU cells, 32 steps": (Work(792, 3924, 3_917_470), 3.4, 3.9e-3),
    "chain of 10": (Work(2354, 3782, 810_310), 2.5, 1.0e-2),
    "chain of 40": (Work(8954, 15032, 3_240_000), 9.2, 3.7e-2),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_trace_is_made_where_it_pays_for_what_it_takes(name):
    work, to_trace, saved = MEASURED[name]
    even = to_trace / saved
    assert not tracing_pays_off(work, int(0.7 * even))
    assert tracing_pays_off(work, int(3.5 * even))
    # Kernels that are launched as one graph save more.
    assert tracing_pays_off(work, int(3.5 * even), in_cuda_graph=True)


def test_the_choice_is_monotone_in_the_calls():
    for work, _, _ in MEASURED.values():
        chosen = [tracing_pays_off(work, calls) for calls in range(0, 20000, 100)]
        assert chosen == sorted(chosen)


def steps_of(vae, x, steps, **given):
    vae.rows(x)
    settings = {"compile": "auto", "ragged_steps": 0, "rows": len(x)} | given
    return Steps(vae, batch_loss(vae, None), 1.0, steps=steps, **settings)


def test_steps_too_few_for_their_trace_run_as_plain_pyro_and_say_so():
    vae, x = composed(), binary_rows(8)
    steps, runs = steps_of(vae, x, 300), []
    step = steps.traced.function
    steps.traced.function = lambda arguments: runs.append(1) or step(arguments)
    torch.manual_seed(0)
    found = steps(Batch((x,)))
    assert len(runs) == 2  # one of them to count
    assert steps.outcome.kind.name == "PLAIN"
    operations = steps.traced._work.operations
    assert steps.engine == f"plain Pyro (a trace of {operations} operations does not pay for 300 steps)"
    torch.manual_seed(0)
    expected = steps_of(vae, x, 300, compile=False)(Batch((x,)))
    assert torch.equal(found[0], expected[0])  # the same draws: to count draws none
    many = steps_of(vae, x, 3000)
    torch.manual_seed(0)
    traced = many(Batch((x,)))
    assert many.outcome.kind.name == "TRACED"
    torch.testing.assert_close(traced[0], expected[0])
    for mine, others in zip(traced[1], expected[1], strict=True):
        torch.testing.assert_close(mine, others, rtol=1e-4, atol=1e-5)


def test_shapes_share_the_steps_and_what_was_traced_stays_traced(monkeypatch):
    vae, x = composed(), binary_rows(12)
    asked = []

    def pays(work, calls, **_):
        asked.append(calls)
        return calls >= 500

    monkeypatch.setattr(module, "tracing_pays_off", pays)
    steps = steps_of(vae, x, 1200)
    steps.traced.is_rare = lambda arguments: False
    for size in (12, 11, 10, 10, 12):
        steps(Batch((x[:size],)))
    assert asked == [1200, 600, 600, 400, 400]  # before and after a call was counted
    assert len(steps.traced.traces) == 2
    asked.clear()
    resumed = steps_of(vae, x, 100)
    resumed.traced.load_state_dict(steps.state_dict())
    resumed(Batch((x[:11],)))
    assert resumed.outcome.kind.name == "TRACED"
    assert len(resumed.traced.traces) == 1
    assert not asked


def test_a_program_that_changes_again_and_again_is_traced_while_that_pays(monkeypatch):
    monkeypatch.setattr(module, "tracing_pays_off", lambda work, calls, **_: calls >= 300)
    vae, x = composed(), binary_rows(8)
    vae.model.weight = 0.0
    steps = steps_of(vae, x, 1000)
    for change in range(4):
        vae.model.weight = float(change)
        steps(Batch((x,)))
    assert steps.engine.startswith("plain Pyro (a trace of ")
    assert steps.engine.endswith("operations does not pay for 250 steps)")
    assert steps.traced.retraces == 3


def test_an_error_of_the_program_is_its_own():
    def function():
        raise ValueError("the program's")

    with pytest.raises(ValueError, match="the program's"):
        counted(function)


def test_chunks_of_evidence_are_weighed_by_the_same_account():
    vae, x = composed(), binary_rows(8)
    vae.rows(x)
    for calls, kind in ((300, "PLAIN"), (10_000, "TRACED")):
        repeated = Repeated(vae, lambda x: [x + 1, x * 2], calls, "auto")
        repeated(x)
        assert repeated._traced.outcome.kind.name == kind


def test_tracing_makes_no_fake_mode_for_each_operation(monkeypatch):
    """Torch does where it finds none, which takes half of the time."""
    made, init = [], FakeTensorMode.__init__

    def counting(mode, *given, **more):
        made.append(mode)
        init(mode, *given, **more)

    monkeypatch.setattr(FakeTensorMode, "__init__", counting)
    numbers = {}
    for layers in (5, 50):
        made.clear()
        trace(
            lambda x, layers=layers: [functools.reduce(lambda y, _: (y * 1.1).tanh(), range(layers), x)],
            [torch.ones(3)],
        )
        numbers[layers] = len(made)
    assert numbers[5] == numbers[50] < 10
