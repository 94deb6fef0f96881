"""Other people's pairs through what users do first: each runs unchanged, or is refused with the remedy."""

import pytest
import torch

import pyrovae as pv
import tests.foreign_shared  # noqa: F401 - adds to the tables
from tests.foreign_pairs import PAIRS, REFUSED


def made(name):
    torch.manual_seed(0)
    model, guide, data = PAIRS[name][1]()
    return pv.VAE(model, guide), data


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_within_the_contract_run_unchanged(name, tmp_path):
    vae, data = made(name)
    history = pv.fit(vae, data, epochs=1, batch_size=6, seed=0, progress=False)
    assert bool(history.loss.notna().all())
    assert bool(pv.elbo(vae, *data, num_samples=2, seed=0).elbo.isfinite().all())
    assert bool(
        pv.log_marginal(vae, *data, num_samples=6, batch_size=5, seed=0).log_marginal.isfinite().all()
    )
    if vae.layout.latents:
        assert vae.encode(*data, num_samples=4, seed=0) is not None
    vae.save(tmp_path / "vae")
    vae.load(tmp_path / "vae")
    twin = made(name)[0].load(tmp_path / "vae")
    assert torch.equal(*(pv.elbo(v, *data, num_samples=2, seed=0).elbo for v in (vae, twin)))


@pytest.mark.parametrize("name", REFUSED)
def test_pairs_outside_it_are_refused_with_the_remedy(name):
    _, make, message = REFUSED[name]
    torch.manual_seed(0)
    model, guide, data = make()

    def train():
        return pv.fit(pv.VAE(model, guide), data, epochs=1, batch_size=6, progress=False)

    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        train()
