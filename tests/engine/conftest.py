"""Trainings here are short, and traced all the same."""

import pytest


@pytest.fixture(autouse=True)
def trace_few_steps(request, monkeypatch):
    if request.node.name != "test_few_steps_are_not_worth_a_trace":
        monkeypatch.setattr("pyrovae.steps.MIN_STEPS", 0)
