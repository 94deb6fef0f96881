"""Trainings here are short, and traced all the same."""

import pytest

# They are about what people call, as it is.
AS_IT_IS = ("test_account.py", "test_fitting.py", "test_repeated.py")


@pytest.fixture(autouse=True)
def trace_few_steps(request, monkeypatch):
    as_it_is = request.path.name in AS_IT_IS or request.node.name == "test_few_steps_are_not_worth_a_trace"
    if not as_it_is:
        monkeypatch.setattr("pyrovae.training.steps.MIN_STEPS", 0)
        monkeypatch.setattr("pyrovae.traced.traced.tracing_pays_off", lambda work, calls, **_: True)
