"""What is wrong is refused in our words before any work, and what is right is done."""

import re
import traceback
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from tests.pairs import composed
from tests.robustness.wrong_calls import CALLS, DATA, RIGHT_DATA, ROWS
from tests.robustness.wrong_programs import PROGRAMS, X, state

ROOT = Path(__file__).parents[2]
# Our code says it, and not torch, Pyro or the program itself.
OURS = tuple(str(ROOT / folder) for folder in ("pyrovae", "models", "guides"))
# So long are the words that say what came, what was expected and what to do.
SHORTEST = 25


pytestmark = pytest.mark.filterwarnings("ignore")


def refused(call, words):
    """The call raises from our code, in these words."""
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    raised_in = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert raised_in.startswith(OURS), f"obscure: raised in {raised_in}: {caught.value!r}"
    assert re.search(words, str(caught.value), re.DOTALL), f"{words!r} is not in {str(caught.value)!r}"
    assert len(str(caught.value)) >= SHORTEST


def test_the_catalogue_is_long_enough():
    assert len(PROGRAMS) + len(DATA) + len(CALLS) >= 250


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("call", [pv.elbo, pv.fit], ids=["elbo", "fit"])
def test_wrong_programs(name, call):
    model, guide, words = PROGRAMS[name]
    state.clear()
    vae = pv.VAE(model, guide)
    refused(lambda: call(vae, X, **({"progress": False} if call is pv.fit else {})), words)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("call", ["elbo", "fit"])
def test_wrong_data(name, call):
    data, words = DATA[name]
    vae = composed()
    before = {key: value.clone() for key, value in vae.tensors().items()}
    if call == "fit":
        refused(lambda: pv.fit(vae, data, epochs=1, progress=False), words)
    elif name != "empty tuple":
        refused(lambda: pv.elbo(vae, *(data if isinstance(data, tuple) else (data,))), words)
    assert all(torch.equal(value, before[key]) for key, value in vae.tensors().items())


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name):
    refused(*CALLS[name])


@pytest.mark.parametrize("name", RIGHT_DATA)
def test_right_data(name):
    vae = composed()
    figures = [pv.elbo(vae, data, seed=0).elbo for data in (ROWS, RIGHT_DATA[name])]
    assert torch.equal(*figures)
    pv.fit(vae, RIGHT_DATA[name], epochs=1, progress=False)
