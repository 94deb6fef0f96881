"""Every objective over every pair of the component table: it runs, trains every parameter, and agrees with `elbo`."""

import pytest
import torch

import pyrovae as pv
from pyrovae import objectives
from pyrovae.data import Batch
from pyrovae.objectives import ELBO, FIVO, IWAE, FreeBits, ReweightedWakeSleep, RowObjective
from pyrovae.random_state import fixed_seed
from tests.components import MODELS

OBJECTIVES = {
    "ELBO": lambda: ELBO(2, beta=0.5),
    "sampled rate": lambda: ELBO(2, analytic_kl=False),
    "sticking the landing": lambda: ELBO(2, sticking_the_landing=True),
    "free bits": lambda: ELBO(2, free_bits=FreeBits(1e-4)),
    "free bits by dimension": lambda: ELBO(2, free_bits=FreeBits(1e-4, per_dimension=True)),
    "IWAE": lambda: IWAE(3),
    "MIWAE": lambda: IWAE(2, num_bounds=2),
    "DReG": lambda: IWAE(2, num_bounds=2, doubly_reparameterized=True),
    "FIVO": lambda: FIVO(3),
    "FIVO, with resampling": lambda: FIVO(3, resampling_gradient=True),
    "reweighted wake-sleep": lambda: ReweightedWakeSleep(3),
}
# Nothing but enumerated latents has no rate; a chain is one site whose steps depend on each other, and nothing else can
# be gone through step by step.
CHAINS = {"DeepMarkovModel", "LinearGaussianChain"}
REFUSED = {
    *(
        (name, objective)
        for name in MODELS.keys() - CHAINS
        for objective in OBJECTIVES
        if "FIVO" in objective
    ),
    ("LinearGaussianChain", "free bits by dimension"),
    ("GaussianMixture", "free bits"),
    ("GaussianMixture", "free bits by dimension"),
    ("DeepMarkovModel", "free bits by dimension"),
}


def test_every_public_objective_is_in_the_table():
    public = {getattr(objectives, name) for name in objectives.__all__}
    made = {type(make()) for make in OBJECTIVES.values()}
    subclasses = {c for c in public if isinstance(c, type) and issubclass(c, RowObjective)}
    assert subclasses - {RowObjective} == made


def build(name):
    torch.manual_seed(0)
    vae = pv.VAE(*MODELS[name].make())
    data = MODELS[name].data(6)
    vae.rows(*data)
    return vae, data


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(name, objective):
    vae, data = build(name)
    with vae.scope(), fixed_seed(1, vae.device):
        if (name, objective) in REFUSED:
            with pytest.raises(
                ValueError, match="free bits need a rate|has no rate by dimension|going step by step needs"
            ):
                OBJECTIVES[objective]().evaluate(vae, Batch.of(data))
            return
        losses = OBJECTIVES[objective]().evaluate(vae, Batch.of(data))
    assert losses.value.shape == losses.surrogate.shape == (6,)
    assert losses.rate.shape == losses.log_likelihood.shape
    for parameter_name, p in vae.named_parameters():
        (gradient,) = torch.autograd.grad(losses.surrogate.sum(), p, retain_graph=True, allow_unused=True)
        assert gradient is not None, parameter_name
        assert bool(gradient.isfinite().all()), parameter_name
        assert bool((gradient != 0).any()), parameter_name


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_are_those_of_the_true_elbo(name, objective):
    """Whatever the loss: log likelihood and rate, over many draws, are what `elbo` tells, within 6 errors."""
    if (name, objective) in REFUSED:
        return
    vae, data = build(name)
    made = OBJECTIVES[objective]()
    times = 200 if isinstance(made, FIVO) else 1  # its parts are one draw's
    if isinstance(made, IWAE):
        made = IWAE(100, num_bounds=2, doubly_reparameterized=made.doubly_reparameterized)
    else:
        made.num_samples = 200
    with vae.evaluating(), fixed_seed(1, vae.device):
        losses = made.evaluate(vae, Batch.of(data).repeated(times))
    bound = (losses.log_likelihood - losses.rate).double().reshape(-1, 6)
    reference = pv.elbo(vae, *data, num_samples=1000, seed=0)
    error = (bound.var(0) / len(bound) + reference.std_error**2).sqrt()
    assert bool(((bound.mean(0) - reference.elbo).abs() < 6 * error + 1e-4).all())
