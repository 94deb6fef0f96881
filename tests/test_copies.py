"""Copies of a VAE: copied, pickled or saved by torch, it gives what it gave, to the bit, and can be trained on."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal
from tests.components import FAMILIES, GUIDES, LIKELIHOODS, MODELS, POSTERIORS, PRIORS, D, K, guide, net
from tests.guides.catalogue import CATALOGUE
from tests.pairs import PAIRS, binary_rows

ROWS = 9


def saved_by_torch(vae):
    file = io.BytesIO()
    torch.save(vae, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda vae: pickle.loads(pickle.dumps(vae)),
    "torch.save": saved_by_torch,
}


def binary():
    return (torch.bernoulli(torch.full((ROWS, D), 0.5)),)


def of_prior(entry, *, derived):
    return pv.VAE(LatentVariableModel(entry.make(1), Bernoulli(net(K, D))), None if derived else guide(D))


def of_likelihood(entry):
    return pv.VAE(LatentVariableModel(StandardNormal(K), entry.make(K)))


def of_posterior(entry):
    model = LatentVariableModel(StandardNormal(K), Bernoulli(net(K, D)))
    return pv.VAE(model, pv.guides.AmortizedGuide(entry.make(lambda sizes: net(D, sizes), K)))


def of_family(family):
    model = LatentVariableModel(StandardNormal(K), Bernoulli(net(K, D)))
    return pv.VAE(model, pv.guides.AutoGuide(model, family=family))


def of_guide(entry):
    model = MODELS[entry.model].make()[0]
    return pv.VAE(model, entry.make(model))


def with_context(entry):
    x = entry.data(ROWS)
    return (x, *entry.context(x))


# name: constructor of a VAE, data
CASES = {
    f"prior: {name}, {'derived guide' if derived else 'guide'}": (
        lambda e=e, d=derived: of_prior(e, derived=d),
        binary,
    )
    for name, e in PRIORS.items()
    for derived in (True, False)
    if not e.conditional
}
CASES |= {
    f"likelihood: {name}": (lambda e=e: of_likelihood(e), lambda e=e: with_context(e))
    for name, e in LIKELIHOODS.items()
}
CASES |= {
    f"model: {name}": (lambda e=e: pv.VAE(*e.make()), lambda e=e: e.data(ROWS)) for name, e in MODELS.items()
}
CASES |= {
    f"model: {name}, derived guide": (lambda e=e: pv.VAE(e.make()[0]), lambda e=e: e.data(ROWS))
    for name, e in MODELS.items()
}
CASES |= {f"posterior: {name}": (lambda e=e: of_posterior(e), binary) for name, e in POSTERIORS.items()}
CASES |= {f"family: {name}": (lambda f=f: of_family(f), binary) for name, f in FAMILIES.items()}
CASES |= {
    f"guide: {name}": (lambda e=e: of_guide(e), lambda e=e: MODELS[e.model].data(ROWS))
    for name, e in GUIDES.items()
}
CASES |= {
    f"declared: {name}": (lambda e=e: pv.VAE(e.model), lambda e=e: (torch.rand(ROWS, e.columns).round(),))
    for name, e in CATALOGUE.items()
    if name != "simplex"
}


def figures(vae, data):
    given = {
        "elbo": pv.elbo(vae, *data, num_samples=2, seed=0).elbo,
        "log_marginal": pv.log_marginal(vae, *data, num_samples=4, seed=0).log_marginal,
        **vae.sample_posterior(*data, num_samples=2, seed=0),
    }
    if vae.layout.latents and not any(site.family == "Categorical" for site in vae.layout.latents.values()):
        means = vae.encode(*data, seed=0)
        given |= (
            {"mean": means}
            if isinstance(means, torch.Tensor)
            else {f"mean of {n}": m for n, m in means.items()}
        )
    return given


def trained(vae, data):
    return pv.fit(vae, data, epochs=1, batch_size=4, seed=0, progress=False, compile=False).loss.iloc[-1]


@pytest.mark.parametrize("name", CASES)
def test_copies_give_what_the_original_gives(name):
    make, data = CASES[name]
    torch.manual_seed(0)
    vae, data = make(), data()
    vae.rows(*data)
    trainable = any(parameter.requires_grad for parameter in vae.parameters())
    if trainable:
        trained(vae, data)
    before = figures(vae, data)
    twin = vae
    for copied in COPIES.values():  # what one of them loses the others cannot find again
        twin = copied(twin)
    after = figures(twin, data)
    assert not [what for what in before if not torch.equal(after[what], before[what])]
    if trainable:  # apart from each other, and on from the same weights
        loss = trained(twin, data)
        assert all(torch.equal(figure, before[what]) for what, figure in figures(vae, data).items())
        assert trained(vae, data) == loss


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_of_refined_posteriors(copied, full):
    entry = MODELS["LatentVariableModel"]
    torch.manual_seed(0)
    data = entry.data(ROWS)
    vae = pv.VAE(entry.make()[0], example=data)
    refined = pv.refine(vae, *data, full_covariance=full, num_steps=20, num_samples=10, seed=0).vae
    before, after = figures(refined, data), figures(copied(refined), data)
    assert all(torch.equal(figure, after[what]) for what, figure in before.items())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", ["declared", "methods"])
def test_copies_of_modules_by_hand(name, copied):
    make, context = PAIRS[name]
    vae, data = make(), (binary_rows(ROWS), *context(ROWS))
    before, after = figures(vae, data), figures(copied(vae), data)
    assert all(torch.equal(figure, after[what]) for what, figure in before.items())


DECODER, ENCODER = nn.Linear(2, D), nn.Linear(D, 2)


def model_around_a_module(x):
    pyro.module("decoder", DECODER)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=DECODER(z)).to_event(1), obs=x)


def guide_around_a_module(x):
    pyro.module("encoder", ENCODER)
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(ENCODER(x), 1.0).to_event(1))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_functions_hold_on_to_their_modules(copied):
    """A pickled function is its name: where it is loaded it would run the modules that it finds there."""
    vae = pv.VAE(model_around_a_module, guide_around_a_module, example=binary())
    with pytest.raises(TypeError, match="a VAE of plain functions cannot be copied"):
        copied(vae)
