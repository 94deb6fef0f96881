"""`check_pair` passes pairs that are right, and names what is wrong with others."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae.testing import PairCheckError, check_pair
from pyrovae.testing.checks import CHECKS
from tests.pairs import PAIRS, binary_rows
from tests.robustness.wrong_programs import PROGRAMS, X, guide, model, rows, spread, state

NAMES = ["contract", *CHECKS]


@pytest.mark.parametrize("name", ["composed", "tutorial", "with_param", "methods"])
def test_right_pairs_pass(name):
    make, context = PAIRS[name]
    vae = make()
    before = torch.get_rng_state()
    report = check_pair(vae.model, vae.guide, binary_rows(30), *context(30))
    assert report.passed
    assert report.table["check"].tolist() == NAMES
    assert report.table.set_index("check")["outcome"].drop("absence").eq("passed").all()
    assert torch.equal(before, torch.get_rng_state())
    assert "passed  log p(x) above the ELBO" in str(report)


def test_a_guide_may_be_derived_and_rows_may_lack_entries():
    x = X.clone()
    x[::4, 1] = torch.nan
    report = check_pair(model, None, x)
    outcomes = report.table.set_index("check")["outcome"]
    assert outcomes["absence"] == "passed"
    assert report.table.set_index("check")["detail"]["absence"] == "5 rows lack entries"


def test_without_parameters_there_is_nothing_to_train_or_save():
    outcomes = check_pair(model, guide, X).table.set_index("check")["outcome"]
    assert (
        outcomes[["gradients finite", "traced equals plain", "save and load", "absence"]].eq("skipped").all()
    )
    assert (
        outcomes.drop(["gradients finite", "traced equals plain", "save and load", "absence"])
        .eq("passed")
        .all()
    )


@pytest.mark.parametrize("name", ["forgetful guide", "NumPy's noise", "centred latents", "normal for gamma"])
def test_wrong_programs_break_the_contract(name):
    state.clear()
    wrong_model, wrong_guide, words = PROGRAMS[name]
    with pytest.raises(PairCheckError, match=rf"(?s)the pair failed contract.*{words}") as caught:
        check_pair(wrong_model, wrong_guide, X)
    assert caught.value.report.failed == ["contract"]


def one_that_fails(check):
    """A pair that passes what is asked of its first rows, and then fails one check."""
    encoder = nn.Linear(3, 2)
    modules = [("encoder", encoder)] + [("unused", nn.Linear(3, 2))] * (check == "idle")

    def wrong_model(x):
        with rows(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = spread(z)
            if check == "densities finite":
                mean = torch.where(x[..., :1] > X[7:, 0].max() - 1e-6, torch.inf, mean)
            if check == "rows independent" and len(x) > 10:
                mean = mean - mean.mean(-2, keepdim=True)
            if check == "same seed, same numbers":
                state["times"] = state.get("times", 0) + (len(x) > 10)
                mean = mean + 0.01 * state["times"]
            if check == "gradients finite":
                mean = mean + 0 * (mean - mean).abs().sqrt()
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def wrong_guide(x):
        for name, module in modules:
            pyro.module(name, module)
        with rows(x):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return wrong_model, wrong_guide


@pytest.mark.parametrize(
    "check, detail",
    [
        ("rows independent", "depends on the other rows"),
        ("densities finite", "log likelihood of 1 rows is NaN or infinite"),
        ("same seed, same numbers", "two runs from one seed differ"),
        ("gradients finite", "are NaN or infinite"),
    ],
)
def test_each_check_finds_what_it_is_for(check, detail):
    state.clear()
    report = check_pair(*one_that_fails(check), X, report_only=True)
    assert check in report.failed
    assert detail in report.table.set_index("check")["detail"][check]


def test_parameters_that_do_nothing_are_named():
    report = check_pair(*one_that_fails("idle"), X, report_only=True)
    assert report.failed == ["gradients finite"]
    assert "modules_1_1.weight, " in report.table.set_index("check")["detail"]["gradients finite"]


def test_weights_are_left_as_they_were():
    make, _ = PAIRS["composed"]
    vae = make()
    before = {name: tensor.clone() for name, tensor in vae.tensors().items()}
    check_pair(vae.model, vae.guide, binary_rows(20))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.tensors().items())
    assert all(p.grad is None for p in vae.parameters())
