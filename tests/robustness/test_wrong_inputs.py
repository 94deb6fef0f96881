"""Inputs that would be computed with, and silently give something else than was meant."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from tests.pairs import binary_rows, composed

CALLS = {
    "fit": lambda vae, x: pv.fit(vae, x, epochs=1, progress=False),
    "elbo": pv.elbo,
    "rows": lambda vae, x: vae.rows(x),
}


def test_masked_entries_are_absent():
    x = np.ma.masked_array(binary_rows(8).numpy(), mask=np.zeros((8, 6)))
    assert torch.equal(composed().rows(x).arguments[0], binary_rows(8))
    x[5, 2] = np.ma.masked
    vae, absent = pv.VAE(composed().model), binary_rows(8)
    absent[5, 2] = torch.nan
    assert torch.equal(vae.rows(x).arguments[0].isnan(), absent.isnan())
    with pytest.raises(TypeError, match="x is a masked array of int64 with 1 masked entries"):
        vae.rows(np.ma.masked_array(x.data.astype(int), mask=x.mask))


TRANSFORMS = {
    "twice": lambda x: torch.cat([x, x]),
    "half": lambda x: x[::2],
    "context": lambda x: (x, x[:1]),
    "mean": lambda x: x.mean(),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("loader", [False, True])
def test_a_transform_keeps_the_number_of_rows(name, loader):
    data = binary_rows(16)
    data = torch.utils.data.DataLoader(data, batch_size=8) if loader else data
    with pytest.raises(ValueError, match=r"transform made (x|context 1) of shape .* out of \d+ rows"):
        pv.fit(composed(), data, transform=TRANSFORMS[name], epochs=1, progress=False)


def in_place(which):
    """A pair of which one program changes what it is given."""

    def model(x):
        if which == "model":
            x *= 2
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand_as(x), 1.0).to_event(1), obs=x)

    def guide(x):
        if which == "guide":
            x[x > 0] = 0.0
        weight = pyro.param("weight", torch.zeros(6))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, 1.0))

    return pv.VAE(model, guide)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("which", ["model", "guide"])
def test_a_program_that_changes_the_data_is_refused_and_they_are_as_they_were(which, call):
    x = binary_rows(8)
    with pytest.raises(ValueError, match=f"the {which} changes its arguments in place"):
        CALLS[call](in_place(which), x)
    assert torch.equal(x, binary_rows(8))
