"""Every model of the component table with every guide that fits it: fit, evaluate, generate, save, load."""

from __future__ import annotations

import pytest
import torch

import pyrovae as pv
from pyrovae.guides import AutoGuide
from pyrovae.models import HierarchicalModel
from tests.components import FAMILIES, GUIDES, MODELS

# One of all latents together: by a normal and by a flow here, and by every family in test_auto.py.
JOINT = ("FullNormal", "InverseAutoregressiveFlow")


def guides_of(name):
    for family in FAMILIES:
        yield family, lambda model, f=family: AutoGuide(model, family=FAMILIES[f], hidden=(6,))
    for family in JOINT:
        yield (
            f"{family}, joint",
            lambda model, f=family: AutoGuide(model, family=FAMILIES[f], joint=True, hidden=(6,)),
        )
    yield "by hand", None
    yield from ((guide, entry.make) for guide, entry in GUIDES.items() if entry.model == name)


PAIRS = [(name, guide) for name in MODELS for guide, _ in guides_of(name)]


def build(name, guide):
    torch.manual_seed(0)
    model, by_hand = MODELS[name].make()
    make = dict(guides_of(name))[guide]
    return pv.VAE(model, by_hand if make is None else make(model))


@pytest.mark.parametrize("name, guide", PAIRS, ids=[f"{n}-{g}" for n, g in PAIRS])
def test_runs_through_everything(name, guide, tmp_path):
    vae, data = build(name, guide), MODELS[name].data(12)
    cannot = {"DeepMarkovModel", "LinearGaussianChain"} if guide.endswith("joint") else set()
    if name in cannot:
        with pytest.raises(ValueError, match="use joint=False"):
            vae.rows(*data)
        return
    pv.fit(vae, data, epochs=1, batch_size=6, seed=0, progress=False)
    vae.save(tmp_path / "vae")
    fresh = build(name, guide).load(tmp_path / "vae")
    for result in (pv.elbo, pv.log_marginal):
        a, b = (result(v, *data, num_samples=8, seed=1).to_frame() for v in (vae, fresh))
        assert a.equals(b)
        assert torch.tensor(a.drop(columns="khat", errors="ignore").to_numpy()).isfinite().all()
    drawn = vae.generate(12, *data[1:])
    assert len(drawn if isinstance(drawn, torch.Tensor) else next(iter(drawn.values()))) == 12
    assert isinstance(vae.model, HierarchicalModel) == (name == "HierarchicalModel")
