"""The page on objectives: its blocks run, in order, their own assertions hold, and its losses are what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

import pyrovae as pv
from pyrovae.data import Batch
from pyrovae.pair.running import row_terms
from pyrovae.random_state import fixed_seed
from pyrovae.training.batch_loss import batch_loss

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
WRITTEN = [block for block in BLOCKS if "(pv.objectives.RowObjective)" in block]
B = 9


@pytest.fixture(scope="module")
def page():
    """What the page has defined when all of its code has run."""
    namespace = {"__name__": "objectives_page"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


def test_the_pages_code_runs(page, capsys):
    assert len(BLOCKS) > 5
    assert {"Renyi", "TotalCorrelation", "MeanDiscrepancy"} <= set(page)


@pytest.mark.parametrize("block", WRITTEN, ids=lambda block: re.search(r"class (\w+)", block)[1])
def test_writing_ones_own_takes_few_lines(block):
    assert len(block.split("\n\n\n")[0].splitlines()) <= (14 if "Renyi" in block else 24)


def pair_with(page, broadcasts):
    """The page's pair, or one whose encoder takes rows alone."""
    if broadcasts:
        return page["vae"]
    network = page["encoder"].posterior.network

    def encode(rows):
        assert rows.dim() == 2
        return network(rows)

    class OnlyRows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            with page["pyro"].plate("rows", len(x)):
                location, raw = encode(x)
                noise = torch.zeros(len(x), 2)  # of this shape and no other
                q = page["dist"].Normal(location + noise, pv.nn.positive(raw)).to_event(1)
                z = page["pyro"].sample("z", q)
                assert z.dim() == 2

    return pv.VAE(page["model"], OnlyRows())


@pytest.mark.parametrize("broadcasts", [True, False])
def test_total_correlation_is_what_chen_et_al_write(page, broadcasts):
    vae, N, beta = pair_with(page, broadcasts), 50, 4.0
    x = page["x"][:B]
    vae.rows(x)
    assert vae.layout.guide_broadcasts == broadcasts
    with vae.scope(), fixed_seed(1, vae.device):
        found = page["TotalCorrelation"](N, beta=beta).evaluate(vae, Batch((x,))).value.detach()
    with vae.scope(), torch.no_grad(), fixed_seed(1, vae.device):
        z = row_terms(vae, Batch((x,)), 1).latents["z"].reshape(B, 2).double().numpy()
    posterior = page["encoder"].posterior(x)
    m, s = (a.detach().double().numpy() for a in (posterior.base_dist.loc, posterior.base_dist.scale))
    logits = page["model"].likelihood.network(torch.as_tensor(z).float()).detach().double().numpy()
    bits = x.double().numpy()
    for i in range(B):
        log_likelihood = (bits[i] * logits[i] - np.logaddexp(0, logits[i])).sum()
        rate = (0.5 * (m[i] ** 2 + s[i] ** 2 - 1) - np.log(s[i])).sum()
        under = np.array([[norm.logpdf(z[i, k], m[j, k], s[j, k]) for k in range(2)] for j in range(B)])
        joint = logsumexp(under.sum(1)) - np.log(N * B)
        marginals = sum(logsumexp(under[:, k]) - np.log(N * B) for k in range(2))
        expected = rate - log_likelihood + (beta - 1) * (joint - marginals)
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


def test_mean_discrepancy_is_that_of_the_draws_and_the_prior(page):
    vae, x = page["vae"], page["x"][:B]
    with vae.scope(), fixed_seed(1, vae.device):
        found = page["MeanDiscrepancy"](weight=3.0).evaluate(vae, Batch((x,)))
    with vae.scope(), torch.no_grad(), fixed_seed(1, vae.device):
        terms = row_terms(vae, Batch((x,)), 1)
        prior = torch.randn(1, B, 2)[0].double().numpy()
    z = terms.latents["z"].reshape(B, 2).double().numpy()

    def similarity(a, b):
        return np.mean([np.exp(-0.5 * ((u - v) ** 2).sum()) for u in a for v in b])

    distance = similarity(z, z) + similarity(prior, prior) - 2 * similarity(z, prior)
    np.testing.assert_allclose(found.value.detach(), 3 * distance - terms.log_likelihood[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["TotalCorrelation", "MeanDiscrepancy"])
def test_losses_over_a_batch_refuse_several_processes(page, name):
    objective = page[name](50) if name == "TotalCorrelation" else page[name]()
    with pytest.raises(ValueError, match="a row's loss depends on the batch's other rows"):
        batch_loss(page["vae"], objective).refuse_processes(2)
